"""A file that is not whole is refused before anything is written: whatever is altered, wherever it is cut, whichever block is missing."""

from __future__ import annotations

import json
import re
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from zlib import crc32

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.backups import shell, table_of
from support.doors import open_door
from support.tables import verb

import memcache_shm
from memcache_shm.client.items import HEAD, Item, pack
from memcache_shm.errors import BackupError
from memcache_shm.ops import backups
from memcache_shm.ops.backup_file import FileWriter
from memcache_shm.ops.backup_lines import LinesWriter
from memcache_shm.ops.backup_parts import Facts, Piece, Step

FORMS = ("binary", "jsonl")
ITEMS = [Item(b"key", b"value", 7, 0, 3), Item(b"\xff\0", b"\xfe" * 20, 0, 2_100_000_000_000, 9, 2), Item(b"empty", b"", 0, 0, 4)]


def written(form: str, pieces: int = 1, source: str = "app") -> bytes:
    """A small backup, of so many blocks."""
    out = bytearray()
    writer: Any = (FileWriter if form == "binary" else LinesWriter)(out.extend)
    writer.begin(Facts(source, "one instant", 1_795_678_675.5))
    for number in range(pieces):
        packed = b"".join(pack(item._replace(key=item.key + b"%d" % number)) for item in ITEMS)
        writer.add(Piece(packed, len(ITEMS)))
    writer.end(17)
    return bytes(out)


@pytest.fixture
def refuses(target: memcache_shm.Cache, here: Path) -> Iterator[Callable[[bytes], str]]:
    """A function that sees that a file is refused, and gives the reason; in the end the table is as it was."""
    target.set("there", b"before")
    before = table_of(target)
    path = here / "b"

    def see(data: bytes) -> str:
        path.write_bytes(data)
        with pytest.raises(BackupError) as caught:
            backups.load(str(path), target)
        text = str(caught.value)
        assert text.startswith(f"{path}: ")
        assert "\n" not in text
        return text.removeprefix(f"{path}: ")

    yield see
    assert table_of(target) == before


@pytest.mark.parametrize("form", FORMS)
def test_the_file_itself_is_right(target: memcache_shm.Cache, here: Path, form: str) -> None:
    (here / "b").write_bytes(written(form, 2))
    loaded = backups.load(str(here / "b"), target)
    assert loaded.items == 6
    assert loaded.facts == Facts("app", "one instant", 1_795_678_675.5)
    found = table_of(target)[b"\xff\x001"]
    assert abs(found.expires_ms - ITEMS[1].expires_ms) < 125
    assert found._replace(expires_ms=0) == ITEMS[1]._replace(key=b"\xff\x001", expires_ms=0)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("flipped", [0x01, 0x20, 0x80])
def test_each_byte_altered(refuses: Callable[[bytes], str], form: str, flipped: int) -> None:
    whole = written(form)
    for at in range(len(whole)):
        refuses(whole[:at] + bytes([whole[at] ^ flipped]) + whole[at + 1 :])


@pytest.mark.parametrize("form", FORMS)
def test_each_byte_missing_or_twice_there(refuses: Callable[[bytes], str], form: str) -> None:
    whole = written(form)
    for at in range(len(whole)):
        refuses(whole[:at] + whole[at + 1 :])
        refuses(whole[:at] + whole[at : at + 1] + whole[at:])


@pytest.mark.parametrize("form", FORMS)
def test_cut_off_anywhere(refuses: Callable[[bytes], str], form: str) -> None:
    whole = written(form, 2)
    reasons = {refuses(whole[:size]) for size in range(len(whole))}
    assert len(reasons) > 3
    for data in (whole + b"x", whole + b"\n", whole + whole, whole[1:], b"\0" + whole):
        refuses(data)


@settings(deadline=None, max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data(), form=st.sampled_from(FORMS))
def test_anything_in_place_of_a_stretch(refuses: Callable[[bytes], str], data: Any, form: str) -> None:
    whole = written(form, 3)
    start = data.draw(st.integers(0, len(whole)))
    end = data.draw(st.integers(start, len(whole)))
    put = data.draw(st.one_of(st.binary(max_size=40), st.integers(0, len(whole)).map(lambda at: whole[at : at + 100])))
    if (altered := whole[:start] + put + whole[end:]) != whole:
        refuses(altered)


def blocks_of(whole: bytes) -> list[bytes]:
    """The line at the beginning, and the blocks."""
    line, at = whole.index(b"\n") + 1, whole.index(b"\n") + 1
    found = [whole[:line]]
    while at < len(whole):
        size = 20 + struct.unpack_from("<I", whole, at + 4)[0]
        found.append(whole[at : at + size])
        at += size
    return found


def parts_of(whole: bytes, form: str) -> list[bytes]:
    return blocks_of(whole) if form == "binary" else whole.splitlines(keepends=True)


@pytest.mark.parametrize("form", FORMS)
def test_parts_that_are_missing_or_in_another_order(refuses: Callable[[bytes], str], form: str) -> None:
    """Each of them is right in itself."""
    parts = parts_of(written(form, 3), form)
    assert len(parts) >= 5
    for at in range(len(parts)):
        refuses(b"".join(parts[:at] + parts[at + 1 :]))
        refuses(b"".join(parts[: at + 1] + parts[at:]))
        for other in range(at):
            refuses(b"".join([*parts[:other], parts[at], *parts[other + 1 : at], parts[other], *parts[at + 1 :]]))


def test_blocks_of_another_backup(refuses: Callable[[bytes], str]) -> None:
    """Of the same size, and with the same number."""
    one, other = (blocks_of(written("binary", 3, source)) for source in ("app", "APP"))
    for at in range(2, len(one)):
        refuses(b"".join([*one[:at], *other[at:]]))


def test_the_reason_is_told(refuses: Callable[[bytes], str]) -> None:
    whole = written("binary", 3)
    altered = whole.replace(b"key1value", b"key1other")
    assert re.fullmatch(r"block 3 \(from byte \d+ on\) is altered; use another backup", refuses(altered))
    assert re.fullmatch(r"cut off after 300 bytes, in block \d; the rest is missing", refuses(whole[:300]))
    assert refuses(whole + b"abc") == "3 bytes behind its end, which do not belong to it"
    newer = r"made by a newer version \(its form is 2, this one reads 1\); restore it with that"
    assert re.fullmatch(newer, refuses(whole.replace(b"backup 1\n", b"backup 2\n")))
    assert re.fullmatch(newer, refuses(written("jsonl").replace(b'"version": 1', b'"version": 2')))
    keys = "a list of keys has no values to restore; make a backup with '--format binary' or 'jsonl'"
    assert refuses(b"mg key\r\nEN\r\n") == refuses(b"EN\r\n") == keys
    assert refuses(b"") == "empty; no backup"
    for other in (b"\x7fELF" + bytes(1000), b"hello\n", b"\xff" * 100, b"[1]"):
        assert refuses(other).startswith("no backup of memcache-shm (")
    lines = written("jsonl").splitlines(keepends=True)
    assert refuses(b"".join(lines[:-1])) == "cut off after line 4: its last line is missing"
    assert refuses(b"".join(lines[1:])) == "line 4 is an end, but there is no beginning: the first line is altered or missing"
    assert refuses(b"".join(lines).replace(b"value", b"VALUE", 2)).startswith("line 2 has a field 'VALUE'")
    assert refuses(b"".join(lines).replace(b'"value": "value"', b'"value": "other"')).startswith("altered: the checksum of its lines")


def sealed(*blocks: tuple[bytes, bytes, int]) -> bytes:
    """A file of these (kind, content, items) whose checksums are right."""
    out = b"memcache_shm backup 1\n"
    chain = crc32(out)
    for kind, content, items in blocks:
        header = struct.pack("<4sIII", kind, len(content), items, crc32(content))
        chain = crc32(header, chain)
        out += header + struct.pack("<I", chain) + content
    return out


def end(items: Any, size: Any, highest_cas: Any = 1) -> tuple[bytes, bytes, int]:
    return b"END!", json.dumps({"items": items, "bytes": size, "highest_cas": highest_cas}).encode(), 0


BEGIN = (b"HEAD", b"{}", 0)
ONE = pack(ITEMS[0])


def test_what_was_made_by_somebody_else(refuses: Callable[[bytes], str], target: memcache_shm.Cache, here: Path) -> None:
    """Right checksums, and no sense."""
    files = [
        sealed((b"ITEM", ONE, 1), end(1, len(ONE))),
        sealed((b"HEAD", b"[]", 0), end(0, 0)),
        sealed((b"HEAD", b"{", 0), end(0, 0)),
        sealed((b"HEAD", b"[" * 70_000, 0), end(0, 0)),
        sealed(BEGIN, BEGIN, end(0, 0)),
        sealed(BEGIN, (b"ITEM", ONE, 2), end(2, len(ONE))),
        sealed(BEGIN, (b"ITEM", ONE[:-1], 1), end(1, len(ONE) - 1)),
        sealed(BEGIN, (b"ITEM", ONE + b"x", 1), end(1, len(ONE) + 1)),
        sealed(BEGIN, (b"ITEM", HEAD.pack(0, 0, 0, 0, 0, 0, 0), 1), end(1, 28)),
        sealed(BEGIN, (b"ITEM", HEAD.pack(2**32 - 1, 0, 0, 0, 1, 0, 0) + b"k", 1), end(1, 29)),
        sealed(BEGIN, (b"ITEM", HEAD.pack(0, 0, -1, 0, 1, 0, 0) + b"k", 1), end(1, 29)),
        sealed(BEGIN, (b"ITEM", HEAD.pack(0, 0, 0, 0, 251, 0, 0) + b"k" * 251, 1), end(1, 279)),
        sealed(BEGIN, (b"ITEM", HEAD.pack(0, 0, 0, 0, 1, 8, 0) + b"k", 1), end(1, 29)),
        sealed(BEGIN, (b"ITEM", ONE, 1), end(2, len(ONE))),
        sealed(BEGIN, (b"ITEM", ONE, 1), end(1, len(ONE) + 1)),
        sealed(BEGIN, (b"ITEM", ONE, 1), end(1, len(ONE), -1)),
        sealed(BEGIN, (b"ITEM", ONE, 1), end(1, len(ONE), 2**64)),
        sealed(BEGIN, (b"ITEM", ONE, 1), end(1, len(ONE), "1")),
        sealed(BEGIN, (b"ITEM", ONE, 1)),
    ]
    for data in files:
        refuses(data)
    # Beside them, one that makes sense, and what may be said in its head is not believed.
    said = json.dumps({"created": "x", "source": 5, "new": [1]}).encode()
    (here / "right").write_bytes(sealed((b"HEAD", said, 0), (b"ITEM", ONE, 1), end(1, len(ONE))))
    loaded = backups.load(str(here / "right"), target)
    assert (loaded.items, loaded.facts.created_s) == (1, 0.0)
    target.delete("key")


def test_highest_ids_that_nobody_had(target: memcache_shm.Cache, here: Path) -> None:
    """They do not use up the table's own."""
    (here / "b").write_bytes(sealed(BEGIN, (b"ITEM", ONE, 1), end(1, len(ONE), 2**64 - 1)))
    assert backups.load(str(here / "b"), target).items == 1
    for number in range(3):
        target.set("key", b"%d" % number)
        assert target.cas("key", b"x", target.gets("key")[1])
    assert open_door(target.attached_table).answer(b"mg key v\r\n") == b"VA 1\r\nx\r\n"


def test_a_file_that_is_altered_while_it_is_restored(target: memcache_shm.Cache, here: Path) -> None:
    """It was right when it was verified; what is wrong now is not written."""
    path = here / "b"
    with path.open("wb") as file:
        writer = FileWriter(file.write)
        writer.begin(Facts())
        for number in range(3):
            writer.add(Piece(pack(Item(b"key%d" % number, b"value" * 20_000, 0, 0, 1)), 1))
        writer.end(1)

    def alter(step: Step) -> None:
        if step.doing == "restoring":
            path.write_bytes(path.read_bytes().replace(b"key2value", b"key2other"))

    with pytest.raises(BackupError, match=r"block 4 .* is altered; .*; it was whole before, and a part of it is in the table now$"):
        backups.load(str(path), target, alter)
    assert b"key2" not in table_of(target)


@pytest.mark.parametrize("form", FORMS)
def test_the_verb_says_so_in_one_line(target: memcache_shm.Cache, here: Path, form: str) -> None:
    """Also of what comes from a pipe, which is put by and verified first."""
    target.set("there", b"before")
    before = table_of(target)
    whole = written(form)
    (here / "b").write_bytes(whole[:-3])
    result = verb("restore", str(here / "b"), "target")
    assert (result.returncode, result.stdout) == (1, "")
    assert re.fullmatch(rf"memcache-shm: error: {here}/b: .*\n", result.stderr)
    for command in (f"head -c {len(whole) - 1} whole | memcache-shm restore - target", "memcache-shm restore --replace <(cat b) target"):
        (here / "whole").write_bytes(whole)
        result = shell(command, here)
        assert (result.returncode, result.stdout) == (1, "")
        assert re.fullmatch(r"memcache-shm: error: (standard input|/dev/fd/\d+): .*\n", result.stderr)
    assert table_of(target) == before


def end_line(whole: bytes, end: bytes) -> bytes:
    """The lines of a backup with another end, whose checksum is right."""
    lines = whole[: whole.rindex(b"\n", 0, -1) + 1]
    return lines + end + b', "crc32": "%08x"}\n' % crc32(end, crc32(lines))


@pytest.mark.parametrize(
    "end",
    [
        b'{"end": {garbage}',
        b'{"end": {}, "end": 3, "x": {}',
        b'{"end": {}',
        b'{"end": {"highest_cas": "1"}',
        b'{"end": {"x": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
        b'{"end": {"x": ' + b"9" * 10_000 + b"}",
    ],
)
def test_ends_that_somebody_made_up(refuses: Callable[[bytes], str], end: bytes) -> None:
    assert re.fullmatch(r"line 8 (makes no sense|is cut off or altered)", refuses(end_line(written("jsonl", 2), end)))


def test_heads_that_somebody_made_up(target: memcache_shm.Cache, here: Path) -> None:
    """Nothing of them gets to a terminal as it is, and what is no text at all is left out."""
    head = {"source": "app\ud800\x1b[31m\n", "program": ["x"] * 100, "consistency": {"a": 1}, "created": [1]}
    lines = written("jsonl").splitlines(keepends=True)
    lines[0] = json.dumps({"memcache_shm": "backup", "version": 1} | head).encode() + b"\n"
    end = lines.pop()[: -len(b', "crc32": "00000000"}\n')]
    (here / "b").write_bytes(b"".join(lines) + end + b', "crc32": "%08x"}\n' % crc32(b"".join(lines) + end))
    result = verb("restore", str(here / "b"), "target")
    assert (result.returncode, result.stderr) == (0, "")
    assert re.fullmatch(r"3 items of app\\ud800\\x1b\[31m\\n restored to target in .* s\n", result.stdout)
    result = verb("restore", "--json", str(here / "b"), "target")
    assert json.loads(result.stdout)["facts"] == {"source": head["source"], "consistency": "", "created": 0.0, "program": ""}
    (here / "b").write_bytes(written("binary", source="s" * 60_000))
    assert verb("restore", str(here / "b"), "target").stdout.startswith(f"3 items of {'s' * 250}, made ")


def test_lines_that_another_program_wrote_anew(target: memcache_shm.Cache, here: Path) -> None:
    """Such as `jq -c`: what helps is told, and helps."""
    whole = [json.loads(line) for line in written("jsonl").splitlines()]
    for sort_keys in (False, True):
        compact = [json.dumps(line, separators=(",", ":"), sort_keys=sort_keys) for line in whole]
        (here / "b").write_text("\n".join(compact) + "\n")
        result = verb("restore", str(here / "b"), "target")
        assert (result.returncode, len(target)) == (1, 0)
        assert re.search(
            r": line 5 is an end as another program wrote it, so the checksum in it says nothing any more; "
            r"use another backup, or where that was you, take out the first and the last line\n",
            result.stderr,
        )
        (here / "b").write_text("\n".join(compact[1:-1]))
        assert verb("restore", str(here / "b"), "target").returncode == 0
        assert len(target) == 3
        target.flush_all()


def test_a_byte_order_mark_in_front(target: memcache_shm.Cache, here: Path) -> None:
    """As editors leave it: it is none of the lines."""
    for data in (written("jsonl"), b'{"key": "key0", "value": "x"}'):
        target.flush_all()
        (here / "b").write_bytes(b"\xef\xbb\xbf" + data)
        assert verb("restore", str(here / "b"), "target").returncode == 0
        assert "key0" in target


def test_highest_ids_that_somebody_made_up(target: memcache_shm.Cache, here: Path) -> None:
    """No table has given out so many: those given out later are what they would have been. The highest sane one is heeded, also by the
    backups of the table that heeded it."""
    for highest, ends in ((2**64 - 1, range(2**40)), (2**61, range(2**40)), (2**60 - 1, range(2**60, 2**61))):
        out = bytearray()
        writer = FileWriter(out.extend)
        writer.begin(Facts("app", "one instant", 1_795_678_675.5))
        writer.add(Piece(pack(ITEMS[0]), 1))
        writer.end(highest)
        (here / "b").write_bytes(out)
        assert verb("restore", str(here / "b"), "target").returncode == 0
        target.set("new", b"")
        assert int(target.gets("new")[1]) in ends
    with memcache_shm.open("next", memory="4m") as again:
        assert verb("backup", "target", str(here / "b")).returncode == 0
        assert verb("restore", str(here / "b"), "next").returncode == 0
        again.set("newer", b"")
        assert int(again.gets("newer")[1]) > int(again.gets("new")[1]) > 2**60
