"""More clients than are allowed, clients that take nothing, clients that leave at every moment."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from support.client import Client, allow_descriptors
from support.servers import Daemon
from support.waiting import until

MIB = 1 << 20
TOO_MANY = b"ERROR Too many open connections"


def resident_bytes(pid: int) -> int:
    """Memory of a process that is its own: the table's pages do not count."""
    fields = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    return int(fields["RssAnon"].split()[0]) * 1024


def sockets_of(pid: int) -> int:
    return sum(path.readlink().name.startswith("socket:") for path in Path(f"/proc/{pid}/fd").iterdir())


def test_2000_connections_where_1000_are_allowed() -> None:
    allow_descriptors(4096)
    with Daemon("-m", "2", "-c", "1000", workers=3) as daemon:
        clients = [Client(daemon) for _ in range(2000)]
        served = [client for client in clients if client.ask(b"version") != TOO_MANY]
        assert len(served) == 1000
        assert all(client.is_closed() for client in clients if client not in set(served))
        stats = served[0].stats()
        assert int(stats["rejected_connections"]) == 1000
        assert int(stats["curr_connections"]) == 1000
        for client in served[500:]:
            client.close()
        until(lambda: int(served[0].stats()["curr_connections"]) == 500, "the closed ones to be counted")
        again = [Client(daemon) for _ in range(500)]
        assert all(client.ask(b"version").startswith(b"VERSION") for client in again)
        for client in [*clients, *again]:
            client.close()


def test_connections_are_spread_evenly() -> None:
    with Daemon("-m", "2", workers=3) as daemon:
        before = {pid: sockets_of(pid) for pid in daemon.workers}
        clients = [Client(daemon, door) for door in ("tcp", "unix") for _ in range(15)]
        assert all(client.ask(b"version").startswith(b"VERSION") for client in clients)
        assert [sockets_of(pid) - before[pid] for pid in daemon.workers] == [10, 10, 10]
        for client in clients:
            client.close()


def test_a_client_that_never_reads(daemon: Daemon) -> None:
    """It asks for 2 GiB and takes nothing: the others are served, and the worker's memory stays bounded."""
    (worker,) = daemon.workers
    with Client(daemon) as greedy, Client(daemon) as other:
        assert other.set(b"big", b"x" * MIB) == b"STORED"
        before = resident_bytes(worker)
        greedy.send(b"get big\r\n" * 2048)
        for number in range(200):
            assert other.set(b"k", b"%d" % number) == b"STORED"
            assert other.get(b"k") == b"%d" % number
        assert resident_bytes(worker) - before < 16 * MIB


def test_a_slow_reader_gets_every_byte(daemon: Daemon) -> None:
    with Client(daemon, "unix") as slow, Client(daemon) as other:
        other.set(b"big", b"x" * (MIB // 2))
        slow.send(b"get big\r\n" * 64 + b"version\r\n")
        for _ in range(64):
            assert slow.line() == b"VALUE big 0 %d" % (MIB // 2)
            assert slow.read(MIB // 2 + 2) == b"x" * (MIB // 2) + b"\r\n"
            assert slow.line() == b"END"
            assert other.get(b"absent") is None
        assert slow.line().startswith(b"VERSION")


def test_a_client_that_sends_and_never_reads(daemon: Daemon) -> None:
    """Its replies have nowhere to go: it is read no further, until the socket takes no more."""
    (worker,) = daemon.workers
    with Client(daemon) as mute, Client(daemon) as other:
        mute.sock.settimeout(0.5)
        before = resident_bytes(worker)
        with pytest.raises(TimeoutError):
            mute.send(b"get absent\r\n" * (32 * MIB // 12))
        assert other.ask(b"version").startswith(b"VERSION")
        assert resident_bytes(worker) - before < 16 * MIB


def test_an_endless_line_costs_bounded_memory(daemon: Daemon) -> None:
    (worker,) = daemon.workers
    with Client(daemon) as endless, Client(daemon) as other:
        before = resident_bytes(worker)
        try:
            for _ in range(64):
                endless.send(b"x" * MIB)
        except (BrokenPipeError, ConnectionResetError):
            assert other.ask(b"version").startswith(b"VERSION")  # it may be shown the door
        assert resident_bytes(worker) - before < 8 * MIB
        assert other.ask(b"version").startswith(b"VERSION")


def test_an_endless_get_costs_bounded_memory(daemon: Daemon) -> None:
    """A line of 32 MiB of keys is answered key by key."""
    (worker,) = daemon.workers
    count = 32 * MIB // 200
    with Client(daemon) as endless:
        endless.set(b"k" * 199, b"v")
        before = resident_bytes(worker)
        sender = threading.Thread(target=endless.send, args=(b"get" + b" %b" % (b"k" * 199) * count + b"\r\n",))
        sender.start()
        reply = b"VALUE %b 0 1\r\nv\r\n" % (b"k" * 199)
        for _ in range(count):
            assert endless.read(len(reply)) == reply
        assert endless.line() == b"END"
        sender.join()
        assert resident_bytes(worker) - before < 8 * MIB


def test_announced_data_that_never_comes_costs_nothing(daemon: Daemon) -> None:
    (worker,) = daemon.workers
    before = resident_bytes(worker)
    clients = [Client(daemon) for _ in range(200)]
    for client in clients:
        client.send(b"set k 0 0 %d\r\nbegin" % MIB)
    with Client(daemon) as other:
        assert other.get(b"k") is None
    assert resident_bytes(worker) - before < 50 * MIB
    for client in clients:
        client.close()


SCRIPT = b"set k 0 0 5\r\nhello\r\nget k nothing k\r\nincr k 1\r\nSET name 3\nabcGET name\ncas k 0 0 1 7\r\nx\r\ndelete k\r\n"


@pytest.mark.parametrize("leave", ["close", "reset", "shut"])
@pytest.mark.parametrize("door", ["tcp", "unix", "channel"])
def test_leaving_at_every_moment(daemon: Daemon, door: str, leave: str) -> None:
    for length in range(len(SCRIPT) + 1):
        client = Client(daemon, door)
        client.send(SCRIPT[:length])
        getattr(client, leave)()
        if leave == "shut":
            client.sock.settimeout(5)
            while client.sock.recv(4096):
                continue
        client.close()
    with Client(daemon, door) as client:
        assert client.ask(b"version").startswith(b"VERSION")
        until(lambda: int(client.stats()["curr_connections"]) <= 2, "the connections to end")


def test_leaving_with_replies_on_the_way(daemon: Daemon) -> None:
    with Client(daemon) as other:
        other.set(b"big", b"x" * MIB)
    for number in range(60):
        client = Client(daemon, "unix" if number % 2 else "tcp")
        client.send(b"get big big big big\r\n" * (number % 7 + 1))
        client.sock.recv(number * 1000 + 1)
        client.reset() if number % 3 else client.close()
    with Client(daemon) as other:
        assert other.get(b"big") == b"x" * MIB


def test_coming_and_going(daemon_with: Callable[..., Daemon]) -> None:
    """Eight threads connect, ask and close as fast as they can."""
    daemon = daemon_with("-m", "64", workers=3)
    workers = daemon.workers
    end = time.monotonic() + 1.0
    failures: list[BaseException] = []

    def churn() -> None:
        try:
            while time.monotonic() < end:
                with socket.create_connection((daemon.host, daemon.port), 5) as sock:
                    sock.sendall(b"version\r\n")
                    assert sock.recv(64).startswith(b"VERSION")
        except (OSError, AssertionError) as error:
            failures.append(error)

    threads = [threading.Thread(target=churn) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    assert daemon.workers == workers
