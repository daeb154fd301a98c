"""The figures over TCP: the servers' CPU time a request, connects a second, memory of idle connections, the start."""

from __future__ import annotations

import resource
import subprocess
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from bench_report import Figure, Progress, Section
from bench_servers import MEMCACHED, Server, running, start

CONNECTIONS = 50
KEYS = 10_000
VALUE_BYTES = 100
DEPTH = 32
IDLE = 5000
CONNECTORS = 4
ROUND_TRIPS = 2000
STARTS = 7


@dataclass(frozen=True)
class Plan:
    """How much is done, and with what."""

    load: Path  # bench_load.c, compiled
    directory: Path
    contenders: Sequence[str]
    workers: int
    rounds: int
    requests: int  # plain, a round; pipelined twice as many
    connect_ms: int  # of connecting, a round
    progress: Progress


def measure(plan: Plan) -> list[Section]:
    with running(plan.contenders, plan.workers, plan.directory) as servers:
        for server in servers.values():
            _requests(plan, server, "set", DEPTH, 20 * KEYS)
        sections = [_cpu(plan, servers), _round_trips(plan, servers), _connects(plan, servers)]
    with running(plan.contenders, plan.workers, plan.directory) as servers:
        sections.append(_idle(plan, servers))
    return [*sections, _start(plan)]


def _cpu(plan: Plan, servers: dict[str, Server]) -> Section:
    section = Section(
        f"Over TCP: CPU time of the server's processes a request ({CONNECTIONS} connections)",
        f"{VALUE_BYTES}-byte values, {KEYS:,} keys at random, -t {plan.workers} (redis: its one thread); user and system time of all the\n"
        f"server's processes, median of {plan.rounds} alternating rounds (lowest-highest). Plain: one request in flight a\n"
        f"connection; pipelined: {DEPTH} written by one send. Rates: the one client thread sets the pace.",
    )
    rates: list[Figure] = []
    for shape, depth in (("plain", 1), ("pipelined", DEPTH)):
        for operation in ("get", "set"):
            plan.progress.say(f"CPU time: {operation}, {shape}")
            cpu_us, rate = _cpu_rounds(plan, servers, operation, depth)
            subject = f"{operation.upper()} {shape}"
            section.figures.append(Figure(subject, "us CPU", cpu_us, reference=MEMCACHED, limit_ratio=1))
            rates.append(Figure(subject, "thousand/s", rate, reference=MEMCACHED, more_is_better=True))
    if plan.rounds > 1:
        section.figures.append(_memcaslap(plan, servers))
    section.figures += rates
    return section


def _cpu_rounds(
    plan: Plan, servers: dict[str, Server], operation: str, depth: int
) -> tuple[dict[str, list[float]], dict[str, list[float]]]:
    """us of CPU a request, and thousands of requests a second, each contender once a round."""
    cpu_us: dict[str, list[float]] = {name: [] for name in servers}
    rate: dict[str, list[float]] = {name: [] for name in servers}
    total = plan.requests if depth == 1 else 2 * plan.requests
    for name, server in _alternating(servers, plan.rounds):
        before = server.cpu_ns()
        done, taken_ns = _requests(plan, server, operation, depth, total)
        cpu_us[name].append((server.cpu_ns() - before) / done / 1e3)
        rate[name].append(done / taken_ns * 1e6)
    return cpu_us, rate


def _memcaslap(plan: Plan, servers: dict[str, Server]) -> Figure:
    """The same question put by libmemcached's load generator: nine gets to a set, 64-byte keys, 50 connections."""
    cpu_us: dict[str, list[float]] = {name: [] for name, server in servers.items() if server.protocol == MEMCACHED}
    for name, server in _alternating({name: servers[name] for name in cpu_us}, plan.rounds):
        plan.progress.say(f"CPU time: memcaslap, {name}")
        before = server.cpu_ns()
        words = ["memcaslap", "-s", f"127.0.0.1:{server.port}", "-T", "1", "-c", str(CONNECTIONS), "-X", str(VALUE_BYTES)]
        subprocess.run([*words, "-x", str(plan.requests)], check=True, capture_output=True, timeout=60)
        cpu_us[name].append((server.cpu_ns() - before) / plan.requests / 1e3)
    return Figure("memcaslap", "us CPU", cpu_us, reference=MEMCACHED)


def _round_trips(plan: Plan, servers: dict[str, Server]) -> Section:
    """What a Python program pays when it asks a server instead of attaching the table."""
    samples: dict[str, list[float]] = {name: [] for name in servers}
    for name, server in _alternating(servers, plan.rounds):
        plan.progress.say(f"round trips: {name}")
        samples[name].append(_round_trip_us(server))
    return Section(
        "Over TCP: one Python client waits for each reply",
        f"{ROUND_TRIPS:,} times version (redis: PING) by a bare socket; to compare with a get of an attached table.",
        [Figure("round trip", "us", samples, reference=MEMCACHED)],
    )


def _round_trip_us(server: Server) -> float:
    with server.connect() as connection:
        server.ask(connection)
        start = time.perf_counter_ns()
        for _ in range(ROUND_TRIPS):
            server.ask(connection)
        return (time.perf_counter_ns() - start) / ROUND_TRIPS / 1e3


def _connects(plan: Plan, servers: dict[str, Server]) -> Section:
    section = Section(
        "Over TCP: connections",
        f"{CONNECTORS} processes connect, ask for the version and close, for {plan.connect_ms} ms; median of {plan.rounds} rounds.",
    )
    chosen = {name: server for name, server in servers.items() if server.protocol == MEMCACHED}
    rate: dict[str, list[float]] = {name: [] for name in chosen}
    cpu_us: dict[str, list[float]] = {name: [] for name in chosen}
    for network, (name, server) in enumerate(_alternating(chosen, plan.rounds), start=1):
        plan.progress.say(f"connects: {name}")
        before = server.cpu_ns()
        made, taken_ns = _run(plan.load, "connects", server.port, CONNECTORS, plan.connect_ms, network)
        rate[name].append(made / taken_ns * 1e9)
        cpu_us[name].append((server.cpu_ns() - before) / made / 1e3)
    section.figures.append(Figure("connects", "a second", rate, reference=MEMCACHED, limit_ratio=1, more_is_better=True))
    section.figures.append(Figure("connect, version, close", "us CPU", cpu_us, reference=MEMCACHED))
    return section


def _idle(plan: Plan, servers: dict[str, Server]) -> Section:
    """Each connection has asked once, so that what a request leaves behind is counted."""
    section = Section(
        f"Over TCP: {IDLE:,} idle connections",
        "Growth of the process tree's memory (PSS) a connection; each has had one reply.",
    )
    figure = Figure("idle connection", "bytes", {}, reference=MEMCACHED, limit=1024)
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    for name, server in servers.items():
        plan.progress.say(f"idle connections: {name}")
        with ExitStack() as stack:
            _open_idle(server, 2 * CONNECTIONS, stack)
            before = server.memory_bytes()
            _open_idle(server, IDLE, stack)
            figure.samples[name] = [(server.memory_bytes() - before) / IDLE]
    section.figures.append(figure)
    return section


def _open_idle(server: Server, count: int, stack: ExitStack) -> None:
    for _ in range(count):
        server.ask(stack.enter_context(server.connect()))


def _start(plan: Plan) -> Section:
    section = Section(
        "Start",
        "From exec to the first reply to version (redis: PING); ours: python -m memcache_shm 1024 256.",
    )
    samples: dict[str, list[float]] = {name: [] for name in plan.contenders}
    for _ in range(STARTS):
        for name in plan.contenders:
            plan.progress.say(f"start: {name}")
            samples[name].append(_start_ms(plan, name))
    section.figures.append(Figure("exec to first reply", "ms", samples, reference=MEMCACHED, limit=300))
    return section


def _start_ms(plan: Plan, name: str) -> float:
    begin = time.perf_counter()
    server = start(name, plan.workers, plan.directory, ("1024", "256"))
    taken_ms = (time.perf_counter() - begin) * 1e3
    server.stop()
    return taken_ms


def _alternating(servers: dict[str, Server], rounds: int) -> list[tuple[str, Server]]:
    """Every contender once a round, in turns, so that a slow spell of the machine meets all."""
    return list(servers.items()) * rounds


def _requests(plan: Plan, server: Server, operation: str, depth: int, total: int) -> tuple[int, int]:
    """Requests done, and ns taken."""
    return _run(plan.load, "requests", server.port, server.protocol, operation, CONNECTIONS, depth, total, KEYS, VALUE_BYTES)


def _run(program: Path, *words: object) -> tuple[int, int]:
    """The two figures that bench_load prints."""
    output = subprocess.run([program, *map(str, words)], check=True, stdout=subprocess.PIPE, text=True).stdout
    done, taken_ns = output.split()
    return int(done), int(taken_ns)
