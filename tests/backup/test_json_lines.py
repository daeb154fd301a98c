"""JSON lines: what they look like, and those that are made by hand."""

from __future__ import annotations

import base64
import json
import time
from pathlib import Path
from zlib import crc32

import pytest
from support.backups import shell, table_of
from support.tables import verb

import memcache_shm
from memcache_shm.client.items import STALE, TOKEN_SENT, Item, pack, unpack
from memcache_shm.client.snapshot import Snapshot
from memcache_shm.errors import BackupError
from memcache_shm.ops import backups


def test_what_they_look_like(source: memcache_shm.Cache, here: Path) -> None:
    source.set("text", "ключ \u2028 \x1b[31m\n".encode())
    began_s = time.time()
    assert verb("backup", "--format", "jsonl", "source", str(here / "b")).returncode == 0
    data = (here / "b").read_bytes()
    assert all(byte == 0x0A or 0x20 <= byte < 0x7F for byte in data)
    lines = [json.loads(line) for line in data.splitlines()]
    head, items, end = lines[0], lines[1:-1], lines[-1]
    assert (head["memcache_shm"], head["version"], head["source"], head["consistency"]) == ("backup", 1, "source", "one instant")
    assert began_s - 1 <= head["created"] <= time.time()
    found = {item.get("key") or base64.b64decode(item["key_base64"]): item for item in items}
    assert len(found) == 510
    _, cas = source.gets("plain")
    assert found["plain"] == {"key": "plain", "value": "value", "flags": 7, "exptime": 0, "cas": int(cas)}
    assert found["text"]["value"] == "ключ \u2028 \x1b[31m\n"
    assert found[b"\0\1\2\xff"] == {"key_base64": "AAEC/w==", "value": "b\r\r", "flags": 0, "exptime": 0, "cas": 1234567890123}
    assert 999 <= found["expiring"]["exptime"] - began_s <= 1001 + 1
    assert found["stale_and_won"] | {"cas": 0} == {
        "key": "stale_and_won", "value": "x", "flags": 0, "exptime": 0, "cas": 0, "stale": True, "token_sent": True,
    }  # fmt: skip
    assert [item["key"] for item in items if "stale" in item] != []
    taken = Snapshot(source)
    assert end["end"] == {"items": 510, "bytes": taken.bytes, "highest_cas": taken.highest_cas}
    covered = data[: data.rindex(b', "crc32"')]
    assert end["crc32"] == f"{crc32(covered):08x}"


def test_lines_made_by_hand(target: memcache_shm.Cache, here: Path) -> None:
    """Only key and value must be there; empty lines do not matter."""
    far = int(time.time()) + 1000
    (here / "b").write_text(
        f"""
        {{"key": "a", "value": "1"}}
        {{"value_base64": "/w==", "key_base64": "AA==", "flags": 5, "exptime": {far}.5, "cas": 77, "stale": true, "token_sent": false}}

        {{"key": "ж", "value": "", "exptime": 0, "token_sent": true}}
        {{"key": "over", "value": "", "exptime": 1}}
        {{"key": "a", "value": "the last one counts"}}"""
    )
    result = verb("restore", str(here / "b"), "target")
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout.startswith("4 items restored to target in ")
    assert result.stdout.endswith("; 1 over by now\n")
    found = table_of(target)
    assert found.keys() == {b"a", b"\0", "ж".encode()}
    assert found[b"a"].value == b"the last one counts"
    assert found[b"\0"]._replace(expires_ms=0) == Item(b"\0", b"\xff", 5, 0, 77, STALE)
    assert abs(found[b"\0"].expires_ms - far * 1000 - 500) <= 125
    assert found["ж".encode()].state == TOKEN_SENT
    assert int(target.gets("a")[1]) > 77


WRONG = {
    '{"key": "a"}': "has no value or value_base64",
    '{"value": "a"}': "has no key or key_base64",
    '{"key": "a", "value": "b", "value_base64": ""}': "has both value and value_base64",
    '{"key": "a", "value": "b", "ttl": 5}': "has a field 'ttl', which no item has",
    '{"key": "", "value": "b"}': "has a key of 0 bytes; 1 to 250 are possible",
    '{"key": "%s", "value": "b"}' % ("ж" * 126): "has a key of 252 bytes; 1 to 250 are possible",
    '{"key": 5, "value": "b"}': 'has a key that is no text; write "key": "..."',
    '{"key": "a", "value": ["b"]}': 'has a value that is no text; write "value": "..."',
    '{"key": "a", "value": "\\ud800"}': "has a value that is no text",
    '{"key": "a", "value_base64": "b"}': "has a value that is no base64",
    '{"key": "a", "value_base64": "ж"}': "has a value that is no base64",
    '{"key": "a", "value": "b", "flags": 4294967296}': "has flags 4294967296; a whole number from 0 to 4294967295 is possible",
    '{"key": "a", "value": "b", "flags": -1}': "has flags -1;",
    '{"key": "a", "value": "b", "flags": true}': "has flags True;",
    '{"key": "a", "value": "b", "flags": 1.0}': "has flags 1.0;",
    '{"key": "a", "value": "b", "cas": 18446744073709551616}': "has cas 18446744073709551616;",
    '{"key": "a", "value": "b", "exptime": -1}': "has exptime -1; seconds of unix time are possible, or 0 for never",
    '{"key": "a", "value": "b", "exptime": NaN}': "has exptime nan;",
    '{"key": "a", "value": "b", "exptime": 1e300}': "has exptime 1e+300;",
    '{"key": "a", "value": "b", "exptime": "soon"}': "has exptime 'soon';",
    '{"key": "a", "value": "b", "stale": 1}': "has stale 1; true or false are possible",
    '["a", "b"]': "is no JSON object",
    '{"key": "a", "value": "b"': "is no JSON, or not whole",
    '{"key": "a", "value": "b"} {"key": "c", "value": "d"}': "is no JSON, or not whole",
    "[" * 100_000: "is no JSON, or not whole",
    "a b": "is no JSON, or not whole",
}


@pytest.mark.parametrize("line", WRONG, ids=range(len(WRONG)))
def test_a_line_that_is_wrong(target: memcache_shm.Cache, here: Path, line: str) -> None:
    """Is told with its number, and nothing is written of those before it."""
    path = here / "b"
    path.write_text('{"key": "before", "value": "x"}\n' + line + "\n")
    with pytest.raises(BackupError) as caught:
        backups.load(str(path), target)
    assert str(caught.value).startswith(f"{path}: line 2 {WRONG[line]}")
    assert len(str(caught.value)) < 300
    assert len(target) == 0


def test_expiry_that_no_clock_of_ours_reaches(target: memcache_shm.Cache, here: Path) -> None:
    """It is never then, which is told."""
    far = int(time.time()) + 18 * 365 * 86400
    (here / "b").write_text("".join(json.dumps({"key": key, "value": "", "exptime": far if key != "a" else 0}) + "\n" for key in "abcd"))
    result = verb("restore", str(here / "b"), "target")
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout.endswith("; 3 for ever, since this host's clock does not reach to their expiry\n")
    assert {item.expires_ms for item in table_of(target).values()} == {0}


def test_nothing_in_it(target: memcache_shm.Cache, here: Path) -> None:
    (here / "b").write_text("{}\n")
    assert "line 1 has no key or key_base64" in verb("restore", str(here / "b"), "target").stderr
    (here / "b").write_text("\n\n  {")
    assert "line 3 is no JSON, or not whole" in verb("restore", str(here / "b"), "target").stderr


def test_other_programs_read_and_write_them(source: memcache_shm.Cache, target: memcache_shm.Cache, here: Path) -> None:
    """Lines out of a backup, without its first and last, are lines made by hand."""
    command = "memcache-shm backup --format jsonl source - | grep '\"flags\": 7[,}]' | memcache-shm restore - target"
    assert shell(command, here).returncode == 0
    assert table_of(target) == {key: item for key, item in table_of(source).items() if item.flags == 7}


def test_keys(source: memcache_shm.Cache, here: Path) -> None:
    """As `mgdump`: what cannot be sent as it is comes in base64. Who may only read may list them."""
    result = verb("backup", "--format", "keys", "source", "-")
    assert (result.returncode, result.stderr) == (0, "memcache-shm: 509 keys of source listed\n")
    lines = result.stdout.splitlines()
    assert lines[-1] == "EN"
    assert "mg plain" in lines
    assert "mg AAEC/w== b" in lines
    assert len(set(lines)) == 510
    result = verb("backup", "--format", "keys", "--json", "source", str(here / "k"))
    assert json.loads(result.stdout) == {"source": "source", "file": str(here / "k"), "format": "keys", "items": 509}
    assert sorted((here / "k").read_bytes().splitlines()) == sorted(line.encode() for line in lines)
    (here / "k").write_bytes(b"")


def test_packed_items_are_those(source: memcache_shm.Cache) -> None:
    """The form within both files."""
    items = list(Snapshot(source))
    assert list(unpack(b"".join(map(pack, items)))) == items
