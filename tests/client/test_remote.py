"""The small client of any memcached: beside our daemon and Debian's, and with servers that fall silent or break off."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest
from support.client import Client
from support.scripted import VERSION, Scripted
from support.servers import Daemon, Memcached, Server
from support.waiting import until

import memcache_shm
from memcache_shm import IllegalInputError, MemcacheError, RemoteError
from memcache_shm.cli.main import main
from memcache_shm.client.addresses import ChannelAddress, host_port, remote_address, written
from memcache_shm.client.local import attach_local
from memcache_shm.client.remote import RemoteTable
from memcache_shm.client.tables import open_table

ODD_KEYS = [b"a b", b"new\nline", b"\0\x7f", b" ", b"x" * 180 + b" "]
KEYS = [b"k", b"user:1", b"user:2", "ключ".encode(), b"\xff\xfe", b'"quoted"', b"x" * 250, b"b", b"mg", b"EN"]


@pytest.fixture(params=["tcp", "unix", "channel", "memcached"])
def server(request: pytest.FixtureRequest, daemon_with: Callable[..., Daemon]) -> Iterator[tuple[Server, str]]:
    """An empty server and the address by which it is reached."""
    if request.param == "memcached":
        with Memcached() as memcached:  # a new one: it counts what was flushed as items, until it needs the room
            yield memcached, f"{memcached.host}:{memcached.port}"
        return
    daemon = daemon_with("-m", "64")
    daemon.flush()
    yield daemon, daemon.addresses[request.param]


def test_everything_there_is(server: tuple[Server, str]) -> None:
    with RemoteTable(server[1]) as table:
        pairs = {key: b"value of " + key for key in KEYS + ODD_KEYS} | {b"empty": b"", b"lines": b"EN\r\nHD\r\n", b"big": b"\r\n" * 400_000}
        for key, value in pairs.items():
            assert table.set(key, value) is True
        assert {key: table.get(key) for key in pairs} == pairs
        assert list(table.values([*pairs, b"absent"])) == [*pairs.values(), None]
        assert table.count() == len(pairs)
        until(lambda: set(table.keys()) == set(pairs), "all keys in the dump")
        assert len(list(table.keys())) == len(pairs)
        assert dict(table.items()) == pairs
        assert dict(table.items(b"user:")) == {key: pairs[key] for key in (b"user:1", b"user:2")}
        assert set(table.keys(b"new\n")) == {b"new\nline"}
        assert table.delete(b"a b") is True
        assert table.delete(b"a b") is False
        assert table.get(b"a b") is None
        assert table.flush_all() is True
        assert table.get(b"k") is None


def test_more_than_a_pipeline(server: tuple[Server, str]) -> None:
    with Client(server[0]) as client:
        client.send(b"".join(b"set key:%d 0 0 5 noreply\r\n%05d\r\n" % (number, number) for number in range(5000)))
        assert client.ask(b"mn") == b"MN"
    with RemoteTable(server[1]) as table:
        until(lambda: len(list(table.keys())) == 5000, "all keys in the dump")
        assert dict(table.items(b"key:49")) == {
            b"key:%d" % number: b"%05d" % number for number in (49, *range(490, 500), *range(4900, 5000))
        }
        keys = table.keys()
        first = next(keys)
        assert table.get(first) == b"%05d" % int(first[4:])  # while the keys come on
        values = table.values([b"key:1", b"key:2"])
        assert next(values) == b"00001"
        values.close()  # left in the middle
        assert table.get(b"key:3") == b"00003"
        assert table.count() == 5000


def test_looking_leaves_no_trace(server: tuple[Server, str]) -> None:
    with RemoteTable(server[1]) as table, Client(server[0]) as client:
        table.set(b"key", b"1")
        assert table.get(b"key") == b"1"
        assert dict(table.items()) == {b"key": b"1"}
        assert client.ask(b"mg key h") == b"HD h0"


@pytest.mark.parametrize("key", [b"", b"x" * 251, b" " * 187])
def test_keys_that_cannot_be(server: tuple[Server, str], key: bytes) -> None:
    with RemoteTable(server[1]) as table:
        for refused in (lambda: table.get(key), lambda: table.set(key, b""), lambda: table.delete(key)):
            with pytest.raises(IllegalInputError):
                refused()
        assert table.get(b"key") is None


def test_keys_that_others_have(daemon_with: Callable[..., Daemon]) -> None:
    """An attached program sets what the protocol cannot name; the rest is asked for over the same connection."""
    daemon = daemon_with("-m", "64")
    daemon.flush()
    odd, plain = b" " * 187, b"k" * 250
    with closing(attach_local(daemon.name)) as table:
        table.set(odd, b"1")
        table.set(plain, b"2")
    with RemoteTable(daemon.unix_path) as remote:
        until(lambda: set(remote.keys()) == {odd, plain}, "all keys to be listed")
        assert [remote.can_ask(key) for key in (odd, odd[1:], plain)] == [False, True, True]
        assert list(remote.values([odd, plain, odd])) == [None, b"2", None]
        assert list(remote.values([odd])) == [None]
        assert list(remote.items()) == [(plain, b"2")]


# What the server says


def test_refusals(daemon_with: Callable[..., Daemon]) -> None:
    daemon = daemon_with("-X", "-F", "1024", "256")
    address = f"{daemon.host}:{daemon.port}"
    with RemoteTable(address) as table:
        with pytest.raises(RemoteError, match=rf"^{address}: the server does not let its keys be listed \(it runs with -X\)$"):
            next(table.keys())
        with pytest.raises(RemoteError, match="flush_all not allowed"):
            table.flush_all()
        with pytest.raises(RemoteError, match=f"^{address}: SERVER_ERROR object too large for cache"):
            table.set(b"key", b"x" * 300)
        assert table.set(b"key", b"x" * 256)
        assert table.count() == 1


def test_a_login_is_wanted(tmp_path: Path) -> None:
    users = tmp_path / "users"
    users.write_text("me:secret\n")
    with Daemon("-Y", str(users), "16", "16") as daemon, pytest.raises(RemoteError, match="wants a login"):
        RemoteTable(f"{daemon.host}:{daemon.port}")


def test_nobody_there(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        address = f"127.0.0.1:{listener.getsockname()[1]}"
    with pytest.raises(RemoteError, match=f"^{address}: Connection refused$"):
        RemoteTable(address)
    with pytest.raises(RemoteError, match="No such file"):
        RemoteTable(str(tmp_path / "none"))
    with pytest.raises(RemoteError, match=r"no answer within 0\.05 s"), socket.create_server(("127.0.0.1", 0)) as silent:
        RemoteTable(f"127.0.0.1:{silent.getsockname()[1]}", timeout_s=0.05)
    with pytest.raises(RemoteError, match="label"):
        RemoteTable("x" * 300 + ":1")
    with pytest.raises(IllegalInputError, match="write HOST:PORT"):
        RemoteTable("app")


@pytest.mark.parametrize("answer", [b"HTTP/1.1 400 Bad Request\r\n", b"ERROR\r\n", b"x" * 3000])
def test_somebody_else(answer: bytes) -> None:
    with Scripted([(b"version\r\n", answer)]) as server, pytest.raises(RemoteError, match="no memcached answers there, but b'"):
        RemoteTable(server.address)


def test_closed_at_once() -> None:
    with Scripted([(b"version\r\n", b"VERSION 1")]) as server, pytest.raises(RemoteError, match="closed at once"):
        RemoteTable(server.address)


# Connections that break


GET = b"mg key v u\r\n"


def test_a_read_is_asked_again() -> None:
    halves = [VERSION, (GET, b"VA 10\r\nhello")]
    with Scripted(halves, [VERSION, (GET, b"VA 10\r\nhelloworld\r\n")]) as server:
        assert RemoteTable(server.address).get(b"key") == b"helloworld"
    with Scripted(halves, halves) as server, pytest.raises(RemoteError, match="connection lost"):
        RemoteTable(server.address).get(b"key")


def test_only_the_rest_is_asked_again() -> None:
    ask = b"mg a v u\r\nmg b v u\r\n"
    with (
        Scripted([VERSION, (ask, b"VA 1\r\n1\r\nVA 1")], [VERSION, (b"mg b v u\r\n", b"VA 1\r\n2\r\n")]) as server,
        RemoteTable(server.address) as table,
    ):
        assert list(table.values([b"a", b"b"])) == [b"1", b"2"]


def test_a_change_is_not_sent_again() -> None:
    """It may have been done."""
    store = b"ms key 1\r\n1\r\n"
    with Scripted([VERSION, (store, b"H")], [VERSION, (store, b"HD\r\n")]) as server:
        table = RemoteTable(server.address)
        with pytest.raises(RemoteError, match="connection lost"):
            table.set(b"key", b"1")
        assert table.set(b"key", b"1")
        table.close()
    assert server.heard == [b"version\r\n" + store] * 2


def test_a_connection_that_ended_meanwhile() -> None:
    """Nothing was sent on it yet, so a change is safe, too."""
    delete = (b"md key\r\n", b"HD\r\n")
    with Scripted([VERSION], [VERSION, delete]) as server, RemoteTable(server.address) as table:
        server.wait_for_close()
        assert table.delete(b"key")


def test_silence_amid_a_reply() -> None:
    with Scripted([VERSION, (GET, b"VA 10\r\nhello"), (b"x", Scripted.SILENCE)], [VERSION, (GET, b"EN\r\n")]) as server:
        table = RemoteTable(server.address, timeout_s=0.1)
        with pytest.raises(RemoteError, match=r"no answer within 0\.1 s"):
            table.get(b"key")
        assert table.get(b"key") is None  # on a connection without the rest of that reply
        table.close()


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        (b"VA 2\r\nhello\r\n", "does not end where it should"),
        (b"VA 9999999999\r\n", "more than a memcached has"),
        (b"VA x\r\n", "VA x"),
        (b"SERVER_ERROR out of memory\r\n", "SERVER_ERROR out of memory"),
        (b"SERVER_ERROR \x1b[31m\xff\r\n", r"SERVER_ERROR \\x1b\[31m\\xff$"),
        (b"VA 1", "connection lost"),
    ],
)
def test_answers_that_make_no_sense(answer: bytes, told: str) -> None:
    broken = [VERSION, (GET, answer)]
    conversations = [broken, broken] if told == "connection lost" else [broken]
    with Scripted(*conversations) as server, RemoteTable(server.address) as table, pytest.raises(RemoteError, match=told):
        table.get(b"key")


DUMP = b"lru_crawler metadump all\r\n"


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        (b"key=a exp=-1\nkey= exp=-1\n", "amid the keys"),
        (b"key=a exp=-1\nSERVER_ERROR dump ended early\r\n", "dump ended early"),
        (b"key=a exp=-1\nk", "connection lost"),
        (b"key=a exp=-1\nBUSY\r\n", "BUSY"),
    ],
)
def test_dumps_that_end_badly(answer: bytes, told: str) -> None:
    with Scripted([VERSION, (DUMP, answer)]) as server, RemoteTable(server.address) as table:
        keys = table.keys()
        assert next(keys) == b"a"
        with pytest.raises(RemoteError, match=told):
            next(keys)


def test_dumps_that_begin_late() -> None:
    """Another one's dump is waited for; a connection that was lost before the first key is made anew."""
    busy = b"BUSY currently processing crawler request\r\n"
    with (
        Scripted([VERSION, (DUMP, busy), (DUMP, b"key")], [VERSION, (DUMP, b"key=a exp=-1 \nEND\r\n")]) as server,
        RemoteTable(server.address) as table,
    ):
        assert list(table.keys()) == [b"a"]
    with Scripted([VERSION, (DUMP, b"ERROR\r\n")]) as server, pytest.raises(RemoteError, match="knows no 'lru_crawler metadump'"):
        next(RemoteTable(server.address).keys())


def test_a_daemon_that_comes_back() -> None:
    with Daemon("16", "16") as daemon:
        table = RemoteTable(f"{daemon.host}:{daemon.port}")
        table.set(b"key", b"1")
        port = str(daemon.port)
    with pytest.raises(RemoteError, match="Connection refused"):
        table.get(b"key")
    with Daemon("-l", f"127.0.0.1:{port}", "16", "16"):
        assert table.get(b"key") is None
        assert table.set(b"key", b"2")
    table.close()


# Addresses


@pytest.mark.parametrize(
    ("text", "address", "again"),
    [
        ("app", None, None),
        ("memcache_shm-11211", None, None),
        ("/run/s", "/run/s", "/run/s"),
        ("./s:1", "./s:1", "./s:1"),
        ("channel:/run/s", ChannelAddress("/run/s"), "channel:/run/s"),
        ("channel:./s:1", ChannelAddress("./s:1"), "channel:./s:1"),
        ("channel:1", ("channel", 1), "channel:1"),
        ("host:1", ("host", 1), "host:1"),
        ("localhost", ("localhost", 11211), "localhost:11211"),
        ("[::1]:5", ("::1", 5), "[::1]:5"),
        ("[::1]", ("::1", 11211), "[::1]:11211"),
        ("::1", ("::1", 11211), "[::1]:11211"),
    ],
)
def test_addresses(text: str, address: object, again: str | None) -> None:
    found = remote_address(text)
    assert found == address
    if found is not None:
        assert written(found) == again


@pytest.mark.parametrize("name", ["localhost", "app:1", "app:1:2"])
def test_a_table_that_is_there_comes_first(state_dir: Path, name: str) -> None:
    with memcache_shm.open(name, elements=4, element_size=10) as cache:
        cache["key"] = b"v"
        with closing(open_table(name)) as table:
            assert table.get(b"key") == b"v"
        with memcache_shm.Mirror(name) as mirror:
            assert mirror["key"] == b"v"
        assert main(["ping", name]) == 0
    memcache_shm.unlink(name)
    with pytest.raises(MemcacheError):
        open_table(name, 0.5)


@pytest.mark.parametrize("text", ["host:", "host:x", "host:65536", ":1", "[::1", "[::1]x"])
def test_what_is_no_address(text: str) -> None:
    with pytest.raises(MemcacheError):
        host_port(text)
