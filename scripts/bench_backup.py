"""What a backup costs those who write meanwhile, how long it takes, and a restore; and whether the restored table is the same."""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import select
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from bench_report import OURS, Figure, Progress, Section
from bench_servers import Server, remove_tables, start

import memcache_shm
from memcache_shm.client.snapshot import snapshots

CALM = "no backup"
VALUE_BYTES = 1000
ITEM_BYTES = 1056  # in the arena, in steps of 16: 24, the key's 12 bytes, the value
CONNECTIONS = 50
EACH_S = 100  # sets a second of each connection
ROUND_S = 5.0
MIB = 1 << 20
_STORED = b"STORED\r\n"


def measure(directory: Path, in_use_mib: int, workers: int, rounds: int, progress: Progress) -> Section:
    """A table with so much in use, written to all the time."""
    names = (
        "middle",
        "slow",
        "most",
        "sets",
        "took",
        "rate",
        "held",
        "held_sum",
        "per_mib",
        "instants",
        "restored",
        "restore_rate",
        "differ",
    )
    samples: dict[str, dict[str, list[float]]] = {OURS: {name: [] for name in names}, CALM: {name: [] for name in names}}
    home = directory / f"backup-{in_use_mib}"
    home.mkdir()
    try:
        with _daemon(home, in_use_mib, workers) as server, _attached(home, server.port) as cache:
            count = _fill(cache, in_use_mib)
            for number in range(rounds):
                progress.say(f"backup of {in_use_mib} MiB: round {number + 1} of {rounds}")
                _note(samples[CALM], _written_to(server, count, None))
                _note(samples[OURS], _written_to(server, count, lambda: _backup(home, server.port)))
                _note(samples[OURS], _restore(home, cache, in_use_mib))
    finally:
        remove_tables(home / "tables")
    return _section(samples, in_use_mib, count, workers, rounds)


def _section(samples: dict[str, dict[str, list[float]]], in_use_mib: int, count: int, workers: int, rounds: int) -> Section:
    def both(name: str) -> dict[str, list[float]]:
        return {OURS: samples[OURS][name], CALM: samples[CALM][name]}

    def ours(name: str) -> dict[str, list[float]]:
        return {OURS: samples[OURS][name]}

    what = (
        f"{count:,} items of {VALUE_BYTES} bytes; {CONNECTIONS} connections set random ones of them, {EACH_S} a second each, -t {workers}"
    )
    return Section(
        f"A backup of {in_use_mib} MiB in use",
        f"{what};\nin each {ROUND_S:g} s one backup to a file, or none; {rounds} rounds: median (lowest-highest). Daemon, writers\n"
        "and backup share the machine. Differ: items of the restored table, in any field, from a backup that nobody wrote beside.",
        [
            Figure("a set's round trip, median", "ms", both("middle"), CALM),
            Figure("a set's round trip, 99 %", "ms", both("slow"), CALM),
            Figure("a set's round trip, longest", "ms", both("most"), CALM),
            Figure("sets a second", "1/s", both("sets"), CALM, more_is_better=True),
            Figure("a backup", "s", ours("took")),
            Figure("a backup", "MiB/s", ours("rate"), more_is_better=True),
            Figure("instants", "", ours("instants")),
            Figure("writers of a shard waited at most", "ms", ours("held")),
            Figure("all waits together", "ms", ours("held_sum")),
            Figure("wait a MiB", "ms", ours("per_mib")),
            Figure("a restore", "s", ours("restored")),
            Figure("a restore", "MiB/s", ours("restore_rate"), more_is_better=True),
            Figure("items that differ", "", ours("differ"), limit=0),
        ],
    )


def _note(samples: dict[str, list[float]], found: dict[str, list[float]]) -> None:
    for name, values in found.items():
        samples[name] += values


@contextmanager
def _daemon(home: Path, in_use_mib: int, workers: int) -> Iterator[Server]:
    server = start(OURS, workers, home, ["-m", str(in_use_mib * 5 // 4)])
    try:
        yield server
    finally:
        server.stop()


@contextmanager
def _attached(home: Path, port: int) -> Iterator[memcache_shm.Cache]:
    os.environ["MEMCACHE_SHM_DIR"] = str(home / "tables")
    with memcache_shm.attach(f"memcache_shm-{port}") as cache:
        yield cache


def _fill(cache: memcache_shm.Cache, in_use_mib: int) -> int:
    """How many items it holds then."""
    count = in_use_mib * MIB // ITEM_BYTES
    for number in range(count):
        cache.set(b"key:%08d" % number, b"%0*d" % (VALUE_BYTES, number), expire=number % 3 * 100_000, flags=number & 0xFF)
    if len(cache) != count:
        raise RuntimeError(f"the table holds {len(cache)} of {count} items")
    return count


# The writers


def _written_to(server: Server, count: int, work: Callable[[], dict[str, float]] | None) -> dict[str, list[float]]:
    """What the connections notice for a while in which `work` is done; and what that tells."""
    fork = multiprocessing.get_context("fork")
    ready, over, result = fork.Event(), fork.Event(), fork.SimpleQueue()
    writer = fork.Process(target=_write, args=(server.port, count, ready, over, result), daemon=True)
    writer.start()
    found: dict[str, list[float]] = {}
    try:
        if not ready.wait(30):
            raise RuntimeError("the writers did not start")
        end = time.monotonic() + ROUND_S
        if work is not None:
            _append(found, work())
        time.sleep(max(0.0, end - time.monotonic()))
        over.set()
        times, took_s = result.get()
    finally:
        writer.kill()
        writer.join()
    times.sort()
    _append(found, {"middle": times[len(times) // 2] * 1e3, "slow": times[len(times) * 99 // 100] * 1e3, "most": times[-1] * 1e3})
    return found | {"sets": [len(times) / took_s]}


def _append(found: dict[str, list[float]], values: dict[str, float]) -> None:
    for name, value in values.items():
        found.setdefault(name, []).append(value)


def _write(port: int, count: int, ready: Any, over: Any, result: Any) -> None:
    """All connections in one process: each sends its next set when that is due and the one before is answered."""
    choose = random.Random(1)
    poller = select.epoll()
    connections = {sock.fileno(): sock for sock in (socket.create_connection(("127.0.0.1", port)) for _ in range(CONNECTIONS))}
    began = time.perf_counter()
    due = {fd: began + number / EACH_S / CONNECTIONS for number, fd in enumerate(connections)}
    sent: dict[int, float] = {}
    times: list[float] = []
    for fd in connections:
        poller.register(fd, select.EPOLLIN)
    ready.set()
    while not over.is_set() or sent:
        now = time.perf_counter()
        for fd, at in due.items():
            if at <= now and fd not in sent and not over.is_set():
                sent[fd] = time.perf_counter()
                key = choose.randrange(count)
                connections[fd].sendall(b"set key:%08d 1 0 %d\r\n%0*d\r\n" % (key, VALUE_BYTES, VALUE_BYTES, key))
        for fd, _ in poller.poll(max(0.0, min(due.values()) - time.perf_counter()) if not sent else 0.001):
            if connections[fd].recv(64) != _STORED:
                raise RuntimeError("a set was refused")
            times.append(time.perf_counter() - sent.pop(fd))
            due[fd] = max(due[fd] + 1 / EACH_S, time.perf_counter() - 1 / EACH_S)
    result.put((times, time.perf_counter() - began))


# Backups and restores


def _verb(*words: str) -> dict[str, Any]:
    done = subprocess.run([sys.executable, "-m", "memcache_shm", *words, "--json"], stdout=subprocess.PIPE, check=True)
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def _backup(home: Path, port: int) -> dict[str, float]:
    said = _verb("backup", f"memcache_shm-{port}", str(home / "backup"))
    size_mib = said["bytes"] / MIB
    return {
        "took": said["took_s"],
        "rate": size_mib / said["took_s"],
        "held": said["held_ns"] / 1e6,
        "held_sum": said["held_sum_ns"] / 1e6,
        "per_mib": said["held_sum_ns"] / 1e6 / size_mib,
        "instants": said["instants"],
    }


def _restore(home: Path, cache: memcache_shm.Cache, in_use_mib: int) -> dict[str, list[float]]:
    """Into a new table, from a backup that nobody writes beside."""
    _verb("backup", cache.name, str(home / "backup"))
    with memcache_shm.open("restored", memory=f"{in_use_mib * 5 // 4}m") as restored:
        began = time.perf_counter()
        _verb("restore", str(home / "backup"), "restored")
        took_s = time.perf_counter() - began
        differ = len(_contents(cache) ^ _contents(restored))
    memcache_shm.unlink("restored")
    return {"restored": [took_s], "restore_rate": [(home / "backup").stat().st_size / MIB / took_s], "differ": [differ]}


def _contents(cache: memcache_shm.Cache) -> set[int]:
    """One number an item, by all of its fields."""
    return {hash(item) for part in snapshots(cache) for item in part}
