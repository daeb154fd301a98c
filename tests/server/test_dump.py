"""Dumps of keys: lru_crawler metadump and mgdump, stats cachedump."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator

import pytest
import sysv_ipc
from support.client import Client
from support.isolation import children
from support.servers import Daemon, Memcached, Server
from support.waiting import until

import memcache_shm


@pytest.fixture
def daemon() -> Iterator[Daemon]:
    with Daemon("-m", "64", workers=3) as server:
        yield server


def dump(client: Client, command: bytes = b"lru_crawler metadump all") -> list[dict[str, str]]:
    """The fields of each line."""
    client.send(command + b"\r\n")
    found = []
    while (line := client.line()) != b"END":
        assert line.startswith(b"key="), line
        found.append(dict(field.split("=", 1) for field in line.decode().split()))
    return found


def fill(server: Server) -> None:
    with Client(server) as client:
        assert client.ask(b"set plain 5 0 3\r\nabc") == b"STORED"
        assert client.ask(b"set timed 0 1000 1\r\na") == b"STORED"
        assert client.ask(b'set odd%/"\xff\xc3 0 0 0\r\n') == b"STORED"
        assert client.get(b"plain") == b"abc"


def test_lines_are_memcacheds(daemon: Daemon, memcached_with: Callable[..., Memcached]) -> None:
    memcached = memcached_with()
    memcached.flush()
    lines = []
    for server in (daemon, memcached):
        fill(server)
        with Client(server) as client:
            lines.append({fields["key"]: fields for fields in dump(client)})
    ours, theirs = lines
    assert ours.keys() == theirs.keys() == {"plain", "timed", "odd%25%2F%22%FF%C3"}
    for key, fields in ours.items():
        assert [*fields][:-1] == [*theirs[key]], "the flags came after 1.6.18"
        for name in ("fetch", "cls"):
            assert fields[name] == theirs[key][name]
        assert abs(int(fields["exp"]) - int(theirs[key]["exp"])) <= 2
    assert (ours["plain"]["exp"], ours["plain"]["flags"], ours["plain"]["fetch"]) == ("-1", "5", "yes")
    assert abs(int(ours["timed"]["exp"]) - time.time() - 1000) <= 2
    assert all(0 <= time.time() - int(fields["la"]) <= 130 for fields in ours.values())


def test_raw_line(daemon: Daemon) -> None:
    """The very bytes: a blank before the newline, which is bare, and CRLF behind END."""
    with Client(daemon) as client:
        assert client.ask(b"set k 7 0 1\r\na") == b"STORED"
        cas = client.gets(b"k")[1]
        client.send(b"lru_crawler metadump hash\r\n")
        line = client.raw_line()
        assert line.startswith(b"key=k exp=-1 la=")
        assert line.endswith(b" cas=%b fetch=yes cls=1 size=26 flags=7 \n" % cas)
        assert client.raw_line() == b"END\r\n"


def test_dead_items_are_left_out(daemon: Daemon) -> None:
    with Client(daemon) as client:
        client.ask(b"set gone 0 0 1\r\na")
        client.ask(b"flush_all")
        client.ask(b"set over 0 -1 1\r\na")
        client.ask(b"set there 0 0 1\r\na")
        assert [fields["key"] for fields in dump(client)] == ["there"]
        assert client.ask(b"lru_crawler crawl all") == b"OK"


def test_every_key_once_whatever_others_do(daemon: Daemon) -> None:
    """Keys that stay are met exactly once while the table grows and shrinks around them and they are overwritten themselves."""
    keys = [f"stays{number}" for number in range(3000)]
    over = threading.Event()

    def change(number: int) -> None:
        """Fill and empty the table, over and over, and set what stays anew."""
        with memcache_shm.attach(daemon.name) as cache:
            turn = 0
            while not over.is_set():
                for at in range(4000):
                    cache.set(f"w{number}-{at}", b"x" * (at % 50))
                    cache.set(keys[(turn * 7 + at) % len(keys)], b"y" * (at % 90))
                for at in range(4000):
                    cache.delete(f"w{number}-{at}")
                turn += 1

    with memcache_shm.attach(daemon.name) as cache, Client(daemon) as client:
        for key in keys:
            cache.set(key, b"a")
        threads = [threading.Thread(target=change, args=(number,)) for number in range(2)]
        for thread in threads:
            thread.start()
        try:
            before = int(client.stats()["total_items"])
            for _ in range(15):
                times = Counter(fields["key"] for fields in dump(client))
                assert [key for key in keys if times[key] != 1] == []
                assert max(times.values()) == 1
            until(lambda: int(client.stats()["total_items"]) > before + 20_000, "the table to be changed")
        finally:
            over.set()
            for thread in threads:
                thread.join()
        stats = {name: int(value) for name, value in cache.stats().items() if name in (b"shm_splits", b"shm_merges")}
        assert all(count > 100 for count in stats.values()), stats


def test_slow_reader_holds_nobody_up() -> None:
    """A dump of many items whose client reads nothing costs a bounded amount of memory, and others of its worker are served."""
    with Daemon("-m", "64", workers=1) as daemon, Client(daemon) as client, Client(daemon) as slow:
        client.send(b"".join(b"set key%d 0 0 1 noreply\r\na\r\n" % number for number in range(200_000)) + b"mn\r\n")
        assert client.line() == b"MN"
        (worker,) = children(daemon.pid)
        before = _private_bytes(worker)
        slow.send(b"lru_crawler metadump all\r\nget key1\r\n")
        for _ in range(100):
            assert client.get(b"key7") == b"a"
        assert _private_bytes(worker) < before + (2 << 20)
        assert sum(1 for _ in iter(slow.line, b"END")) == 200_000
        assert slow.line() == b"VALUE key1 0 1"


def _private_bytes(pid: int) -> int:
    with open(f"/proc/{pid}/smaps_rollup") as rollup:
        return 1024 * sum(int(line.split()[1]) for line in rollup if line.startswith("Private_Dirty:"))


def test_client_that_leaves_in_a_dump(daemon: Daemon) -> None:
    with Client(daemon) as client:
        client.send(b"".join(b"set key%d 0 0 1 noreply\r\na\r\n" % number for number in range(50_000)) + b"mn\r\n")
        assert client.line() == b"MN"
        for _ in range(20):
            leaver = Client(daemon)
            leaver.send(b"lru_crawler metadump all\r\n")
            leaver.line()
            leaver.reset()
        until(lambda: client.stats()["curr_connections"] == "1", "the others to be gone")
        assert len(daemon.workers) == 3


def test_cachedump(daemon: Daemon) -> None:
    with Client(daemon) as client:
        for number in range(10):
            client.ask(b"set k%d 0 0 %d\r\n%b" % (number, number, b"a" * number))
        client.ask(b"set timed 0 1000 1\r\na")
        lines = _cachedump(client, 0)
        assert {line for line in lines if b"timed" not in line} == {b"ITEM k%d [%d b; 0 s]" % (number, number) for number in range(10)}
        (timed,) = (line for line in lines if b"timed" in line)
        assert abs(int(timed.split()[4]) - time.time() - 1000) <= 2
        assert len(_cachedump(client, 3)) == 3


def test_cachedump_ends_at_two_megabytes(daemon: Daemon) -> None:
    with Client(daemon) as client:
        client.send(b"".join(b"set %b%d 0 0 0 noreply\r\n\r\n" % (b"k" * 200, number) for number in range(12_000)) + b"mn\r\n")
        assert client.line() == b"MN"
        assert (2 << 20) - 300 < sum(len(line) + 2 for line in _cachedump(client, 0)) <= 2 << 20


def _cachedump(client: Client, most: int) -> list[bytes]:
    client.send(b"stats cachedump 1 %d\r\n" % most)
    return list(iter(client.line, b"END"))


def test_dump_of_a_table_that_was_made_anew(daemon: Daemon) -> None:
    """It is not the whole of either, and says so."""
    with Client(daemon) as client:
        client.send(b"".join(b"set key%d 0 0 1 noreply\r\na\r\n" % number for number in range(100_000)) + b"mn\r\n")
        assert client.line() == b"MN"
        with Client(daemon, "unix") as slow:  # whose kernel buffers are small
            slow.send(b"lru_crawler metadump all\r\n")
            assert slow.line().startswith(b"key=")
            figures = client.stats(b"shm")
            sysv_ipc.remove_shared_memory(int(figures["shm_id"]))
            sysv_ipc.remove_semaphore(int(figures["sem_id"]))
            until(lambda: client.stats(b"shm")["shm_id"] != figures["shm_id"], "another table")
            assert _end_of(slow) == b"SERVER_ERROR dump ended early"


def _end_of(client: Client) -> bytes:
    while (line := client.line()).startswith(b"key="):
        continue
    return line
