"""How long a follower needs for its copy while its leader is written to, how far it is behind then, and whether both end up equal."""

from __future__ import annotations

import multiprocessing
import os
import random
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from bench_report import OURS, Figure, Progress, Section
from bench_servers import Server, remove_tables, start

import memcache_shm
from memcache_shm.client.remote_feed import RemoteFeed

ITEMS = 1_000_000
VALUE_BYTES = 100
MEMORY_MIB = 256
CHANGES_S = 10_000
BURSTS_S = 500
MARKS = 300  # of which it is measured when they arrive
LIMIT_S = 300.0
_MARK = b"mark"


def measure(directory: Path, workers: int, rounds: int, progress: Progress) -> Section:
    samples: dict[str, list[float]] = {name: [] for name in ("copy", "rate", "middle", "slow", "differ")}
    for number in range(rounds):
        progress.say(f"follower: round {number + 1} of {rounds}")
        for name, sample in _round(directory, workers).items():
            samples[name].append(sample)
    return Section(
        "A follower",
        f"{ITEMS:,} items of {VALUE_BYTES} bytes over loopback, -t {workers} each, {CHANGES_S:,} sets a second at the leader by an\n"
        f"attached process all the time; {rounds} rounds: median (lowest-highest). Lag: {MARKS} marks set at the leader, until an\n"
        "attached process sees them in the copy. Differ: in key, value, flags, expiry or CAS id, once the writer has stopped.",
        [
            Figure("full copy", "s", {OURS: samples["copy"]}),
            Figure("items copied a second", "1/s", {OURS: samples["rate"]}, more_is_better=True),
            Figure("lag, median", "ms", {OURS: samples["middle"]}),
            Figure("lag, 99 %", "ms", {OURS: samples["slow"]}),
            Figure("items that differ then", "", {OURS: samples["differ"]}, limit=0),
        ],
    )


def _round(directory: Path, workers: int) -> dict[str, float]:
    with _daemon(directory / "leader", workers, []) as leader:
        _fill(directory / "leader", leader)
        with _written_to(directory / "leader", leader) as stop:
            began = time.monotonic()
            with _daemon(directory / "copy", workers, ["--follow", f"127.0.0.1:{leader.port}"]) as copy:
                _await(copy, "follow_copies", 1)
                copy_s = time.monotonic() - began
                lags = _lags(directory, leader, copy)
                stop()
                _await(copy, "follow_position", _position(leader))
                differ = len(_contents(leader) ^ _contents(copy))
    lags.sort()
    return {
        "copy": copy_s,
        "rate": ITEMS / copy_s,
        "middle": lags[len(lags) // 2],
        "slow": lags[len(lags) * 99 // 100],
        "differ": differ,
    }


@contextmanager
def _daemon(directory: Path, workers: int, options: list[str]) -> Iterator[Server]:
    directory.mkdir(exist_ok=True)
    try:
        server = start(OURS, workers, directory, ["-m", str(MEMORY_MIB), *options])
        try:
            yield server
        finally:
            server.stop()
    finally:
        remove_tables(directory / "tables")


def _attach(directory: Path, server: Server) -> memcache_shm.Cache:
    before = os.environ.get("MEMCACHE_SHM_DIR")
    os.environ["MEMCACHE_SHM_DIR"] = str(directory / "tables")
    try:
        return memcache_shm.attach(f"memcache_shm-{server.port}")
    finally:
        os.environ.pop("MEMCACHE_SHM_DIR")
        if before is not None:
            os.environ["MEMCACHE_SHM_DIR"] = before


def _fill(directory: Path, leader: Server) -> None:
    with _attach(directory, leader) as cache:
        for number in range(ITEMS):
            cache.set(b"key:%07d" % number, b"%0100d" % number)
        if len(cache) != ITEMS:
            raise RuntimeError(f"the leader holds {len(cache)} of {ITEMS} items")


@contextmanager
def _written_to(directory: Path, leader: Server) -> Iterator[Any]:
    """A process that sets random keys at a steady pace, and a function that ends it."""
    fork = multiprocessing.get_context("fork")
    over = fork.Event()
    writer = fork.Process(target=_write, args=(directory, leader, over))
    writer.start()

    def stop() -> None:
        over.set()
        writer.join()

    try:
        yield stop
    finally:
        stop()


def _write(directory: Path, leader: Server, over: Any) -> None:
    choose = random.Random(1)
    with _attach(directory, leader) as cache:
        due = time.monotonic()
        while not over.is_set():
            for _ in range(CHANGES_S // BURSTS_S):
                cache.set(b"key:%07d" % choose.randrange(ITEMS), b"%0100d" % choose.randrange(10**9))
            due += 1 / BURSTS_S
            time.sleep(max(0.0, due - time.monotonic()))


def _lags(directory: Path, leader: Server, copy: Server) -> list[float]:
    """Milliseconds from a set at the leader until the copy has it."""
    lags = []
    with _attach(directory / "leader", leader) as ours, _attach(directory / "copy", copy) as theirs:
        for number in range(MARKS):
            mark = b"%d" % number
            ours.set(_MARK, mark)
            began = time.monotonic()
            while theirs.get(_MARK) != mark:
                if time.monotonic() - began > LIMIT_S:
                    raise RuntimeError("a change did not arrive")
                time.sleep(0.0001)
            lags.append((time.monotonic() - began) * 1000)
            time.sleep(0.003)
    return lags


def _await(server: Server, name: str, least: int) -> None:
    """Wait until that figure of `stats shm` is at least so much."""
    end = time.monotonic() + LIMIT_S
    with server.connect() as connection:
        while _figure(connection, name) < least:
            if time.monotonic() > end:
                raise RuntimeError(f"{name} does not come to {least}")
            time.sleep(0.01)


def _figure(connection: socket.socket, name: str) -> int:
    connection.sendall(b"stats shm\r\n")
    reply = b""
    while not reply.endswith(b"END\r\n"):
        reply += connection.recv(1 << 16)
    return next((int(line.split()[2]) for line in reply.decode().splitlines() if line.startswith(f"STAT {name} ")), 0)


def _position(leader: Server) -> int:
    """The position in the leader's feed up to which somebody who comes now is told everything."""
    with RemoteFeed(f"127.0.0.1:{leader.port}").sync() as stream:
        return next(change.last for change in stream if change.kind == "synced")


def _contents(server: Server) -> set[int]:
    """One number an item, by all that is to be equal."""
    items: dict[bytes | None, int] = {}
    with RemoteFeed(f"127.0.0.1:{server.port}").sync() as stream:
        for change in stream:
            if change.kind == "synced":
                break
            items[change.key] = hash((change.key, change.value, change.flags, change.exptime, change.cas))
    return set(items.values())
