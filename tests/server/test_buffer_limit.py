"""What clients who are slow can make the daemon hold has a limit; who is above it is closed, the others are served."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest
from support.client import Client
from support.servers import Daemon
from support.waiting import until

LIMIT_MIB = 16
VALUE = b"v" * (1 << 20)
CROWD = 60


@pytest.fixture
def daemon() -> Iterator[Daemon]:
    """One worker, which must be alive at the end."""
    with Daemon("-o", f"read_buf_mem_limit={LIMIT_MIB}") as server, server.unharmed():
        yield server


def ask_and_do_not_read(sock: socket.socket) -> None:
    sock.sendall(b"get large\r\n" * 20)


def send_and_do_not_finish(sock: socket.socket) -> None:
    sock.sendall(b"set new 0 0 %d\r\n" % len(VALUE) + VALUE[:-1])


def held_bytes(client: Client) -> int:
    return int(client.stats()["read_buf_bytes"])


@pytest.mark.parametrize("behave", [ask_and_do_not_read, send_and_do_not_finish])
def test_limit(daemon: Daemon, behave: Callable[[socket.socket], None]) -> None:
    with Client(daemon) as other, ExitStack() as stack:
        assert other.set(b"large", VALUE) == b"STORED"
        assert other.get(b"large") == VALUE
        before = held_bytes(other)
        for _ in range(CROWD):
            sock = stack.enter_context(daemon.connect("unix"))  # whose kernel buffers are small
            try:
                behave(sock)
            except (BrokenPipeError, ConnectionResetError):
                continue  # it is closed already
            assert held_bytes(other) <= LIMIT_MIB << 20
        until(lambda: int(other.stats()["read_buf_oom"]) > 0, "a connection above the limit")
        assert other.get(b"large") == VALUE
        until(lambda: int(other.stats()["curr_connections"]) < CROWD, "closed connections")
        stack.close()
        until(lambda: held_bytes(other) <= before, "the memory of those that left")
        assert other.get(b"large") == VALUE


def test_the_largest_values_always_fit() -> None:
    """However small the limit: room for some of them."""
    with Daemon("-m", "200", "-I", "16m", "-o", "read_buf_mem_limit=1") as server, Client(server) as client:
        value = b"v" * (16 << 20)
        for _ in range(3):
            assert client.set(b"k", value) == b"STORED"
            assert client.get(b"k") == value
        assert client.stats()["read_buf_oom"] == "0"
