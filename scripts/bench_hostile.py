"""What others notice while some clients behave badly, and what memory these cost; beside memcached."""

from __future__ import annotations

import contextlib
import multiprocessing
import select
import socket
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from bench_report import OURS, Figure, Progress, Section
from bench_servers import MEMCACHED, Server, running

VALUE_BYTES = 1_000_000
MANY = 200  # connections of a crowd
ROUND_S = 1.5
SETTLE_S = 0.3  # of a crowd, before it is measured
PAUSE_S = 0.02  # of clients that are slow on purpose

Behaviour = Callable[[int], None]  # with the server's port; runs until it is killed


@dataclass
class _Samples:
    """By contender, one a round."""

    middle: dict[str, list[float]] = field(default_factory=dict)  # us
    slow: dict[str, list[float]] = field(default_factory=dict)
    memory: dict[str, list[float]] = field(default_factory=dict)  # MiB


def measure(directory: Path, workers: int, rounds: int, progress: Progress) -> Section:
    """Each behaviour against each server in turn, `rounds` times."""
    figures = []
    for name, behaviour in BEHAVIOURS.items():
        samples = _Samples()
        for number in range(rounds):
            progress.say(f"{name}: round {number + 1} of {rounds}")
            with running((OURS, MEMCACHED), workers, directory) as servers:
                for server in servers.values():
                    _measure_one(server, behaviour, samples)
        figures += [
            Figure(f"{name}: get, median", "us", samples.middle, reference=MEMCACHED),
            Figure(f"{name}: get, 99 %", "us", samples.slow, reference=MEMCACHED),
            Figure(f"{name}: the server grew by", "MiB", samples.memory),
        ]
    return Section(
        "Other clients while some behave badly",
        f"Round trips of a get of 100 bytes on its own connection, {ROUND_S} s a round, median of {rounds} rounds (lowest-highest), while\n"
        f"a process of hostile clients runs against the same server (-t {workers}). It takes CPU time as well: 'nobody' is the measure.\n"
        "Memory: PSS of the server's processes after the round, less that before it.",
        figures,
    )


def _measure_one(server: Server, behaviour: Behaviour | None, samples: _Samples) -> None:
    with server.connect() as preparer:
        _prepare(preparer)
    with server.connect() as client:
        before = server.memory_bytes()
        with _hostile(server.port, behaviour):
            times = _round_trips(client)
            grown = server.memory_bytes() - before
        samples.middle.setdefault(server.name, []).append(statistics.median(times) / 1000)
        samples.slow.setdefault(server.name, []).append(statistics.quantiles(times, n=100)[-1] / 1000)
        samples.memory.setdefault(server.name, []).append(grown / 2**20)


def _prepare(client: socket.socket) -> None:
    """The item that is asked for, and a large one for those who do not read."""
    client.sendall(b"set small 0 0 100\r\n%b\r\nset large 0 0 %d\r\n%b\r\n" % (b"s" * 100, VALUE_BYTES, b"l" * VALUE_BYTES))
    _read(client, 16)


def _round_trips(client: socket.socket) -> list[int]:
    """Nanoseconds of each."""
    reply_bytes = len(b"VALUE small 0 100\r\n") + 102 + len(b"END\r\n")
    times = []
    end = time.perf_counter() + ROUND_S
    while (began := time.perf_counter()) < end:
        client.sendall(b"get small\r\n")
        _read(client, reply_bytes)
        times.append(round((time.perf_counter() - began) * 1e9))
    return times


def _read(client: socket.socket, size: int) -> None:
    while size:
        got = len(client.recv(size))
        if not got:
            raise ConnectionError("the server closed the well-behaved client's connection")
        size -= got


@contextlib.contextmanager
def _hostile(port: int, behaviour: Behaviour | None) -> Iterator[None]:
    if behaviour is None:
        yield
        return
    process = multiprocessing.get_context("fork").Process(target=behaviour, args=(port,), daemon=True)
    process.start()
    try:
        time.sleep(SETTLE_S)
        yield
        if process.exitcode is not None:
            raise RuntimeError(f"the hostile clients ended by themselves ({behaviour.__name__}, exit status {process.exitcode})")
    finally:
        process.kill()
        process.join()


# The behaviours. Each runs in a process of its own that is killed in the end.


def _crowd(port: int, count: int = MANY) -> list[socket.socket]:
    return [socket.create_connection(("127.0.0.1", port)) for _ in range(count)]


def slow_senders(port: int) -> None:
    """A byte of a large value now and then, from each of many."""
    crowd = _crowd(port)
    for number, sock in enumerate(crowd):
        sock.sendall(b"set slow%d 0 0 %d\r\n" % (number, VALUE_BYTES) + b"x" * 1000)
    while True:
        for sock in crowd:
            sock.sendall(b"x")
        time.sleep(PAUSE_S)


def slow_readers(port: int) -> None:
    """Each of many asks for ten large values and never reads."""
    crowd = _crowd(port)
    for sock in crowd:
        sock.setblocking(False)
    while True:
        for sock in crowd:
            with contextlib.suppress(BlockingIOError, ConnectionError):
                sock.send(b"get large\r\n" * 10)
        time.sleep(PAUSE_S)


def endless_lines(port: int) -> None:
    """Bytes without a newline, as fast as they are taken."""
    _flood(port, 8, b"x" * 65536)


def huge_multi_gets(port: int) -> None:
    """Lines with ten thousand keys."""
    _flood(port, 4, b"get " + b" ".join(b"small" for _ in range(10_000)) + b"\r\n")


def tiny_pipelined(port: int) -> None:
    """Millions of the shortest requests, as fast as they are taken."""
    _flood(port, 4, b"get a\r\n" * 10_000)


def _flood(port: int, count: int, block: bytes) -> None:
    """Send the block again and again on each connection, and read what comes; a connection that was closed is made anew."""
    crowd = {sock.fileno(): (sock, 0) for sock in _crowd(port, count)}
    for sock, _ in crowd.values():
        sock.setblocking(False)
    while True:
        readable, writable, _ = select.select(list(crowd), list(crowd), [])
        for fd in {*readable, *writable}:
            sock, sent = crowd[fd]
            try:
                if fd in readable and not sock.recv(1 << 20):
                    raise ConnectionError
                if fd in writable:
                    sent = (sent + sock.send(block[sent:])) % len(block)
                crowd[fd] = sock, sent
            except BlockingIOError:
                continue
            except ConnectionError:
                sock.close()
                del crowd[fd]
                fresh = socket.create_connection(("127.0.0.1", port))
                fresh.setblocking(False)
                crowd[fresh.fileno()] = fresh, 0


def half_closed(port: int) -> None:
    """Many clients that ask, close their side and keep the connection."""
    kept: list[socket.socket] = []
    while True:
        sock = socket.create_connection(("127.0.0.1", port))
        with contextlib.suppress(OSError):  # the server may have closed it already
            sock.sendall(b"get large\r\n" * 3 + b"set half 0 0 100\r\nxx")
            sock.shutdown(socket.SHUT_WR)
        kept.append(sock)
        if len(kept) > MANY:
            kept.pop(0).close()


def connection_flood(port: int) -> None:
    """Connections as fast as one process can make them, each closed at once."""
    while True:
        socket.create_connection(("127.0.0.1", port)).close()


BEHAVIOURS: dict[str, Behaviour | None] = {
    "nobody": None,
    f"{MANY} slow senders": slow_senders,
    f"{MANY} slow readers": slow_readers,
    "endless lines": endless_lines,
    "gets of 10,000 keys": huge_multi_gets,
    "tiny requests, pipelined": tiny_pipelined,
    "half-closed": half_closed,
    "connection flood": connection_flood,
}
