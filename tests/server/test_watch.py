"""watch: what the daemon's clients do, told to whoever asks, in memcached's lines."""

from __future__ import annotations

import os
import re
import signal
import socket
from collections.abc import Iterator

import pytest
from support.client import Client
from support.isolation import children
from support.servers import Daemon, Memcached, Server
from support.waiting import until

LINE = re.compile(rb"ts=\d+\.\d+ gid=(?P<gid>\d+) type=(?P<type>\w+) (?P<rest>.*)\n")


@pytest.fixture
def daemon() -> Iterator[Daemon]:
    with Daemon("-m", "64", workers=3) as server:
        yield server


def watch(server: Server, kinds: bytes = b"") -> Client:
    client = Client(server)
    assert client.ask(b"watch " + kinds if kinds else b"watch") == b"OK"
    return client


def event(client: Client) -> tuple[str, dict[str, str]]:
    """The next line: its type and its fields."""
    raw = client.raw_line()
    match = LINE.fullmatch(raw)
    assert match, raw
    return match["type"].decode(), dict(field.split("=", 1) for field in match["rest"].decode().split())


def events(client: Client, count: int) -> list[tuple[str, dict[str, str]]]:
    return [event(client) for _ in range(count)]


def converse(server: Server) -> None:
    """Some commands that leave lines, by one client."""
    with Client(server) as client:
        client.set(b"k%\xff", b"abc")
        client.get(b"k%\xff")
        client.get(b"none")
        assert client.ask(b"set timed 0 100 1\r\na") == b"STORED"
        assert client.ask(b"add timed 0 0 1\r\na") == b"NOT_STORED"
        assert client.ask(b"append timed 0 0 2\r\nbc") == b"STORED"
        assert client.ask(b"cas timed 0 0 1 1\r\na") == b"EXISTS"
        assert client.ask(b"set gone 0 -1 1\r\na") == b"STORED"
        client.get(b"gone")
        assert client.ask(b"flush_all") == b"OK"
        client.get(b"timed")
        assert client.ask(b"delete k%\xff") == b"NOT_FOUND"


def test_lines_are_memcacheds(daemon: Daemon, memcached_with: type[Memcached]) -> None:
    """Field names and values, but for sizes of what an append makes, and lines that tell of memcached's own searches."""
    told = []
    for server in (daemon, memcached_with()):
        with watch(server, b"fetchers") as fetchers, watch(server, b"mutations") as mutations:
            converse(server)
            with Client(server) as client:
                client.get(b"last")
                assert client.ask(b"set last 0 0 1\r\na") == b"STORED"
            told.append([*_until_last(fetchers), *_until_last(mutations)])
    ours, theirs = told
    assert [line for line in theirs if line in ours] == ours
    assert {(kind, tuple(fields)) for kind, fields in _full(ours)} == {(kind, tuple(fields)) for kind, fields in _full(theirs)}


def _until_last(client: Client) -> list[tuple[str, str, str, str]]:
    lines = [event(client)]
    while lines[-1][1]["key"] != "last":
        lines.append(event(client))
    return [(kind, fields["key"], fields["status"], _rest(fields)) for kind, fields in lines]


def _rest(fields: dict[str, str]) -> str:
    """All names, and the values that do not depend on the server."""
    skipped = {"cfd", "ttl", "key", "status"} | ({"size"} if fields.get("cmd") == "append" else set())
    return " ".join(f"{name}={'' if name in skipped else value}" for name, value in fields.items())


def _full(lines: list[tuple[str, str, str, str]]) -> list[tuple[str, list[str]]]:
    return [(kind, [field.split("=")[0] for field in rest.split()]) for kind, _, _, rest in lines]


def test_all_workers_are_seen_by_all(daemon: Daemon) -> None:
    """Three watching clients and nine others, spread over three workers."""
    with watch(daemon) as first, watch(daemon) as second, watch(daemon) as third:
        clients = [Client(daemon) for _ in range(9)]
        for number, client in enumerate(clients):
            client.get(b"key%d" % number)
        expected = {f"key{number}" for number in range(9)}
        for watcher in (first, second, third):
            lines = events(watcher, 9)
            assert {fields["key"] for _, fields in lines} == expected
            assert len({fields["cfd"] for _, fields in lines}) == 9
        for client in clients:
            client.close()


def test_kinds(daemon: Daemon) -> None:
    with watch(daemon, b"mutations deletions") as both, watch(daemon, b"deletions") as deletions, Client(daemon) as client:
        client.set(b"a", b"1234")
        client.get(b"a")
        assert client.ask(b"delete a") == b"DELETED"
        assert client.ask(b"delete a") == b"NOT_FOUND"
        client.set(b"b", b"")
        assert client.ask(b"delete b") == b"DELETED"
        assert [(kind, fields["key"]) for kind, fields in events(both, 4)] == [
            ("item_store", "a"),
            ("deleted", "a"),
            ("item_store", "b"),
            ("deleted", "b"),
        ]
        assert events(deletions, 2) == [
            ("deleted", {"key": "a", "cmd": "delete", "clsid": "1", "size": "4"}),
            ("deleted", {"key": "b", "cmd": "delete", "clsid": "1", "size": "0"}),
        ]


def test_meta_commands(daemon: Daemon) -> None:
    with watch(daemon, b"fetchers mutations deletions") as watcher, Client(daemon) as client:
        assert client.ask(b"mg a v") == b"EN"
        assert client.ask(b"ms a 3 T10\r\nabc") == b"HD"
        assert client.ask(b"mg a") == b"HD"
        assert client.ask(b"mg b N30") == b"HD W"
        assert client.ask(b"md a") == b"HD"
        told = [(kind, *(fields.get(name) for name in ("key", "status", "cmd", "ttl", "size"))) for kind, fields in events(watcher, 5)]
    assert told == [
        ("item_get", "a", "not_found", None, None, "0"),
        ("item_store", "a", "stored", "set", "10", "3"),
        ("item_get", "a", "found", None, None, "3"),
        ("item_get", "b", "not_found", None, None, "0"),
        ("deleted", "a", None, "md", None, "3"),
    ]


def test_evictions() -> None:
    with Daemon("10", "100", workers=2) as daemon, watch(daemon, b"evictions") as watcher, Client(daemon) as client:
        for number in range(30):
            assert client.ask(b"set key%d 0 1000 5\r\nabcde" % number) == b"STORED"
        lines = events(watcher, 20)
        assert int(client.stats()["evictions"]) == 20
        assert {kind for kind, _ in lines} == {"eviction"}
        assert len({fields["key"] for _, fields in lines}) == 20
        for _, fields in lines:
            assert [*fields] == ["key", "fetch", "ttl", "la", "clsid", "size"]
            assert (fields["fetch"], fields["clsid"], fields["size"]) == ("no", "1", "5")
            assert 990 <= int(fields["ttl"]) <= 1000


def test_connections(daemon: Daemon) -> None:
    with watch(daemon, b"connevents") as watcher:
        tcp = daemon.connect()
        port = str(tcp.getsockname()[1])
        kind, fields = event(watcher)
        assert (kind, fields["rip"], fields["rport"], fields["transport"]) == ("conn_new", "127.0.0.1", port, "tcp")
        tcp.close()
        closed = event(watcher)
        assert closed == ("conn_close", {**fields, "reason": "normal"})
        assert [*closed[1]] == ["rip", "rport", "transport", "reason", "cfd"]
        unix = Client(daemon, "unix")
        assert event(watcher)[1]["transport"] == "local"
        unix.send(b"quit\r\n")
        kind, fields = event(watcher)
        assert (kind, fields["rip"], fields["rport"], fields["reason"]) == ("conn_close", "unix", "0", "normal")
        unix.close()
        resetting = Client(daemon)
        resetting.get(b"a")
        assert event(watcher)[0] == "conn_new"
        resetting.reset()
        assert event(watcher)[1]["reason"] == "error"


def test_slow_client_is_told_what_it_missed(daemon: Daemon) -> None:
    """It holds nobody up; the lines it gets and those it missed are all there were."""
    count = 100_000
    with watch(daemon) as watcher, Client(daemon) as client:
        for _ in range(count // 1000):
            client.send(b"get nothing\r\n" * 1000)
            for _ in range(1000):
                assert client.line() == b"END"
        client.get(b"last")
        told = missed = 0
        last = b""
        while b"key=last" not in last:
            last = watcher.raw_line()
            skipped = re.fullmatch(rb"\[skipped: (\d+)\]\n", last)
            missed += int(skipped[1]) if skipped else 0
            told += not skipped
        assert told + missed == count + 1
        stats = client.stats()
        assert (int(stats["log_watcher_sent"]), int(stats["log_watcher_skipped"])) == (told, missed)
        assert int(stats["log_worker_written"]) == count + 1
        assert missed > 0


def test_nothing_is_written_while_nobody_watches(daemon: Daemon) -> None:
    with Client(daemon) as client:
        with watch(daemon, b"rawcmds") as watcher:
            client.get(b"a")
            assert client.stats()["log_watchers"] == "1"
            watcher.send(b"get this\r\nnonsense\r\n")
        until(lambda: client.stats()["log_watchers"] == "0", "the watching client to be gone")
        client.get(b"a")
        assert client.stats()["log_worker_written"] == "0"


def test_dead_worker_takes_its_watching_clients_along(daemon: Daemon) -> None:
    watchers = [watch(daemon, kinds) for kinds in (b"fetchers", b"mutations", b"deletions")]
    before = daemon.workers
    for pid in before:
        os.kill(pid, signal.SIGKILL)
    for watcher in watchers:
        assert watcher.is_closed()
        watcher.close()
    until(lambda: len(daemon.workers) == 3 and not set(daemon.workers) & set(before), "three new workers")
    with Client(daemon) as client:
        client.set(b"a", b"1")
        client.get(b"a")
        stats = client.stats()
        assert (stats["log_watchers"], stats["log_worker_written"]) == ("0", "0")
        with watch(daemon) as watcher:
            client.get(b"a")
            assert event(watcher)[1]["status"] == "found"


def test_dead_worker_among_watched_ones(daemon: Daemon) -> None:
    """Who watches in another worker goes on, and sees the successor's clients."""
    with watch(daemon) as first, watch(daemon) as second:
        victim = daemon.workers[0]
        os.kill(victim, signal.SIGKILL)
        until(lambda: len(daemon.workers) == 3 and victim not in daemon.workers, "a successor")
        clients = [Client(daemon) for _ in range(9)]
        for number, client in enumerate(clients):
            client.get(b"key%d" % number)
        stats = clients[0].stats()
        alive = [watcher for watcher in (first, second) if not _has_ended(watcher)]
        assert len(alive) == int(stats["log_watchers"]) >= 1
        for watcher in alive:
            assert {fields["key"] for _, fields in events(watcher, 9)} == {f"key{number}" for number in range(9)}
        for client in clients:
            client.close()


def _has_ended(client: Client) -> bool:
    try:
        return client.sock.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT) == b""
    except BlockingIOError:
        return False


def test_too_many_watching_clients(daemon: Daemon) -> None:
    watchers = [watch(daemon) for _ in range(20)]
    with Client(daemon) as client:
        assert client.ask(b"watch") == b"WATCHER_TOO_MANY log watcher limit reached"
        assert client.get(b"a") is None
        watchers.pop().close()
        until(lambda: client.stats()["log_watchers"] == "19", "one to be gone")
        watch(daemon).close()
    for watcher in watchers:
        watcher.close()


def test_stop_with_watching_clients() -> None:
    with Daemon("16", "100", workers=2) as daemon, watch(daemon) as watcher:
        assert daemon.stop() == 0
        assert watcher.is_closed()
        assert not children(daemon.pid)
