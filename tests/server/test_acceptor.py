"""The accept loop by itself: when it comes back, and whom it gives connections."""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Callable, Iterator

import pytest
from support.waiting import until

from memcache_shm.server.acceptor import Acceptor
from memcache_shm.server.buffers import Pool
from memcache_shm.server.config import ServerConfig
from memcache_shm.server.counters import Counters
from memcache_shm.server.credentials import Credentials
from memcache_shm.server.executor import Executor
from memcache_shm.server.guests import Guests
from memcache_shm.server.loop import WorkerLoop
from memcache_shm.server.transport import Transport
from memcache_shm.storage.geometry import Geometry
from memcache_shm.storage.table import Table

FOREVER_MS = 600_000


class Bench:
    """An acceptor with a listener, and workers that came up but whose links the test reads itself."""

    def __init__(self, workers: int) -> None:
        self.counters = Counters(workers)
        self._ends: list[Callable[[], None]] = []
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.listener.setblocking(False)
        self.wake, self.wake_writer = os.pipe()
        self.acceptor = Acceptor(self.counters, [self.listener.fileno()], self.wake, 100_000)
        pairs = [socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET) for _ in range(workers)]
        self.links = [ours for ours, _ in pairs]
        self.ends = [theirs for _, theirs in pairs]
        for which in range(workers):
            self.acceptor.set_link(which, self.links[which].fileno())
            self._come_up(which)

    def _come_up(self, which: int) -> None:
        """A real loop says so; its own link is another one, on which nothing comes."""
        table = Table.create(Geometry.by_elements(16, 100))
        quiet, silent = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        stop, stopper = os.pipe()
        config = ServerConfig(table, [], lambda: table, drain_s=0.0)
        executor = Executor(config, Pool(1 << 20), self.counters, which, bytes)
        transport = Transport(executor, Credentials(), [])
        loop = WorkerLoop(config, executor, transport, Guests(executor, None), quiet.fileno(), stop, lambda: None, lambda: None)
        thread = threading.Thread(target=loop.run)
        thread.start()

        def end() -> None:
            os.write(stopper, b"x")
            thread.join()
            os.close(stop)
            os.close(stopper)
            quiet.close()
            silent.close()
            table.destroy()
            table.close()

        self._ends.append(end)
        until(lambda: self.counters.is_up(which), "the worker")

    def connect(self) -> socket.socket:
        return socket.create_connection(self.listener.getsockname())

    def received(self, which: int) -> int:
        """How many connections lie in a worker's link; they are closed."""
        count = 0
        self.ends[which].setblocking(False)
        while True:
            try:
                _, descriptors, _, _ = socket.recv_fds(self.ends[which], 1, 64)
            except BlockingIOError:
                return count
            for descriptor in descriptors:
                os.close(descriptor)
            count += len(descriptors)

    def close(self) -> None:
        for end in self._ends:
            end()
        for sock in (self.listener, *self.links, *self.ends):
            sock.close()
        os.close(self.wake)
        os.close(self.wake_writer)


@pytest.fixture
def benches() -> Iterator[list[Bench]]:
    made: list[Bench] = []
    yield made
    for bench in made:
        bench.close()


@pytest.fixture
def two(benches: list[Bench]) -> Bench:
    benches.append(Bench(2))
    return benches[-1]


@pytest.fixture
def one(benches: list[Bench]) -> Bench:
    benches.append(Bench(1))
    return benches[-1]


def in_thread(acceptor: Acceptor, timeout_ms: int) -> threading.Thread:
    thread = threading.Thread(target=acceptor.run, args=(timeout_ms,))
    thread.start()
    return thread


def test_a_closed_link_is_noticed_right_after_an_empty_accept(one: Bench) -> None:
    """The last accept of a batch leaves EAGAIN in errno, which says nothing about the end of the link.

    Once it was told, it is not told again, or the supervisor would spin until the worker is reaped.
    """
    ends: list[float] = []

    def run_twice() -> None:
        one.acceptor.run(FOREVER_MS)
        ends.append(time.monotonic())
        one.acceptor.run(200)
        ends.append(time.monotonic())

    thread = threading.Thread(target=run_twice)
    thread.start()
    with one.connect():
        until(lambda: one.received(0), "the connection")
        one.ends[0].close()
        until(lambda: not thread.is_alive(), "the acceptor to come back twice")
    thread.join()
    assert ends[1] - ends[0] >= 0.199


def test_the_time_ends_under_steady_arrivals(one: Bench) -> None:
    thread = in_thread(one.acceptor, 300)
    count = 0
    while thread.is_alive():
        one.connect().close()
        count += one.received(0)
        assert count < 100_000, "the acceptor does not come back"
    thread.join()
    assert count > 0


def test_an_avoided_worker_gets_nothing_until_it_is_pardoned(two: Bench) -> None:
    two.acceptor.avoid(0, True)
    clients = [two.connect() for _ in range(5)]
    two.acceptor.run(100)
    assert (two.received(0), two.received(1)) == (0, 5)
    two.acceptor.avoid(0, False)
    clients += [two.connect() for _ in range(5)]
    two.acceptor.run(100)
    assert (two.received(0), two.received(1)) == (5, 0)  # it has the fewest
    for client in clients:
        client.close()


def test_without_a_worker_to_give_them_to_clients_wait_in_the_backlog(one: Bench) -> None:
    one.acceptor.avoid(0, True)
    with one.connect():
        one.acceptor.run(100)
        assert one.received(0) == 0
        one.acceptor.avoid(0, False)
        one.acceptor.run(100)
        assert one.received(0) == 1


def _fill(sock: socket.socket) -> None:
    """Write until its peer's queue takes no more."""
    sock.setblocking(False)
    try:
        while True:
            sock.send(b"\0")
    except BlockingIOError:
        return


def test_what_a_full_link_does_not_take_goes_to_the_others(two: Bench) -> None:
    _fill(two.links[0])
    clients = [two.connect() for _ in range(40)]
    two.acceptor.run(300)
    assert two.received(1) == 40
    assert two.received(0) == 0
    clients += [two.connect() for _ in range(40)]
    two.acceptor.run(300)  # it hears that there is room again, and this one has the fewest
    assert two.received(0) == 40
    assert two.counters.sums()["shm_dropped_connections"] == 0
    for client in clients:
        client.close()
