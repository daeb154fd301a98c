"""The attached figures: a get and a set from Python against lmdb, and what the machine charges for a lock and a load."""

from __future__ import annotations

import gc
import hashlib
import itertools
import os
import random
import statistics
import subprocess
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path

import lmdb
from bench_report import OURS, Figure, Progress, Section

import memcache_shm

VALUE = b"v" * 100
#: Names without an order, which a tree could profit from. They lie in memory in the order of their use: the keys' own cache misses
#: are not what is measured.
KEYS = [hashlib.md5(b"%d" % number).hexdigest().encode() for number in range(100_000)]
TABLE = f"bench-{os.getpid()}"
#: Calls between two looks at the clock: less than the scheduler's slice.
STRETCH = 2000
#: A put that waits for the disk takes long; this many give a figure.
SYNCED_CALLS = 100
LMDB_SETTINGS = {
    "lmdb": {"sync": False, "writemap": True},
    "lmdb, no writemap": {"sync": False},
    "lmdb, default": {},
}

Loop = Callable[[Sequence[bytes]], None]


def measure(directory: Path, rounds: int, calls: int, progress: Progress) -> Section:
    """`directory` takes lmdb's files."""
    section = Section(
        "Attached: a Python program reads and writes the table itself",
        f"{len(VALUE)}-byte values, {len(KEYS[0])}-byte keys; ns a call with the loop around it; median of {rounds} rounds of\n"
        f"{calls:,} calls (lowest-highest). lmdb: a transaction each; sync=False, writemap=True, without writemap, and as it comes (a\n"
        "sync each).",
    )
    with ExitStack() as stack:
        cache = memcache_shm.open(TABLE, memory="64m")
        stack.callback(memcache_shm.unlink, TABLE)
        stack.callback(cache.close)
        stores = {name: _lmdb(directory / str(n), options, stack) for n, (name, options) in enumerate(LMDB_SETTINGS.items())}
        _fill(cache, stores)
        section.figures += _gets(cache, stores, rounds, calls, progress)
        section.figures += _sets(cache, stores, rounds, calls, progress)
    return section


def measure_machine(program: Path, rounds: int, progress: Progress) -> Section:
    """`program` is the compiled bench_machine.c."""
    progress.say("locks and loads")
    outputs = [subprocess.run([program], check=True, capture_output=True, text=True).stdout.split() for _ in range(rounds)]
    undo, plain, word, load = ([float(figure) for figure in column] for column in zip(*outputs, strict=True))
    locks = {OURS: word, "semop with SEM_UNDO": undo, "semop without": plain}
    return Section(
        "What the machine charges",
        "An uncontended lock and unlock, by a word in the segment (ours) and by semop; a load from a random line of 16 MiB of shared\n"
        "memory, which an access to one of many keys cannot do without.",
        [Figure("lock and unlock", "ns", locks, reference="semop with SEM_UNDO"), Figure("load", "ns", {"machine": load})],
    )


def _lmdb(path: Path, options: dict[str, bool], stack: ExitStack) -> lmdb.Environment:
    environment = lmdb.open(str(path), map_size=1 << 28, **options)
    stack.callback(environment.close)
    return environment


def _fill(cache: memcache_shm.Cache, stores: dict[str, lmdb.Environment]) -> None:
    keys = random.Random(1).sample(KEYS, k=len(KEYS))
    for key in keys:
        cache.set(key, VALUE)
    for store in stores.values():
        with store.begin(write=True) as transaction:
            for key in keys:
                transaction.put(key, VALUE)


def _gets(cache: memcache_shm.Cache, stores: dict[str, lmdb.Environment], rounds: int, calls: int, progress: Progress) -> list[Figure]:
    loops = {OURS: _gets_of(cache), "lmdb": _lmdb_gets(stores["lmdb"])}
    figures = []
    for subject, keys in _key_choices(calls):
        progress.say(f"attached get, {subject}")
        samples = _alternate(loops, dict.fromkeys(loops, keys), rounds)
        figures.append(Figure(f"get, {subject}", "ns", samples, reference="lmdb", limit=150, limit_ratio=1 / 3))
    return figures


def _sets(cache: memcache_shm.Cache, stores: dict[str, lmdb.Environment], rounds: int, calls: int, progress: Progress) -> list[Figure]:
    loops = {OURS: _sets_of(cache), **{name: _lmdb_puts(store) for name, store in stores.items()}}
    figures = []
    for subject, keys in _key_choices(calls):
        progress.say(f"attached set, {subject}")
        chosen = {name: keys[:SYNCED_CALLS] if name == "lmdb, default" else keys for name in loops}
        samples = _alternate(loops, chosen, rounds)
        figures.append(Figure(f"set, {subject}", "ns", samples, reference="lmdb", limit=600, limit_ratio=1))
    return figures


def _key_choices(calls: int) -> list[tuple[str, list[bytes]]]:
    return [
        ("one hot key" if count == 1 else f"{count:,} keys in turn", list(itertools.islice(itertools.cycle(KEYS[:count]), calls)))
        for count in (1, 1000, len(KEYS))
    ]


def _gets_of(cache: memcache_shm.Cache) -> Loop:
    def loop(keys: Sequence[bytes], get: Callable[[bytes], object] = cache.get) -> None:
        for key in keys:
            get(key)

    return loop


def _sets_of(cache: memcache_shm.Cache) -> Loop:
    def loop(keys: Sequence[bytes], put: Callable[[bytes, bytes], object] = cache.set, value: bytes = VALUE) -> None:
        for key in keys:
            put(key, value)

    return loop


def _lmdb_gets(store: lmdb.Environment) -> Loop:
    def loop(keys: Sequence[bytes], begin: Callable[[], lmdb.Transaction] = store.begin) -> None:
        for key in keys:
            with begin() as transaction:
                transaction.get(key)

    return loop


def _lmdb_puts(store: lmdb.Environment) -> Loop:
    def loop(keys: Sequence[bytes], begin: Callable[..., lmdb.Transaction] = store.begin, value: bytes = VALUE) -> None:
        for key in keys:
            with begin(write=True) as transaction:
                transaction.put(key, value)

    return loop


def _alternate(loops: dict[str, Loop], keys: dict[str, list[bytes]], rounds: int) -> dict[str, list[float]]:
    """ns a call, each contender once a round; a round before the first warms caches and is not counted."""
    samples: dict[str, list[float]] = {name: [] for name in loops}
    gc.collect()
    gc.disable()
    try:
        for number in range(rounds + 1):
            for name, loop in loops.items():
                taken_ns = _call_ns(loop, keys[name])
                if number > 0:
                    samples[name].append(taken_ns)
    finally:
        gc.enable()
    return samples


def _call_ns(loop: Loop, keys: list[bytes]) -> float:
    """ns a call: the median over short stretches, most of which no other process interrupts."""
    stretches = []
    for first in range(0, len(keys), STRETCH):
        part = keys[first : first + STRETCH]
        start = time.perf_counter_ns()
        loop(part)
        stretches.append((time.perf_counter_ns() - start) / len(part))
    return statistics.median(stretches)
