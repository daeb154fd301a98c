"""A stopped writer keeps a shard locked: who writes to it is told in time, and the worker's other clients notice nothing."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Event, Thread

import pytest
from support.client import Client
from support.servers import Daemon
from support.waiting import until

import memcache_shm

WRITER = """
import memcache_shm
cache = memcache_shm.attach("app")
value = b"x" * 60_000
print("writing", flush=True)
while True:
    cache.set("busy", value)
"""
LIMIT_S = 4.0  # twice the second in which a write fails, and twice that for a loaded machine


@pytest.fixture
def daemon(state_dir: Path, no_leaks: None) -> Iterator[Daemon]:
    """One worker and a table of one shard."""
    with Daemon("--name", "app", "-m", "256k", "-I", "64k") as daemon:
        yield daemon
        if daemon.process.poll() is None:
            assert daemon.stop() == 0
        assert len(daemon.lines) == 1


@pytest.fixture
def owner(daemon: Daemon) -> Iterator[int]:
    """The pid of a process that is stopped while it holds the lock; the worker has not met it yet."""
    with memcache_shm.attach("app") as cache, subprocess.Popen([sys.executable, "-c", WRITER], stdout=subprocess.PIPE) as writer:
        cache.set("probe", b"1")
        try:
            assert writer.stdout is not None
            assert writer.stdout.readline() == b"writing\n"

            def is_caught() -> bool:
                os.kill(writer.pid, signal.SIGSTOP)
                os.waitid(os.P_PID, writer.pid, os.WSTOPPED)
                try:
                    cache.set("probe", b"1")
                except memcache_shm.BusyError:
                    return True
                os.kill(writer.pid, signal.SIGCONT)
                return False

            until(is_caught, "the writer stopped amid a write", 30.0)
            yield writer.pid
        finally:
            writer.kill()


@contextmanager
def _others_are_served(daemon: Daemon) -> Iterator[None]:
    """Another client reads all the while; none of its replies may take half a second."""
    stop = Event()
    took_s: list[float] = []

    def read() -> None:
        with Client(daemon) as client:
            while not stop.is_set():
                started = time.monotonic()
                client.get(b"probe")
                took_s.append(time.monotonic() - started)

    thread = Thread(target=read)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
    assert len(took_s) > 10
    assert max(took_s) < 0.5


def _fails_in_time(client: Client, request: bytes, reply: bytes, count: int) -> None:
    started = time.monotonic()
    client.send(request)
    assert [client.line() for _ in range(count)] == [reply] * count
    assert time.monotonic() - started < LIMIT_S


@pytest.mark.parametrize(
    "request_",
    [
        b"set k 0 0 1\r\nx\r\n",
        b"append probe 0 0 1\r\nx\r\n",
        b"delete probe\r\n",
        b"incr probe 1\r\n",
        b"touch probe 10\r\n",
        b"gat 10 probe\r\n",
        b"flush_all\r\n",
    ],
    ids=lambda request: request.split()[0].decode(),
)
def test_a_pipeline_of_changes_fails_in_time(daemon: Daemon, owner: int, request_: bytes) -> None:
    with Client(daemon) as client:
        with _others_are_served(daemon):
            _fails_in_time(client, request_ * 100, b"SERVER_ERROR shard busy: held by pid %d" % owner, 100)
        os.kill(owner, signal.SIGCONT)
        until(lambda: client.set(b"k", b"v") == b"STORED", "the owner to get on", LIMIT_S)


def test_the_simple_dialect(daemon: Daemon, owner: int) -> None:
    with Client(daemon) as client:
        with _others_are_served(daemon):
            _fails_in_time(client, b"SET k 1\nx\n" * 50 + b"DELETE k\n" * 50, b"ERR BUSY", 100)
        os.kill(owner, signal.SIGCONT)
        until(lambda: client.ask(b"SET k 1\nx") == b"OK", "the owner to get on", LIMIT_S)


def _goes_on(owner: int, client: Client) -> None:
    """Let the owner go and end, and see the worker change things again."""
    os.kill(owner, signal.SIGCONT)
    os.kill(owner, signal.SIGKILL)
    until(lambda: client.set(b"other", b"v") == b"STORED", "the lock")


def test_what_waits_is_done_when_the_owner_goes_on(daemon: Daemon, owner: int) -> None:
    """What was asked before it is answered at once; it and what is behind it come once, in order."""
    with Client(daemon) as client, Client(daemon) as other:
        client.send(b"version\r\nset n 0 0 1\r\n5\r\nincr n 1\r\nget n\r\n")
        assert client.line().startswith(b"VERSION ")
        assert other.get(b"n") is None
        _goes_on(owner, other)
        assert [client.line() for _ in range(5)] == [b"STORED", b"6", b"VALUE n 0 1", b"6", b"END"]


def test_a_gat_line_that_waits(daemon: Daemon, owner: int) -> None:
    """The key that waits is read again from where it stood in its line."""
    with Client(daemon) as client, Client(daemon) as other:
        client.send(b"gat 100 probe probe\r\nversion\r\n")
        assert other.ask(b"version").startswith(b"VERSION ")
        _goes_on(owner, other)
        value = [b"VALUE probe 0 1", b"1"]
        assert [client.line() for _ in range(6)] == [*value, *value, b"END", other.ask(b"version")]


@pytest.mark.parametrize("size", [10, 40_000])
def test_a_value_in_pieces(daemon: Daemon, owner: int, size: int) -> None:
    """Short or long (received into a buffer of its own): complete, it waits as a whole; incomplete, what is behind it waits."""
    value = bytes(range(48, 58)) * (size // 10)
    pieces = [b"set k 0", b" 0 %d\r\n" % size, value[: size // 2], value[size // 2 :], b"\r\nset j 0 0 1\r\n"]
    with Client(daemon) as client, Client(daemon) as other:
        for piece in pieces:
            client.send(piece)
            assert other.ask(b"version").startswith(b"VERSION ")
        _goes_on(owner, other)
        assert client.line() == b"STORED"
        client.send(b"x\r\n")
        assert client.line() == b"STORED"
        assert (other.get(b"k"), other.get(b"j")) == (value, b"x")


def test_too_large_a_set_still_drops_the_old_value(daemon: Daemon, owner: int) -> None:
    with Client(daemon) as client, Client(daemon) as other:
        client.send(b"set probe 0 0 70000\r\n" + b"x" * 70_000 + b"\r\nget probe\r\n")
        assert other.get(b"probe") == b"1"
        _goes_on(owner, other)
        assert client.line() == b"SERVER_ERROR object too large for cache"
        assert client.line() == b"END"
        stats = other.stats()
        assert [stats[name] for name in ("store_too_large", "delete_hits", "delete_misses")] == ["1", "0", "0"]


@pytest.mark.parametrize("door", ["tcp", "unix"])
def test_noreply_of_a_client_that_left(daemon: Daemon, owner: int, door: str) -> None:
    """What it asked is done all the same, and then its connection is closed."""
    with Client(daemon) as other:
        with Client(daemon, door) as client:
            client.send(b"set k 0 0 1 noreply\r\nx\r\n" * 20)
        assert other.get(b"k") is None
        _goes_on(owner, other)
        until(lambda: other.get(b"k") == b"x", "the write")
        until(lambda: other.stats()["curr_connections"] == "1", "the connection to be closed")


@pytest.mark.parametrize("leave", [Client.close, Client.reset, Client.shut])
@pytest.mark.parametrize("door", ["tcp", "unix"])
def test_a_client_that_leaves_while_it_waits(daemon: Daemon, owner: int, door: str, leave: Callable[[Client], None]) -> None:
    with Client(daemon) as other:
        client = Client(daemon, door)
        client.send(b"set k 0 0 1\r\nx\r\n" * 20 + b"set big 0 0 100\r\n")
        assert other.get(b"k") is None
        leave(client)
        until(lambda: other.stats()["curr_connections"] == "1", "the connection to be closed", LIMIT_S)
        client.close()


def test_crowds_wait(daemon: Daemon, owner: int) -> None:
    """Hundreds at a time, each told in time."""
    with _others_are_served(daemon):
        clients = [Client(daemon) for _ in range(300)]
        started = time.monotonic()
        for client in clients:
            client.send(b"set k 0 0 1\r\nx\r\n")
        assert {client.line() for client in clients} == {b"SERVER_ERROR shard busy: held by pid %d" % owner}
        assert time.monotonic() - started < LIMIT_S
        for client in clients:
            client.close()


def test_a_stop_does_not_wait_for_long(daemon: Daemon, owner: int) -> None:
    """Whoever waits is answered before the worker ends."""
    with Client(daemon) as client, Client(daemon) as other:
        client.send(b"set k 0 0 1\r\nx\r\n")
        assert other.get(b"k") is None
        started = time.monotonic()
        daemon.process.send_signal(signal.SIGTERM)
        assert client.line() == b"SERVER_ERROR shard busy: held by pid %d" % owner
        assert client.is_closed()
        assert daemon.wait() == 0
        assert time.monotonic() - started < LIMIT_S
