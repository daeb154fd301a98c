"""The longest single writes of a table that evicts, told from the pauses that the machine makes.

Each write is timed twice: by the clock, and by the CPU time of the thread, which leaves out most of what other processes take. The same
is asked of an empty table, and of a loop that does nothing for as long.
"""

from __future__ import annotations

import gc
import time
from array import array
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy
from bench_report import OURS, Figure, Section
from bench_tables import Plan, fill, key

import memcache_shm

SMALL = b"v" * 100
STRETCH = 10_000  # writes of one table before the others' turn, or
STRETCH_SHARE = 0.2  # what takes this part of the memory, so that the empty table holds it
SMALL_LIMIT_US = 2000  # the longest, for values up to 16 KiB
LARGE_LIMIT_US = 10_000  # and up to 1 MiB
EMPTY = "empty table"
SPIN = "doing nothing"


@dataclass(frozen=True)
class _Step:
    """So many values of one size; what the table is full of before says the title. `letter` begins the keys."""

    letter: bytes
    title: str
    size: int
    writes: int
    limit_us: float
    refill: bool = False  # with SMALL before it


STEPS = (
    _Step(b"a", "100 bytes among such", 100, 1_000_000, SMALL_LIMIT_US),
    _Step(b"b", "16 KiB among 100 bytes", 16 << 10, 80_000, SMALL_LIMIT_US),
    _Step(b"c", "100 bytes among 16 KiB", 100, 1_000_000, SMALL_LIMIT_US),
    _Step(b"d", "1 MiB among 100 bytes", 1 << 20, 20_000, LARGE_LIMIT_US, refill=True),
    _Step(b"e", "100 bytes among 1 MiB", 100, 1_000_000, SMALL_LIMIT_US),
)


@dataclass
class _Times:
    """ns of each write."""

    clock: array[int] = field(default_factory=lambda: array("q"))
    cpu: array[int] = field(default_factory=lambda: array("q"))


def measure(plan: Plan, memory_mib: int, full: memcache_shm.Cache, empty: memcache_shm.Cache) -> Section:
    """`full` is full of 100-byte values, `empty` has its pages; both are of `memory_mib`."""
    section = Section(
        f"The longest single set, -m {memory_mib}",
        "Every set evicts: values of one size into a table full of another. By the clock, and by the thread's CPU time, which leaves out\n"
        "most of what the machine does meanwhile; the same sets into an empty table, and a loop that only looks at both clocks for as\n"
        "long, in turn: what these show, too, is the machine's.",
    )
    for step in STEPS:
        if step.refill:
            plan.progress.say("longest set: refilling")
            fill(full, [SMALL], b"r")
        times = _measure_step(plan, step, memory_mib, full, empty)
        section.figures += _figures(step, times)
    return section


def _figures(step: _Step, times: dict[str, _Times]) -> list[Figure]:
    clock = {name: [max(found.clock) / 1000] for name, found in times.items()}
    cpu = {name: [max(found.cpu) / 1000] for name, found in times.items()}
    most = {name: [float(numpy.percentile(times[name].clock, 99.99)) / 1000] for name in (OURS, EMPTY)}
    return [
        Figure(f"{step.title}, longest by the clock", "us", clock, limit=step.limit_us),
        Figure(f"{step.title}, longest by CPU time", "us", cpu, limit=step.limit_us),
        Figure(f"{step.title}, 99.99 % by the clock", "us", most),
    ]


def _measure_step(plan: Plan, step: _Step, memory_mib: int, full: memcache_shm.Cache, empty: memcache_shm.Cache) -> dict[str, _Times]:
    times = {OURS: _Times(), EMPTY: _Times(), SPIN: _Times()}
    value = b"v" * step.size
    writes = step.writes // 10 if plan.quick and step.size <= len(SMALL) else step.writes
    stretch = min(STRETCH, int(STRETCH_SHARE * (memory_mib << 20)) // step.size)
    gc.disable()
    try:
        for start in range(0, writes, stretch):
            plan.progress.say(f"longest set, {step.title}: {100 * start // writes} %")
            keys = [key(step.letter, number) for number in range(start, min(start + stretch, writes))]
            began_ns = time.perf_counter_ns()
            _put(full.set, keys, value, times[OURS])
            _spin(time.perf_counter_ns() - began_ns, times[SPIN])
            _put(empty.set, keys, value, times[EMPTY])
            for written in keys:
                empty.delete(written)
    finally:
        gc.enable()
    return times


def _put(put: Callable[[bytes, bytes], object], keys: Sequence[bytes], value: bytes, times: _Times) -> None:
    clock, cpu_clock = time.perf_counter_ns, time.thread_time_ns
    for new in keys:
        cpu_start = cpu_clock()
        start = clock()
        put(new, value)
        end = clock()
        times.cpu.append(cpu_clock() - cpu_start)
        times.clock.append(end - start)


def _spin(duration_ns: int, times: _Times) -> None:
    """What lies between two looks at the clocks counts as a write; only what is longer than all before is kept."""
    clock, cpu_clock = time.perf_counter_ns, time.thread_time_ns
    longest, longest_cpu = max(times.clock, default=0), max(times.cpu, default=0)
    cpu, now = cpu_clock(), clock()
    until = now + duration_ns
    while now < until:
        cpu_before, before = cpu, now
        cpu, now = cpu_clock(), clock()
        longest, longest_cpu = max(longest, now - before), max(longest_cpu, cpu - cpu_before)
    times.clock.append(longest)
    times.cpu.append(longest_cpu)
