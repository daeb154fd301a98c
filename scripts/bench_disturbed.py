"""What readers notice of a process that evicts all the time: their gets then, while it does so in another table, and while it rests."""

from __future__ import annotations

import contextlib
import gc
import multiprocessing
import os
import signal
import time
from array import array
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from multiprocessing.synchronize import Event

import numpy
from bench_report import OURS, Figure, Section
from bench_tables import Plan, fill, key, table

import memcache_shm

MEMORY_MIB = 64
VALUE = b"v" * 100
KEYS = [key(b"h", number) for number in range(1000)]
PASSES = 100  # over the keys, a round
ROUNDS = 15
QUICK_ROUNDS = 5
EVICTED_AT_ONCE = 500  # sets between two looks at whether to go on
PATIENCE_S = 10.0
ELSEWHERE = "evicts elsewhere"  # what of the slowdown is the machine's: two busy processes share its caches and memory
QUIET = "rests"
CLOCK = "the clock"


@dataclass
class _Samples:
    """By contender, one a round: the middle and the 99th percentile of a get in ns, the share of gets that found the value in %."""

    middle: dict[str, list[float]] = field(default_factory=lambda: {OURS: [], ELSEWHERE: [], QUIET: [], CLOCK: []})
    slow: dict[str, list[float]] = field(default_factory=lambda: {OURS: [], ELSEWHERE: [], QUIET: [], CLOCK: []})
    found: dict[str, list[float]] = field(default_factory=lambda: {OURS: [], ELSEWHERE: [], QUIET: []})
    evicted: int = 0

    def add(self, contender: str, times: array[int], hits: int) -> None:
        self.middle[contender].append(float(numpy.median(times)))
        self.slow[contender].append(float(numpy.percentile(times, 99)))
        if contender in self.found:
            self.found[contender].append(100 * hits / len(times))


def measure(plan: Plan) -> Section:
    """Rounds of gets, with the other process writing and with it at rest in turn."""
    rounds = QUICK_ROUNDS if plan.quick else ROUNDS
    with table("disturbed", f"{MEMORY_MIB}m") as cache, table("elsewhere", f"{MEMORY_MIB}m") as elsewhere:
        plan.progress.say("gets beside a writer: filling")
        fill(cache, [VALUE], b"f")
        fill(elsewhere, [VALUE], b"f")
        samples = _measure_rounds(plan, cache, elsewhere, rounds)
    return Section(
        f"A get while another process evicts, -m {MEMORY_MIB}",
        f"{len(KEYS):,} keys in turn, {len(VALUE)}-byte values; the other process sets new keys in the same table all the time (first\n"
        f"column), in another one, or rests. Each get is timed, the clock's own part (last column) included; median of {rounds} rounds\n"
        f"(lowest-highest) of {PASSES * len(KEYS):,} gets, during which {samples.evicted:,} items were evicted.",
        [
            Figure("get, median", "ns", samples.middle, reference=ELSEWHERE),
            Figure("get, 99 %", "ns", samples.slow, reference=ELSEWHERE),
            Figure("found", "% of the gets", samples.found, reference=ELSEWHERE, more_is_better=True),
        ],
    )


def _measure_rounds(plan: Plan, cache: memcache_shm.Cache, elsewhere: memcache_shm.Cache, rounds: int) -> _Samples:
    samples = _Samples()
    with _writer(cache) as disturbance, _writer(elsewhere) as other_disturbance:
        for number in range(rounds):
            plan.progress.say(f"gets beside a writer: round {number + 1} of {rounds}")
            _store(cache)
            with disturbance():
                before = cache.stats()[b"evictions"]
                samples.add(OURS, *_gets(cache.get))
                samples.evicted += cache.stats()[b"evictions"] - before
            _store(cache)
            with other_disturbance():
                samples.add(ELSEWHERE, *_gets(cache.get))
            samples.add(QUIET, *_gets(cache.get))
            samples.add(CLOCK, *_gets(len))
    return samples


def _store(cache: memcache_shm.Cache) -> None:
    for hot in KEYS:
        cache.set(hot, VALUE)


def _gets(get: Callable[[bytes], object], keys: Sequence[bytes] = KEYS) -> tuple[array[int], int]:
    """ns of each get, and how many found the value."""
    clock = time.perf_counter_ns
    times = array("q")
    hits = 0
    gc.disable()
    try:
        for _ in range(PASSES):
            for hot in keys:
                start = clock()
                value = get(hot)
                times.append(clock() - start)
                hits += value is not None
    finally:
        gc.enable()
    return times, hits


@contextlib.contextmanager
def _writer(cache: memcache_shm.Cache) -> Iterator[Callable[[], contextlib.AbstractContextManager[None]]]:
    """A process that sets new keys within the context that the yielded function makes, and rests otherwise."""
    context = multiprocessing.get_context("fork")
    busy, resting = context.Event(), context.Event()
    process = context.Process(target=_evict, args=(cache, busy, resting, os.getpid()), daemon=True)
    process.start()

    @contextlib.contextmanager
    def disturbance() -> Iterator[None]:
        before = cache.stats()[b"evictions"]
        busy.set()
        deadline = time.monotonic() + PATIENCE_S
        while cache.stats()[b"evictions"] == before:
            if time.monotonic() > deadline:
                raise RuntimeError("the writing process evicts nothing")
            time.sleep(0.001)
        yield
        busy.clear()
        if not resting.wait(PATIENCE_S):
            raise RuntimeError("the writing process does not come to rest")

    try:
        yield disturbance
    finally:
        process.kill()
        process.join()
        process.close()


def _evict(cache: memcache_shm.Cache, busy: Event, resting: Event, parent: int) -> None:
    """The life of the process: until it is killed, or its parent is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    done = 0
    while os.getppid() == parent:
        resting.set()
        if not busy.wait(1):
            continue
        resting.clear()
        while busy.is_set() and os.getppid() == parent:
            for number in range(done, done + EVICTED_AT_ONCE):
                cache.set(key(b"e", number), VALUE)
            done += EVICTED_AT_ONCE
