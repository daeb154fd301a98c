"""Clients that come, go and behave badly: nobody else notices, and no worker dies of it."""

from __future__ import annotations

import os
import random
import signal
import socket
import struct
import threading
from collections.abc import Callable, Iterator

import pytest
from support.client import allow_descriptors
from support.isolation import children
from support.servers import Daemon
from support.waiting import until

VALUE = 1 << 20
REPLY = len(b"VALUE big 0 1048576\r\n") + VALUE + len(b"\r\nEND\r\n")


@pytest.fixture
def daemon() -> Iterator[Daemon]:
    """A daemon of its own, whose workers must all be alive at the end."""
    with Daemon(workers=2) as server, server.unharmed():
        assert len(server.workers) == 2
        yield server


def ask(sock: socket.socket, request: bytes, size: int) -> bytes:
    sock.sendall(request)
    return read(sock, size)


def read(sock: socket.socket, size: int) -> bytes:
    """`size` bytes, or less when the peer closes."""
    reply = bytearray()
    while len(reply) < size and (piece := sock.recv(size - len(reply))):
        reply += piece
    return bytes(reply)


def reset(sock: socket.socket) -> None:
    """Close with a TCP reset instead of a farewell."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()


def private_bytes(pids: list[int]) -> int:
    """Memory that these processes wrote and share with nobody."""
    total = 0
    for pid in pids:
        with open(f"/proc/{pid}/smaps_rollup") as rollup:
            total += sum(int(line.split()[1]) for line in rollup if line.startswith("Private_Dirty:"))
    return total * 1024


def test_churn(daemon: Daemon) -> None:
    """Connections that end at once, by many threads: closed by the worker while the supervisor may still hold its descriptor."""

    def come_and_go() -> None:
        for _ in range(300):
            sock = daemon.connect()
            sock.sendall(b"version\r\nquit\r\n")
            read(sock, 1000)
            reset(sock)

    threads = [threading.Thread(target=come_and_go) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    with daemon.connect() as sock:
        assert ask(sock, b"get a\r\n", 5) == b"END\r\n"


REQUESTS = b"set a 0 0 5\r\nhello\r\nget a a a\r\nSET b 3\nabc\nset c 0 0 200000\r\n" + b"c" * 200_000 + b"\r\nget c\r\nstats\r\n"


@pytest.mark.parametrize("end", [reset, socket.socket.close], ids=["reset", "close"])
@pytest.mark.parametrize("door", ["tcp", "unix"])
def test_hang_up_at_every_moment(daemon: Daemon, door: str, end: Callable[[socket.socket], None]) -> None:
    random.seed(1)
    places = [*range(60), *random.sample(range(60, len(REQUESTS)), 100)]
    for place in places:
        sock = daemon.connect(door)
        sock.sendall(REQUESTS[:place])
        end(sock)
    with daemon.connect(door) as sock:
        expected = b"STORED\r\nVALUE a 0 1\r\n1\r\nEND\r\n"
        assert ask(sock, b"set a 0 0 1\r\n1\r\nget a\r\n", len(expected)) == expected


def test_many_hang_up_at_once(daemon: Daemon) -> None:
    """All in one wait of a stopped worker."""
    for _ in range(5):
        socks = [daemon.connect() for _ in range(60)]
        for sock in socks:
            assert ask(sock, b"get nothing\r\n", 5) == b"END\r\n"
        for pid in children(daemon.pid):
            os.kill(pid, signal.SIGSTOP)
        for number, sock in enumerate(socks):
            sock.sendall((b"set a 0 0 5\r\nhe", b"version\r\nquit\r\n", b"get " + b"a " * 3000, b"get a\r\n")[number % 4])
            sock.close()
        for pid in children(daemon.pid):
            os.kill(pid, signal.SIGCONT)
        with daemon.connect() as sock:
            assert ask(sock, b"get nothing\r\n", 5) == b"END\r\n"


def test_client_that_never_reads(daemon: Daemon) -> None:
    """It costs a bounded amount of memory, others are served, and in the end it gets everything."""
    with daemon.connect() as sock, daemon.connect() as other:
        assert ask(sock, b"set big 0 0 %d\r\n" % VALUE + b"x" * VALUE + b"\r\n", 8) == b"STORED\r\n"
        before = private_bytes(children(daemon.pid))
        sock.sendall(b"get big\r\n" * 100)
        for _ in range(20):
            assert ask(other, b"get nothing\r\n", 5) == b"END\r\n"
        assert private_bytes(children(daemon.pid)) < before + 8 * VALUE
        sock.shutdown(socket.SHUT_WR)
        assert len(read(sock, 101 * REPLY)) == 100 * REPLY


def test_idle_connections_hold_no_buffers() -> None:
    """At most 1 KiB each for two thousand of them, what a worker touches once included."""
    allow_descriptors(4096)
    with Daemon("-c", "3000", workers=2) as daemon:
        with daemon.connect() as first:
            assert ask(first, b"set a 0 0 1\r\n1\r\n", 8) == b"STORED\r\n"
        before = private_bytes(children(daemon.pid))
        socks = [daemon.connect() for _ in range(2000)]
        for sock in socks:
            assert ask(sock, b"get a\r\n", 21) == b"VALUE a 0 1\r\n1\r\nEND\r\n"
        assert (private_bytes(children(daemon.pid)) - before) / len(socks) < 1024
        for sock in socks:
            sock.close()


def test_slow_upload_of_a_large_value(daemon: Daemon) -> None:
    value = random.randbytes(VALUE)
    with daemon.connect() as sock:
        sock.sendall(b"set big 0 0 %d\r\n" % VALUE)
        for start in range(0, VALUE, 50_001):
            sock.sendall(value[start : start + 50_001])
        sock.sendall(b"\r")
        assert ask(sock, b"\n", 8) == b"STORED\r\n"
        reply = ask(sock, b"get big\r\n", REPLY)
        assert reply == b"VALUE big 0 1048576\r\n" + value + b"\r\nEND\r\n"


def test_a_million_tiny_pipelined_requests(daemon: Daemon) -> None:
    with daemon.connect(timeout_s=30) as sock:
        sender = threading.Thread(target=sock.sendall, args=(b"mn\r\n" * 1_000_000,))
        sender.start()
        assert read(sock, 4_000_000) == b"MN\r\n" * 1_000_000
        sender.join()


def test_connection_count_returns_to_one(daemon: Daemon) -> None:
    for _ in range(50):
        daemon.connect().close()

    def open_connections() -> int:
        with daemon.connect() as sock:
            text = ask(sock, b"stats\r\nquit\r\n", 100_000).decode()
        return next(int(line.split()[2]) for line in text.splitlines() if line.startswith("STAT curr_connections "))

    until(lambda: open_connections() == 1, "all but the asking connection to be gone")
