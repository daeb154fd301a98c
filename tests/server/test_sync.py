"""sync: a copy of the table over a socket, and then every change."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator

import pytest
from support.client import Client
from support.feeding import Copy, Told, stored, subscribe
from support.servers import Daemon
from support.waiting import until

import memcache_shm


@pytest.fixture(scope="module", params=[1, 3], ids=["one worker", "three workers"])
def shared(request: pytest.FixtureRequest) -> Iterator[Daemon]:
    """A daemon whose workers must all be alive at the end."""
    with Daemon("-m", "64", workers=request.param) as daemon, daemon.unharmed():
        yield daemon


@pytest.fixture
def daemon(shared: Daemon) -> Iterator[Daemon]:
    """The same, empty; nobody may copy any more after a test."""
    shared.flush()
    yield shared
    with Client(shared) as client:
        until(lambda: figures(client)["shm_sync_clients"] == 0, "the last copy to be gone")


def figures(client: Client) -> dict[str, int]:
    return {name: int(value) for name, value in client.stats(b"shm").items() if value.isdigit()}


def fill(client: Client, count: int) -> dict[bytes, bytes]:
    items = {b"key%d" % number: b"value %d" % number for number in range(count)}
    client.send(b"".join(b"set %b %d 0 %d noreply\r\n%b\r\n" % (k, len(k), len(v), v) for k, v in items.items()))
    assert client.ask(b"mn") == b"MN"
    return items


def test_empty_table(daemon: Daemon) -> None:
    with Copy(daemon) as copy:
        assert copy.take().kind == "synced"
        assert copy.take().kind == "alive"
        assert copy.items == {}


@pytest.mark.parametrize("door", ["tcp", "unix"])
def test_copy_and_changes(daemon: Daemon, door: str) -> None:
    with Client(daemon) as client, Copy(daemon, door) as early:
        items = fill(client, 5000)
        with Copy(daemon, door) as copy:
            synced = copy.take_until("synced")
            assert copy.values == items
            assert all(told.flags == len(key) for key, told in copy.items.items())
            assert client.ask(b"set timed 3 1000 1\r\nx") == b"STORED"
            told = copy.take()
            assert told[:4] == ("set", b"timed", b"x", 3)
            assert abs(told.exptime - time.time() - 1000) < 3
            assert client.ask(b"touch timed 0") == b"TOUCHED"
            assert copy.take()[:5] == ("set", b"timed", b"x", 3, 0)  # with the value: the client may have let it expire
            assert client.ask(b"delete key7") == b"DELETED"
            assert copy.take()[:2] == ("delete", b"key7")
            alive = copy.take_until("alive")
            assert alive.cas > synced.cas
            assert copy.values == stored(client)
        early.take_until_still()
        assert early.values == stored(client)


def test_flush_is_told_and_binary_keys_are(daemon: Daemon) -> None:
    with Client(daemon) as client:
        fill(client, 100)
        assert client.ask(b"ms AQ0KIP8= 3 b\r\n\r\n\0") == b"HD"
        with Copy(daemon) as copy:
            copy.take_until("synced")
            assert copy.values[b"\x01\r\n \xff"] == b"\r\n\0"
            assert client.ask(b"flush_all") == b"OK"
            copy.take_until("flush")
            client.set(b"after", b"x")
            copy.take_until_still()
            assert copy.values == {b"after": b"x"}
            assert copy.kinds["flush"] == 1


def test_copy_while_everything_changes(daemon: Daemon) -> None:
    """Writers in three connections all the while; at rest the copy is the table."""
    with Client(daemon) as client:
        fill(client, 3000)
        over = threading.Event()
        writers = [threading.Thread(target=_write, args=(daemon, seed, over)) for seed in range(3)]
        for writer in writers:
            writer.start()
        try:
            with Copy(daemon) as first, Copy(daemon, "unix") as second:
                for copy in (first, second):
                    copy.take_until("synced")
                    for _ in range(2000):
                        copy.take()
                over.set()
                for writer in writers:
                    writer.join()
                for copy in (first, second):
                    copy.take_until_still()
                    assert copy.values == stored(client)
        finally:
            over.set()


def _write(daemon: Daemon, seed: int, over: threading.Event) -> None:
    chance = random.Random(seed)
    with Client(daemon, "unix" if seed % 2 else "tcp") as client:
        while not over.is_set():
            key = b"key%d" % chance.randrange(3000)
            what = chance.random()
            if what < 0.6:
                value = b"%d" % chance.randrange(10 ** chance.randrange(1, 100))
                client.set(key, value)
            elif what < 0.8:
                client.ask(b"delete " + key)
            elif what < 0.999:
                client.ask(b"append %b 0 0 1\r\n+" % key)
            else:
                client.ask(b"flush_all")


def test_large_values_come_in_pieces_others_are_served_between(daemon: Daemon) -> None:
    with Client(daemon, timeout_s=20) as client:
        value = b"v" * 1_000_000
        for number in range(20):
            assert client.set(b"large%d" % number, value) == b"STORED"
        with Copy(daemon, "unix") as copy:  # its kernel buffers are small, and it does not read yet
            until(lambda: figures(client)["shm_sync_clients"] == 1, "the copy to begin")
            assert int(client.stats()["read_buf_bytes"]) <= 4 << 20
            copy.take_until("synced")
            assert copy.values == {b"large%d" % number: value for number in range(20)}


def test_what_its_client_sends_is_dropped(daemon: Daemon) -> None:
    with Client(daemon) as client, Copy(daemon) as copy:
        copy.take_until("synced")
        copy.client.send(b"set dropped 0 0 1\r\nx\r\nquit\r\n")
        client.set(b"kept", b"x")
        assert copy.take_until("set") == Told("set", b"kept", b"x", cas=copy.items[b"kept"].cas)
        assert client.get(b"dropped") is None
        states = [value for name, value in client.stats(b"conns").items() if name.endswith(":state")]
        assert "conn_watch" in states


def test_who_reads_slowly_gets_a_copy_all_the_same() -> None:
    """With the smallest feed: it is overtaken, told so, and copies anew."""
    with Daemon("2000", "1000", "--feed", "4k") as daemon, Client(daemon) as client, Copy(daemon, "unix") as copy:
        copy.take_until("synced")
        for turn in range(3):
            for number in range(2000):
                client.send(b"set key%d 0 0 900 noreply\r\n%b\r\n" % (number, b"%3d" % turn * 300))
            assert client.ask(b"mn") == b"MN"
        copy.take_until("lost")
        copy.take_until("synced")
        copy.take_until_still()
        assert copy.values == stored(client)
        assert figures(client)["shm_lost"] >= 1


def test_all_items_arrive_while_losses_never_end() -> None:
    """A writer overruns the feed again and again, long before the copy can be complete: cold items come all the same, and what holds at
    the end is the table."""
    with Daemon("-m", "64", "--feed", "32k") as daemon, Client(daemon) as client, memcache_shm.attach(daemon.name) as hot:
        cold = {b"cold%d" % number: b"%5d" % number * 200 for number in range(10_000)}
        for key, value in cold.items():
            hot.set(key, value)
        with Copy(daemon, "unix") as copy:
            arrived: set[bytes] = set()
            for turn in range(200):
                for number in range(2000):
                    hot.set(b"hot", b"%d of %d" % (number, turn))
                copy.take_until("lost")
                for _ in range(400):
                    arrived.add(copy.take().key)
                if cold.keys() <= arrived:
                    break
            assert cold.keys() <= arrived
            assert copy.kinds.get("synced", 0) == 0
            copy.take_until_still()
            assert copy.values == stored(client)


def test_a_stopped_worker_copies_anew() -> None:
    with Daemon("-m", "16") as daemon, Copy(daemon) as copy:
        copy.take_until("synced")
        (worker,) = daemon.workers
        os.kill(worker, signal.SIGSTOP)
        try:
            program = (
                "import sys, time, memcache_shm\n"
                "with memcache_shm.attach(sys.argv[1]) as cache:\n"
                "    end = time.monotonic() + 6\n"
                "    while time.monotonic() < end: cache.set('k', b'x'); time.sleep(0.05)\n"
                "    cache.set('k', b'last')\n"
            )
            subprocess.run([sys.executable, "-c", program, daemon.name], check=True, timeout=60)
        finally:
            os.kill(worker, signal.SIGCONT)
        copy.take_until("lost")
        copy.take_until("synced")
        assert copy.values == {b"k": b"last"}


def test_a_table_made_anew_is_copied_anew() -> None:
    with Daemon("-m", "16", workers=2) as daemon, Client(daemon) as client, Copy(daemon) as copy, subscribe(daemon, b"k") as hearer:
        fill(client, 10)
        copy.take_until_still()
        assert len(copy.items) == 10
        ids = client.stats(b"shm")
        subprocess.run(["ipcrm", "-m", ids["shm_id"], "-s", ids["sem_id"]], check=True)
        copy.take_until("lost")
        copy.take_until("synced")
        assert copy.items == {}
        until(lambda: client.set(b"k", b"v") == b"STORED", "a worker that has the new table")
        copy.take_until_still()
        assert copy.values == {b"k": b"v"}
        hearer.until_told(b"k", b"v")


def test_killed_worker_ends_the_copy() -> None:
    with Daemon("-m", "16") as daemon, Copy(daemon) as copy:
        copy.take_until("synced")
        (worker,) = daemon.workers
        os.kill(worker, signal.SIGKILL)
        assert copy.client.is_closed()
        until(lambda: daemon.workers not in ([worker], []), "a successor")
        with Client(daemon) as client:
            assert figures(client)["shm_sync_clients"] == 0
        with Copy(daemon) as again:
            again.take_until("synced")
