"""What a set pays for making room: its cost in a full table against an empty one; what the longest takes; what readers notice of it."""

from __future__ import annotations

import contextlib
import gc
import itertools
import operator
import random
import time
from collections.abc import Callable, Iterator, Sequence

import bench_disturbed
import bench_longest
from bench_report import OURS, Figure, Section
from bench_tables import Plan, fill, key, table

import memcache_shm

SAME = [b"v" * 100]
#: 50 to 150 bytes: what an evicted item leaves free seldom fits the new one.
DIFFERENT = [b"v" * size for size in random.Random(3).choices(range(50, 151), k=1009)]
SMALL_MIB = 64
LARGE_MIB = 1024
QUICK_LARGE_MIB = 256
CALLS = 200_000  # a round: less than half of what fits into SMALL_MIB
ROUNDS = 9
QUICK_ROUNDS = 3
FULL_RATIO = 1.5


def measure(plan: Plan) -> list[Section]:
    """The small tables, then the large ones, which serve the longest writes, too."""
    large_mib = QUICK_LARGE_MIB if plan.quick else LARGE_MIB
    rounds = QUICK_ROUNDS if plan.quick else ROUNDS
    section = Section(
        "A set of a new key where every set evicts, and where none does",
        "12-byte keys; CPU time, without that of the loop around the call (last column); median of\n"
        f"{rounds} rounds (lowest-highest) of {CALLS:,} sets, full table and empty one in turn. The empty one was full before: its\n"
        "pages are there.",
    )
    small, large = f"-m {SMALL_MIB}", f"-m {large_mib}"
    with _full_and_empty(plan, SMALL_MIB, SAME) as (full, empty):
        section.figures.append(_set_cost(plan, f"{small}, 100 bytes", full, empty, SAME, rounds))
    with _full_and_empty(plan, SMALL_MIB, DIFFERENT) as (full, empty):
        section.figures.append(_set_cost(plan, f"{small}, 50 to 150 bytes", full, empty, DIFFERENT, rounds))
    with _full_and_empty(plan, large_mib, SAME) as (full, empty):
        section.figures.append(_set_cost(plan, f"{large}, 100 bytes", full, empty, SAME, rounds))
        longest = bench_longest.measure(plan, large_mib, full, empty)
    return [section, longest, bench_disturbed.measure(plan)]


@contextlib.contextmanager
def _full_and_empty(plan: Plan, memory_mib: int, values: Sequence[bytes]) -> Iterator[tuple[memcache_shm.Cache, memcache_shm.Cache]]:
    """Two tables of that memory, one full of `values`, one emptied again by deletes."""
    with table("full", f"{memory_mib}m") as full, table("empty", f"{memory_mib}m") as empty:
        plan.progress.say(f"cost: filling two tables of {memory_mib} MiB")
        fill(full, values, b"f")
        count = fill(empty, values, b"f")
        plan.progress.say(f"cost: emptying a table of {memory_mib} MiB")
        for number in range(count):
            empty.delete(key(b"f", number))
        yield full, empty


def _set_cost(plan: Plan, title: str, full: memcache_shm.Cache, empty: memcache_shm.Cache, values: Sequence[bytes], rounds: int) -> Figure:
    samples: dict[str, list[float]] = {OURS: [], "empty table": [], "the loop": []}
    for number in range(rounds):
        plan.progress.say(f"cost of a set, {title}: round {number + 1} of {rounds}")
        keys = [key(b"n", number * CALLS + at) for at in range(CALLS)]
        pairs = list(zip(keys, itertools.cycle(values), strict=False))
        loop_ns = _call_ns(operator.is_, pairs)  # a call of C code with two arguments, too, which does nothing
        before = full.stats()[b"evictions"]
        samples[OURS].append(_call_ns(full.set, pairs) - loop_ns)
        evicted = full.stats()[b"evictions"] - before
        if evicted < 0.9 * CALLS:
            raise RuntimeError(f"the table was not full ({title}): {CALLS:,} sets evicted {evicted:,} items")
        samples["empty table"].append(_call_ns(empty.set, pairs) - loop_ns)
        samples["the loop"].append(loop_ns)
        for new in keys:
            empty.delete(new)
    return Figure(f"set, {title}", "ns", samples, reference="empty table", limit_ratio=FULL_RATIO)


def _call_ns(put: Callable[[bytes, bytes], object], pairs: Sequence[tuple[bytes, bytes]]) -> float:
    """ns of CPU time a call, the loop included."""
    gc.collect()
    gc.disable()
    try:
        start = time.thread_time_ns()
        for new, value in pairs:
            put(new, value)
        return (time.thread_time_ns() - start) / len(pairs)
    finally:
        gc.enable()
