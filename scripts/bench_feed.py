"""What the feed of changes costs: a set while nobody listens and while somebody does, and a daemon with very many subscribers."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import re
import select
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from bench_report import OURS, Figure, Progress, Section
from bench_servers import Server, remove_tables, start

import memcache_shm

OFF = "feed off"
ALONE = "no subscribers"
SUBSCRIBERS = 1000
KEYS_EACH = 10
CHANGES_S = 10_000
BURSTS_S = 500
ROUND_S = 5.0
VALUE_BYTES = 100
LIMIT_S = 30.0
_NOTIFIED = re.compile(rb"NOTIFY set (s\d+:\d+) \d+ \d+ \d+ \d+\r\n(\d+)\r\n")


def measure_sets(rounds: int, calls: int, progress: Progress) -> Section:
    """The same sets into three tables in turn, by this process alone."""
    samples: dict[str, list[float]] = {OFF: [], "unheard": [], "heard": []}
    options: dict[str, dict[str, Any]] = {OFF: {"feed": 0}, "unheard": {}, "heard": {"feed": "1m"}}
    with contextlib.ExitStack() as remains:
        tables = {name: remains.enter_context(_table(f"feed-{os.getpid()}-{name.split()[0]}", option)) for name, option in options.items()}
        subscription = remains.enter_context(tables["heard"].subscribe("none-of-them"))
        for number in range(3 * rounds):
            progress.say(f"sets: round {number + 1} of {3 * rounds}")
            for name, table in tables.items():
                subscription.get(0)  # the lease, and the ring's end
                samples[name].append(_set_ns(table, calls))
    return Section(
        "A set and the feed",
        f"One attached process, 1000 keys, values of {VALUE_BYTES} bytes, {calls:,} sets a round in each of three tables in turn,\n"
        f"{3 * rounds} rounds: median (lowest-highest). Python's loop included.",
        [
            Figure("set, nobody listens", "ns", {OURS: samples["unheard"], OFF: samples[OFF]}, OFF, limit_ratio=1.05),
            Figure("set, somebody listens", "ns", {OURS: samples["heard"], OFF: samples[OFF]}, OFF),
        ],
    )


@contextlib.contextmanager
def _table(name: str, options: dict[str, Any]) -> Iterator[memcache_shm.Cache]:
    cache = memcache_shm.open(name, memory="64m", **options)
    try:
        yield cache
    finally:
        cache.close()
        memcache_shm.unlink(name)


def _set_ns(cache: memcache_shm.Cache, calls: int) -> float:
    keys = [b"key:%04d" % number for number in range(1000)]
    value, store = b"x" * VALUE_BYTES, cache.set
    began = time.perf_counter()
    for _ in range(calls // len(keys)):
        for key in keys:
            store(key, value)
    return (time.perf_counter() - began) / calls * 1e9


def measure_subscribers(directory: Path, workers: int, rounds: int, progress: Progress) -> Section:
    """A daemon with and without subscribers, in turn, under the same changes."""
    names = ("rate", "burst", "slow", "cpu", "grown", "missing", "late", "lost", "other")
    with_them: dict[str, list[float]] = {name: [] for name in names}
    alone: dict[str, list[float]] = {name: [] for name in names}
    for number in range(rounds):
        progress.say(f"subscribers: round {number + 1} of {rounds}")
        for samples, count in ((alone, 0), (with_them, SUBSCRIBERS)):
            for name, sample in _round(directory, workers, count).items():
                samples[name].append(sample)

    def both(name: str) -> dict[str, list[float]]:
        return {OURS: with_them[name], ALONE: alone[name]}

    return Section(
        f"{SUBSCRIBERS} subscribers",
        f"-t {workers}; each subscribes to a prefix of its own with {KEYS_EACH} keys; one connection sets them, {CHANGES_S:,} a second\n"
        f"in {BURSTS_S} bursts, for {ROUND_S:.0f} s. Then the same again while an attached process sets other keys as fast as it can.\n"
        f"{rounds} rounds in turn with no subscribers: median (lowest-highest). Subscribers and writers are processes of one machine.",
        [
            Figure("changes a second", "1/s", both("rate"), ALONE, limit_ratio=0.9, more_is_better=True),
            Figure("a burst's round trip, median", "us", both("burst"), ALONE),
            Figure("a burst's round trip, 99 %", "us", both("slow"), ALONE),
            Figure("CPU of the daemon", "%", both("cpu")),
            Figure("the daemon grew by", "MiB", both("grown")),
            Figure("last values that did not arrive", "", {OURS: with_them["missing"]}, limit=0),
            Figure("... and when the last one did, after its set", "ms", {OURS: with_them["late"]}),
            Figure("subscribers that were told LOST", "", {OURS: with_them["lost"]}),
            Figure("flat out: sets a second of the attached writer", "1/s", both("other"), ALONE, more_is_better=True),
        ],
    )


def _round(directory: Path, workers: int, subscribers: int) -> dict[str, float]:
    home = directory / "feed"
    home.mkdir(exist_ok=True)
    try:
        server = start(OURS, workers, home, ["--feed", "4m"])
        try:
            return _measure(home, server, subscribers)
        finally:
            server.stop()
    finally:
        remove_tables(home / "tables")


def _measure(home: Path, server: Server, subscribers: int) -> dict[str, float]:
    fork = multiprocessing.get_context("fork")
    ready, last = fork.Event(), fork.Queue()
    reader = fork.Process(target=_subscribe, args=(server.port, subscribers, ready, last), daemon=True)
    reader.start()
    if not ready.wait(LIMIT_S):
        raise RuntimeError("not all subscribers were admitted")
    before = server.memory_bytes()
    cpu_ns, began = server.cpu_ns(), time.monotonic()
    bursts, values, ended = _change(server)
    took_s = time.monotonic() - began
    cpu_ns = server.cpu_ns() - cpu_ns
    grown = server.memory_bytes() - before
    missing, late, lost = _arrived(last, values, ended) if subscribers else (0, 0.0, 0)
    other = _flat_out(home, server)
    reader.terminate()
    reader.join()
    bursts.sort()
    return {
        "rate": len(bursts) * (CHANGES_S // BURSTS_S) / took_s,
        "burst": bursts[len(bursts) // 2] * 1e6,
        "slow": bursts[len(bursts) * 99 // 100] * 1e6,
        "cpu": cpu_ns / took_s / 1e7,
        "grown": grown / 2**20,
        "missing": missing,
        "late": late,
        "lost": lost,
        "other": other,
    }


def _flat_out(home: Path, server: Server) -> float:
    """Sets a second of an attached writer beside the changes."""
    fork = multiprocessing.get_context("fork")
    done, rate = fork.Event(), fork.Value("d", 0.0)
    writer = fork.Process(target=_set_others, args=(home, server.port, done, rate), daemon=True)
    writer.start()
    _change(server)
    done.set()
    writer.join()
    return rate.value


def _change(server: Server) -> tuple[list[float], dict[bytes, bytes], float]:
    """Set the subscribed keys at a steady pace: how long each burst took, the last value of each key, when the last was set."""
    size, number = CHANGES_S // BURSTS_S, 0
    took: list[float] = []
    values: dict[bytes, bytes] = {}
    with server.connect() as connection:
        due = time.monotonic()
        until = due + ROUND_S
        while due < until:
            request = []
            for _ in range(size):
                key = b"s%03d:%d" % (number % SUBSCRIBERS, number // SUBSCRIBERS % KEYS_EACH)
                values[key] = value = b"%0*d" % (VALUE_BYTES, number)
                request.append(b"set %b 0 0 %d\r\n%b\r\n" % (key, VALUE_BYTES, value))
                number += 1
            began = time.perf_counter()
            connection.sendall(b"".join(request))
            _await_stored(connection, size)
            took.append(time.perf_counter() - began)
            due += 1 / BURSTS_S
            time.sleep(max(0.0, due - time.monotonic()))
        return took, values, time.monotonic()


def _await_stored(connection: socket.socket, count: int) -> None:
    left = count * len(b"STORED\r\n")
    while left:
        received = connection.recv(left)
        if not received:
            raise ConnectionError("the server closed the writer's connection")
        left -= len(received)


def _set_others(home: Path, port: int, done: Any, rate: Any) -> None:
    os.environ["MEMCACHE_SHM_DIR"] = str(home / "tables")
    keys = [b"other:%04d" % number for number in range(1000)]
    with memcache_shm.attach(f"memcache_shm-{port}") as cache:
        count, began = 0, time.monotonic()
        while not done.is_set():
            for key in keys:
                cache.set(key, b"x" * VALUE_BYTES)
            count += len(keys)
        rate.value = count / (time.monotonic() - began)


def _subscribe(port: int, count: int, ready: Any, last: Any) -> None:
    """All subscribers in one process: the last value of each key they were told of goes into the queue, with the time."""
    poller = select.epoll()
    connections: dict[int, socket.socket] = {}
    rest: dict[int, bytes] = {}
    for number in range(count):
        connection = socket.create_connection(("127.0.0.1", port))
        connection.sendall(b"subscribe s%03d:*\r\n" % number)
        if connection.recv(100) != b"OK 1\r\n":
            raise RuntimeError("a subscriber was refused")
        connections[connection.fileno()] = connection
        rest[connection.fileno()] = b""
        poller.register(connection, select.EPOLLIN)
    threading.Thread(target=_pass_on, args=(told := {}, lost := set(), last), daemon=True).start()
    ready.set()
    while True:
        for fd, _ in poller.poll():
            data = rest[fd] + connections[fd].recv(65536)
            if b"LOST " in data:
                lost.add(fd)
            end = 0
            for match in _NOTIFIED.finditer(data):
                told[match[1]] = (match[2], time.monotonic())
                end = match.end()
            rest[fd] = data[end:]


def _pass_on(told: dict[bytes, tuple[bytes, float]], lost: set[int], last: Any) -> None:
    """What was told so far, now and then."""
    while True:
        time.sleep(0.5)
        last.put((dict(told), len(lost)))


def _arrived(last: Any, values: dict[bytes, bytes], ended: float) -> tuple[int, float, int]:
    """How many last values are missing in the end, how late the last of the others came (ms), and how many subscribers LOST something."""
    until = time.monotonic() + LIMIT_S
    told: dict[bytes, tuple[bytes, float]] = {}
    lost = 0
    while time.monotonic() < until:
        told, lost = last.get(timeout=LIMIT_S)
        if all(told.get(key, (b"",))[0] == value for key, value in values.items()):
            break
    missing = sum(told.get(key, (b"",))[0] != value for key, value in values.items())
    return missing, max(0.0, max(when for _, when in told.values()) - ended) * 1000, lost
