"""The channel beside sockets: round trips, pipelines, 64 clients at once, and what idle channels cost.

Every door is driven by the same bare exchange in Python: bytes out by `sendall`, bytes in by `recv_into`.
"""

from __future__ import annotations

import multiprocessing
import socket
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median, quantiles

from bench_report import OURS, Figure, Progress, Section
from bench_servers import MEMCACHED, REDIS, Server, cpu_ticks, process_tree, running

from memcache_shm.client.channel import Channel

KEYS = 10_000
VALUE_BYTES = 100
BATCH = 200  # requests that one send writes; two batches are in flight
CLIENTS = 64
CROWD_BATCH = 32
UNIX = "UNIX socket"
TCP = "TCP"
TITLES = {MEMCACHED: "memcached, UNIX", REDIS: "redis, UNIX"}

Stream = socket.socket | Channel


@dataclass(frozen=True)
class Door:
    """A way to a server."""

    server: Server
    connect: Callable[[], Stream]


@dataclass(frozen=True)
class Plan:
    """How much is done."""

    directory: Path
    contenders: Sequence[str]
    workers: int
    rounds: int
    round_trips: int  # a round
    pipelined: int
    crowd_s: float
    idle_s: float
    progress: Progress


class Load:
    """Gets of keys that are there, in a server's own protocol, and how long their replies are."""

    def __init__(self, protocol: str) -> None:
        self._redis = protocol == REDIS
        self.reply_bytes = len(f"${VALUE_BYTES}\r\n" if self._redis else f"VALUE {_key(0)} 0 {VALUE_BYTES}\r\nEND\r\n") + VALUE_BYTES + 2

    def fill(self, stream: Stream) -> None:
        for first in range(0, KEYS, BATCH):
            stream.sendall("".join(map(self._set, range(first, first + BATCH))).encode())
            _receive(stream, BATCH * len("+OK\r\n" if self._redis else "STORED\r\n"))

    def gets(self, count: int, first: int = 0) -> bytes:
        return "".join(self._get((first + at * 7919) % KEYS) for at in range(count)).encode()

    def _get(self, number: int) -> str:
        key = _key(number)
        return f"*2\r\n$3\r\nGET\r\n${len(key)}\r\n{key}\r\n" if self._redis else f"get {key}\r\n"

    def _set(self, number: int) -> str:
        key, value = _key(number), "v" * VALUE_BYTES
        if self._redis:
            return f"*3\r\n$3\r\nSET\r\n${len(key)}\r\n{key}\r\n${VALUE_BYTES}\r\n{value}\r\n"
        return f"set {key} 0 0 {VALUE_BYTES}\r\n{value}\r\n"


def measure(plan: Plan) -> list[Section]:
    with running(plan.contenders, plan.workers, plan.directory, local=True) as servers:
        doors = _doors(servers)
        for server in servers.values():
            with server.connect() as stream:
                Load(server.protocol).fill(stream)
        return [_alone(plan, doors), _crowd(plan, doors), _idle(plan, doors)]


def _doors(servers: dict[str, Server]) -> dict[str, Door]:
    doors = {}
    if OURS in servers:
        ours = servers[OURS]
        doors[OURS] = Door(ours, partial(Channel, ours.path))
        doors[UNIX] = Door(ours, ours.connect)
        doors[TCP] = Door(ours, partial(_dial, ours.port))
    return doors | {TITLES[name]: Door(server, server.connect) for name, server in servers.items() if name != OURS}


def _alone(plan: Plan, doors: dict[str, Door]) -> Section:
    section = Section(
        "Channel: one client",
        f"{VALUE_BYTES}-byte values, -t {plan.workers}, a bare exchange in Python, the same for all; {OURS} is the channel.\n"
        f"Median of {plan.rounds} alternating rounds (lowest-highest). Pipelined: {BATCH} gets are written at once, two such batches\n"
        "are in flight.",
    )
    trips: dict[str, dict[str, list[float]]] = {kind: {name: [] for name in doors} for kind in ("half", "99", "cpu", "rate", "cpu each")}
    for name, door in list(doors.items()) * plan.rounds:
        plan.progress.say(f"round trips: {name}")
        before = door.server.cpu_ns()
        taken_us = _round_trips_us(door, plan.round_trips)
        trips["cpu"][name].append((door.server.cpu_ns() - before) / plan.round_trips / 1e3)
        trips["half"][name].append(median(taken_us))
        trips["99"][name].append(quantiles(taken_us, n=100)[-1])
        plan.progress.say(f"pipelined: {name}")
        before = door.server.cpu_ns()
        trips["rate"][name].append(_pipelined_rate(door, plan.pipelined))
        trips["cpu each"][name].append((door.server.cpu_ns() - before) / plan.pipelined / 1e3)
    section.figures += [
        Figure("get, median", "us", trips["half"], reference=UNIX, limit_ratio=0.5),
        Figure("get, 99 %", "us", trips["99"], reference=UNIX),
        Figure("get, server's CPU", "us", trips["cpu"], reference=UNIX),
        Figure("gets pipelined", "a second", trips["rate"], reference=UNIX, limit=1_500_000, more_is_better=True),
        Figure("get pipelined, server's CPU", "us", trips["cpu each"], reference=UNIX),
    ]
    return section


def _round_trips_us(door: Door, count: int) -> list[float]:
    load = Load(door.server.protocol)
    request = load.gets(1)
    taken_us = []
    with door.connect() as stream:
        for _ in range(count):
            begun_ns = time.perf_counter_ns()
            stream.sendall(request)
            _receive(stream, load.reply_bytes)
            taken_us.append((time.perf_counter_ns() - begun_ns) / 1e3)
    return taken_us


def _pipelined_rate(door: Door, count: int) -> float:
    load = Load(door.server.protocol)
    batches = [load.gets(BATCH, first) for first in range(16)]
    with door.connect() as stream:
        begun_ns = time.perf_counter_ns()
        stream.sendall(batches[0])
        for at in range(1, count // BATCH):
            stream.sendall(batches[at % len(batches)])
            _receive(stream, BATCH * load.reply_bytes)
        _receive(stream, BATCH * load.reply_bytes)
        return count / (time.perf_counter_ns() - begun_ns) * 1e9


def _crowd(plan: Plan, doors: dict[str, Door]) -> Section:
    section = Section(
        f"Channel: {CLIENTS} clients at once",
        f"{CLIENTS} processes with a connection each, for {plan.crowd_s:g} s; median of {plan.rounds} alternating rounds.\n"
        "Clients and server share the cores.",
    )
    for title, depth in (("one get in flight a client", 1), (f"{CROWD_BATCH} gets pipelined a client", CROWD_BATCH)):
        rate: dict[str, list[float]] = {name: [] for name in doors}
        cpu_us: dict[str, list[float]] = {name: [] for name in doors}
        for name, door in list(doors.items()) * plan.rounds:
            plan.progress.say(f"{CLIENTS} clients: {name}, {title}")
            before = door.server.cpu_ns()
            done = _run_crowd(door, depth, plan.crowd_s)
            rate[name].append(done / plan.crowd_s)
            cpu_us[name].append((door.server.cpu_ns() - before) / done / 1e3)
        section.figures.append(Figure(title, "a second", rate, reference=UNIX, more_is_better=True))
        section.figures.append(Figure("... server's CPU", "us a get", cpu_us, reference=UNIX))
    return section


def _run_crowd(door: Door, depth: int, seconds: float) -> int:
    """Gets that all of them did. RuntimeError when a client failed."""
    fork = multiprocessing.get_context("fork")
    counts = fork.Array("Q", CLIENTS, lock=False)
    ready = fork.Barrier(CLIENTS, timeout=60)
    clients = [fork.Process(target=_one_of_many, args=(door, depth, seconds, ready, counts, at), daemon=True) for at in range(CLIENTS)]
    for client in clients:
        client.start()
    for client in clients:
        client.join()
    if any(client.exitcode for client in clients):
        raise RuntimeError("a client of the crowd failed")
    return sum(counts)


def _one_of_many(door: Door, depth: int, seconds: float, ready, counts, at: int) -> None:  # type: ignore[no-untyped-def]
    load = Load(door.server.protocol)
    request = load.gets(depth, at)
    with door.connect() as stream:
        ready.wait()
        until = time.monotonic() + seconds
        done = 0
        while time.monotonic() < until:
            stream.sendall(request)
            _receive(stream, depth * load.reply_bytes)
            done += depth
        counts[at] = done


def _idle(plan: Plan, doors: dict[str, Door]) -> Section:
    section = Section(
        f"Channel: {CLIENTS} idle clients",
        f"Each has asked once; then user and system time of the workers over {plan.idle_s:g} s, in ticks of the kernel (10 ms).",
    )
    ticks = Figure("workers' CPU", "ticks", {}, limit=0)
    for name, door in doors.items():
        plan.progress.say(f"idle: {name}")
        load = Load(door.server.protocol)
        with ExitStack() as stack:
            for _ in range(CLIENTS):
                stream = stack.enter_context(door.connect())
                stream.sendall(load.gets(1))
                _receive(stream, load.reply_bytes)
            pids = process_tree(door.server.process.pid)
            workers = pids[1:] or pids  # who has no children serves himself
            before = sum(map(cpu_ticks, workers))
            time.sleep(plan.idle_s)
            ticks.samples[name] = [sum(map(cpu_ticks, workers)) - before]
    section.figures.append(ticks)
    return section


_buffer = bytearray(1 << 18)


def _receive(stream: Stream, size: int) -> None:
    """So many bytes of replies. ConnectionError when it is at its end."""
    while size > 0:
        count = stream.recv_into(_buffer, min(size, len(_buffer)))
        if count == 0:
            raise ConnectionError("the server closed the connection")
        size -= count


def _key(number: int) -> str:
    return f"bench:{number:08d}"


def _dial(port: int) -> socket.socket:
    connection = socket.create_connection(("127.0.0.1", port))
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return connection
