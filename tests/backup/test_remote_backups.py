"""Backups of tables behind a socket, and restores to them: our daemon's and Debian's memcached, in every direction."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from support.backups import shell, table_of
from support.client import Client
from support.following import follower_of, is_in_step, where
from support.scripted import VERSION, Scripted
from support.servers import Daemon, Memcached, Server
from support.tables import verb
from support.waiting import until

import memcache_shm
from memcache_shm.client.copying import Copier
from memcache_shm.client.items import STALE, TOKEN_SENT, Item
from memcache_shm.client.remote import RemoteTable
from memcache_shm.client.remote_items import RemoteItems, RemotePutter
from memcache_shm.errors import RemoteError

FAR_S = int(time.time()) + 100_000
FILL = (
    b"""ms plain 5 F7
value
ms AAEC/w== 3 b F4294967295
b\r\r
set with_space 0 0 0

ms expiring 1 T%d
e
ms in_seconds 1 T1000
e
ms stale 5
stale
md stale I
ms won 3 T100
won
mg won R1000
ms stale_and_won 1
x
md stale_and_won I
mg stale_and_won
mg promised N1000
"""
    % FAR_S
)
COUNT = 9
LONG = b"k" * 250
LARGE = bytes(range(256)) * 3000


@pytest.fixture
def other(daemon_with: Callable[..., Daemon]) -> Daemon:
    """Another one, empty."""
    daemon = daemon_with("-m", "64", "-n", "49")
    daemon.flush()
    return daemon


@pytest.fixture
def memcached(memcached_with: Callable[..., Memcached]) -> Memcached:
    """Debian's, empty: flush_all counts by whole seconds."""
    server = memcached_with("-n", "49")
    with Client(server) as client:
        client.send(b"flush_all\r\n")
        assert client.line() == b"OK"
        until(lambda: stored(client, b"probe"), "a new second")
        client.send(b"delete probe\r\n")
        client.line()
    return server


def stored(client: Client, key: bytes) -> bool:
    client.send(b"set %b 0 0 1\r\nx\r\nmg %b\r\n" % (key, key))
    return client.line() == b"STORED" and client.line() == b"HD"


@pytest.fixture(params=["ours", "memcached"])
def source(request: pytest.FixtureRequest) -> Server:
    """A server with an item of every kind, a long key and a large value."""
    server: Server = request.getfixturevalue(request.param)
    fill(server)
    return server


def fill(server: Server) -> None:
    with Client(server) as client:
        client.send(FILL.replace(b"\n", b"\r\n"))
        client.send(b"set %b 3 0 4\r\nlong\r\nset large 0 0 %d\r\n%b\r\nmn\r\n" % (LONG, len(LARGE), LARGE))
        while client.line() != b"MN":
            continue


def looked_at(server: Server, *keys: bytes) -> list[bytes]:
    """What `mg` says of them, with the beginnings of their values; the time that is left as a +, since it goes on."""
    found = []
    with Client(server) as client:
        for key in keys:
            client.send(b"mg %b f t v\r\n" % key)
            line = client.line()
            value = client.line() if line.startswith(b"VA") else b""
            found.append(re.sub(rb" t\d+", b" t+", line) + b" " + value[:10])
    return found


def exptimes(server: Server) -> dict[bytes, int]:
    """Of each key, as the server lists them (by hash, which misses none)."""
    with Client(server) as client:
        client.send(b"lru_crawler metadump hash\r\n")
        lines = iter(client.line, b"END")
        return {words[0]: int(words[1].removeprefix(b"exp=")) for words in (line.split() for line in lines)}


KEYS = (b"plain", b"AAEC/w== b", b"with_space", b"expiring", b"in_seconds", LONG, b"large", b"won", b"stale_and_won", b"promised")


@pytest.mark.parametrize("form", ["binary", "jsonl"])
@pytest.mark.parametrize("to", ["other", "memcached", "attached"])
def test_every_field(source: Server, to: str, form: str, request: pytest.FixtureRequest, here: Path) -> None:
    """Looking took nothing: the source's stale item can still be won, as can that in the copy."""
    if to == "memcached" and isinstance(source, Memcached):
        target: Server = request.getfixturevalue("other")
    else:
        target = request.getfixturevalue("other" if to == "attached" else to)
    before, expiring = looked_at(source, *KEYS), exptimes(source)
    result = verb("backup", "--format", form, where_of(source), str(here / "b"))
    assert (result.returncode, result.stderr) == (0, "")
    assert re.match(rf"{COUNT + 2} items, .*; walked, so changes made meanwhile may be missing\n", result.stdout)
    name = target.name if to == "attached" and isinstance(target, Daemon) else where_of(target)
    result = verb("restore", str(here / "b"), name)
    assert result.returncode == 0
    assert re.match(rf"{COUNT + 2} items of {re.escape(where_of(source))}, made ", result.stdout)
    assert result.stderr == ("" if to == "attached" else noted(target))
    assert looked_at(target, *KEYS) == before
    found = exptimes(target)
    assert found.keys() == expiring.keys()
    assert [key for key, exptime in expiring.items() if abs(found[key] - exptime) > 1] == []
    for server in (source, target):
        assert looked_at(server, b"stale", b"stale") == [b"VA 5 f0 t-1 X W stale", b"VA 5 f0 t-1 Z X stale"] or isinstance(
            server, Memcached
        )
        assert b" X" in looked_at(server, b"stale")[0]


def noted(target: Server) -> str:
    """What is said of CAS ids after a restore over a socket."""
    if isinstance(target, Memcached):
        return f"memcache-shm: {where_of(target)} gave the items CAS ids of its own: it does not let clients choose them\n"
    return (
        f"memcache-shm: {where_of(target)} may give CAS ids out again that were restored: "
        "where clients keep some, restore by the table's name on its host\n"
    )


def where_of(server: Server) -> str:
    return f"{server.host}:{server.port}"


def cas_ids(server: Server) -> dict[bytes, int]:
    with RemoteTable(where_of(server)) as table:
        return {item.key: item.cas for item in RemoteItems(table)}


def test_cas_ids(source: Server, other: Daemon, here: Path) -> None:
    """They are the source's where the server lets us say so; also after a stale item was looked at, but a memcached renews its."""
    before = cas_ids(source)
    if isinstance(source, Daemon):
        assert cas_ids(source) == before
    assert shell(f"memcache-shm backup {where_of(source)} - | memcache-shm restore - {where(other)}", here).returncode == 0
    found = cas_ids(other)
    assert len(found) == COUNT + 2
    if isinstance(source, Memcached):
        assert found.pop(b"stale") > before.pop(b"stale")
    assert found == before


@pytest.mark.parametrize("how", ["", "channel:"])
def test_ours_over_a_unix_socket(ours: Daemon, other: Daemon, here: Path, how: str) -> None:
    """With keys that only the attached have: what the protocol cannot name is told."""
    fill(ours)
    with memcache_shm.attach(ours.name) as cache:
        Copier(cache).put(b" " * 200, b"", 0, 0, 0)
    result = verb("backup", how + ours.unix_path, str(here / "b"))
    assert result.returncode == 1
    assert result.stdout.endswith("; 1 item left out, whose keys the protocol cannot name\n")
    result = verb("backup", ours.name, str(here / "b"))
    assert result.returncode == 0
    result = verb("restore", str(here / "b"), how + other.unix_path)
    assert result.returncode == 1
    assert "; 1 refused, whose keys the protocol cannot name" in result.stdout
    result = verb("restore", str(here / "b"), other.name)
    assert (result.returncode, result.stderr) == (0, "")
    with memcache_shm.attach(ours.name) as one, memcache_shm.attach(other.name) as copy:
        assert table_of(one) == table_of(copy)


def test_expired_and_too_large(memcached: Memcached, ours: Daemon, here: Path) -> None:
    lines = [
        '{"key": "large", "value": "%s"}' % ("x" * (1 << 20)),
        '{"key": "over", "value": "", "exptime": 5}',
        '{"key": "far", "value": "", "exptime": 4000000000}',
        '{"key": "next", "value": "1"}',
    ]
    (here / "b").write_text("\n".join(lines))
    result = verb("restore", str(here / "b"), where_of(memcached))
    assert (result.returncode, result.stderr) == (1, "")  # no word on CAS ids: the lines have none
    assert re.match(r"2 items restored .*; 1 refused, too large or for want of room; 1 over by now\n", result.stdout)
    assert looked_at(memcached, b"next", b"large", b"over") == [b"VA 1 f0 t-1 1", b"EN ", b"EN "]
    assert looked_at(memcached, b"far") == [b"VA 0 f0 t+ "]
    result = verb("restore", str(here / "b"), where_of(ours))
    assert result.returncode == 0
    assert re.match(r"3 items restored .*; 1 over by now\n", result.stdout)


def test_replacing_is_for_tables_of_this_host(ours: Daemon, here: Path) -> None:
    result = verb("restore", "--replace", str(here / "b"), where(ours))
    assert result.returncode == 2
    assert re.fullmatch(r"memcache-shm: error: --replace: only for a table of this host by its name; empty .* before .*\n", result.stderr)


def test_the_source_changes_meanwhile(ours: Daemon, here: Path) -> None:
    """What is not changed is in it once; of the rest what is there is one of its states."""
    with memcache_shm.attach(ours.name) as cache:
        for number in range(20_000):
            cache.set(f"stays{number}", b"%d" % number)
            cache.set(f"goes{number}", b"%d" % number)
        with RemoteTable(ours.unix_path) as table:
            found: dict[bytes, bytes] = {}
            for number, item in enumerate(RemoteItems(table)):
                assert item.key not in found
                found[item.key] = item.value
                cache.delete(f"goes{number}")
                cache.set(f"comes{number}", b"")
    assert {key: value for key, value in found.items() if key.startswith(b"stays")} == {b"stays%d" % n: b"%d" % n for n in range(20_000)}
    assert all(value == key[4:] for key, value in found.items() if key.startswith(b"goes"))


def test_a_follower(ours: Daemon, here: Path) -> None:
    """Can be backed up by either door; restoring to it is refused before the file is read."""
    fill(ours)
    with follower_of(ours, name="follower") as follower:
        until(lambda: is_in_step(follower), "the copy")
        for source in (follower.name, where(follower)):
            result = verb("backup", source, str(here / "b"))
            assert (result.returncode, result.stderr) == (0, "")
            assert result.stdout.startswith(f"{COUNT + 2} items, ")
        result = verb("restore", str(here / "missing"), follower.name)
        assert (result.returncode, result.stdout) == (1, "")
        assert result.stderr == (
            "memcache-shm: error: table 'follower' follows another and is changed by that alone; "
            "restore to its leader, or promote it first\n"
        )
        result = verb("restore", str(here / "b"), where(follower))
        assert (result.returncode, result.stdout) == (1, "")
        assert re.fullmatch(rf"memcache-shm: error: {where(follower)}: SERVER_ERROR this table follows another.*\n", result.stderr)


def test_servers_that_refuse(daemon_with: Callable[..., Daemon], here: Path) -> None:
    server = daemon_with("-m", "64", "-X")
    result = verb("backup", where(server), str(here / "b"))
    assert result.returncode == 1
    assert re.fullmatch(r"memcache-shm: error: .*: the server does not let its keys be listed \(it runs with -X\)\n", result.stderr)
    assert list(here.iterdir()) == []


RUN = b"STAT pid 7\r\nSTAT uptime %d\r\nSTAT time 1700000000\r\n"
STATS = (b"stats\r\n", RUN % 100 + b"STAT curr_items 1\r\nEND\r\n")
DUMP = (b"lru_crawler metadump hash\r\n", b"key=a exp=-1 la=1 cas=5 fetch=no cls=1 size=10\nEND\r\n")
GET = b"mg a v f c t u\r\n"


@pytest.mark.parametrize("nothing", [b"END\r\n", b"CLIENT_ERROR invalid class id\r\n"])
def test_lists_by_hash_that_are_not_to_be_had(nothing: bytes) -> None:
    """The hash table is being made larger just now, or the server is too old: then its LRU lists are listed."""
    lists = (b"lru_crawler metadump all\r\n", DUMP[1])
    with Scripted([VERSION, (DUMP[0], nothing), lists]) as server, RemoteTable(server.address) as table:
        assert list(RemoteItems(table).keys()) == [b"a"]


@pytest.mark.parametrize("source", ["memcached"], indirect=True)
def test_many_keys_of_memcached(source: Server, here: Path) -> None:
    """Each is there once, although memcached moves items from list to list meanwhile, and holds locks while its list is taken."""
    with Client(source) as client:
        for start in range(0, 100_000, 1000):
            client.send(b"".join(b"set key:%d 0 1000 4\r\nabcd\r\n" % number for number in range(start, start + 1000)))
            for _ in range(1000):
                client.line()
    result = verb("backup", "--json", where_of(source), str(here / "b"))
    assert (result.returncode, result.stderr) == (0, "")
    assert json.loads(result.stdout)["items"] == 100_000 + COUNT + 2
    result = verb("backup", "--format", "keys", where_of(source), "-")
    assert len({line for line in result.stdout.splitlines() if line.startswith("mg key:")}) == 100_000


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        (b"VA 1 f0 c5\r\nx\r\n", "unexpected answer b'VA 1 f0 c5'"),
        (b"VA 1 fx c5 t1\r\nx\r\n", "unexpected answer"),
        (b"VA 1 f-1 c5 t1\r\nx\r\n", "unexpected answer"),
        (b"VA 1 f1_0 c5 t1\r\nx\r\n", "unexpected answer"),
        (b"VA 1 f4294967296 c5 t1\r\nx\r\n", "unexpected answer"),
        (b"VA 1 f0 c18446744073709551616 t1\r\nx\r\n", "unexpected answer"),
        (b"VA 1 f0 c5 t9999999999999999999\r\nx\r\n", "unexpected answer"),
        (b"VA 1 f0 c5 t-2\r\nx\r\n", "unexpected answer"),
        (b"SERVER_ERROR out of order\r\n", "SERVER_ERROR out of order"),
        (b"VA 5 f0", "connection lost"),
    ],
)
def test_answers_that_make_no_sense(answer: bytes, told: str, here: Path) -> None:
    """No file is there then."""
    again = [[VERSION, STATS, (GET, answer)]] if told == "connection lost" else []
    with Scripted([VERSION, STATS, STATS, DUMP], [VERSION, STATS, (GET, answer)], *again) as server:
        address = server.address
        result = verb("backup", address, str(here / "b"))
    assert (result.returncode, result.stdout) == (1, "")
    assert re.fullmatch(rf"memcache-shm: error: {address}: {told}.*\n", result.stderr)
    assert list(here.iterdir()) == []


def test_expiry_that_changed_after_it_was_listed() -> None:
    """The list has another one than the answer: touched in between. And where nothing changed it is the list's, to the second."""
    now_s = int(time.time())
    near = b"key=a exp=%d la=1 cas=5 fetch=no cls=1 size=10\nEND\r\n" % (now_s + 1001)
    for dumped, left_s in ((near, 1000), (near.replace(b"exp=1", b"exp=2"), 1000), (DUMP[1], 1000), (near, -1)):
        with (
            Scripted([VERSION, STATS, (DUMP[0], dumped)], [VERSION, STATS, (GET, b"VA 1 f0 c5 t%d\r\nx\r\n" % left_s)]) as server,
            RemoteTable(server.address) as table,
        ):
            (item,) = RemoteItems(table)
        if left_s < 0:
            assert item.expires_ms == 0
        elif dumped == near:
            assert item.expires_ms == (now_s + 1001) * 1000
        else:
            assert now_s * 1000 + 1_000_000 <= item.expires_ms <= time.time() * 1000 + 1_000_000


def test_the_server_goes_away(daemon_with: Callable[..., Daemon]) -> None:
    """What was put before and is not answered is not sent again."""
    asks = (b"mg memcache_shm-asks E1\r\n", b"EN\r\n")
    store = b"ms a 1 F0 T0 E9\r\nx\r\n"
    with Scripted([VERSION, asks, (store, b"")]) as server, RemoteTable(server.address) as table:
        putter = RemotePutter(table)
        putter.put(Item(b"a", b"x", 0, 0, 9))
        with pytest.raises(RemoteError, match="connection lost"):
            putter.flush()
    assert server.heard == [b"".join(step[0] for step in (VERSION, asks)) + store]


def test_marks_are_put_as_clients_set_them(ours: Daemon) -> None:
    """In one go with many others."""
    states = {b"%d" % number: (0, STALE, TOKEN_SENT, STALE | TOKEN_SENT)[number % 4] for number in range(400)}
    with RemoteTable(ours.unix_path) as table:
        putter = RemotePutter(table)
        for key, state in states.items():
            putter.put(Item(key, b"v" * 3000, 1, FAR_S * 1000, 1000 + int(key), state))
        putter.flush()
        assert (putter.stored, putter.refused) == (400, 0)
    with memcache_shm.attach(ours.name) as cache:
        found = table_of(cache)
    assert {key: item.state for key, item in found.items()} == states
    assert {item.cas for item in found.values()} == set(range(1000, 1400))
    assert {round(item.expires_ms / 1000) for item in found.values()} <= {FAR_S, FAR_S + 1}
