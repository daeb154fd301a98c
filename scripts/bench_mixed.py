"""Values of all sizes, whose mixture changes again and again: is every one stored, and how full does the table stay?

The same phases go to an attached table of ours and, over TCP, to memcached, which is cut short in each phase once it has taken several
times its memory.
"""

from __future__ import annotations

import os
import random
from array import array
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy
from bench_client import Client
from bench_report import OURS, Figure, Section
from bench_servers import MEMCACHED, running
from bench_tables import Plan, key, table
from numpy.typing import NDArray

import memcache_shm
from memcache_shm.errors import MemcacheError
from memcache_shm.storage.check import check_table

MEMORY_MIB = 64
SMALLEST = 10
LARGEST = 1 << 20
WRITES = 1_000_000  # a phase
KEYS = 4_000_000  # far more than fit; in the phases of small values some come again
STRETCH = 2000  # writes between two looks at the fill
LOOKS_BACK = 100  # keys read after each stretch, half of them of the stretch itself
FILL_SHARE = 0.85
#: memcached gets no more of a phase than so many times its memory, and no value that its -I 1m refuses.
MEMCACHED_TURNS = 8
MEMCACHED_LARGEST = 1_048_000
#: A value is the piece of DATA that begins where its write's number says, so a read tells which write it came from.
DATA = os.urandom(2 * LARGEST)
STEP = 7919

Sizes = NDArray[numpy.int64]
Random = numpy.random.Generator


def _log_uniform(smallest: int, largest: int) -> Callable[[Random, int], NDArray[numpy.float64]]:
    return lambda generator, count: numpy.exp(generator.uniform(numpy.log(smallest), numpy.log(largest), count))


def _lognormal(median: int, sigma: float) -> Callable[[Random, int], NDArray[numpy.float64]]:
    return lambda generator, count: generator.lognormal(numpy.log(median), sigma, count)


def _small_and_large(generator: Random, count: int) -> NDArray[numpy.float64]:
    """One in twenty is large."""
    large = generator.random(count) < 0.05
    return numpy.where(large, generator.uniform(LARGEST // 2, LARGEST, count), generator.uniform(SMALLEST, 200, count))


def _growing(generator: Random, count: int) -> NDArray[numpy.float64]:
    """From the smallest to the largest in the course of the phase, each a third more or less."""
    return numpy.geomspace(SMALLEST, LARGEST, count) * generator.uniform(0.67, 1.33, count)


#: Title and sizes of each phase, in their order.
PHASES: tuple[tuple[str, Callable[[Random, int], NDArray[numpy.float64]]], ...] = (
    ("all sizes", _log_uniform(SMALLEST, LARGEST)),
    ("10 to 100 bytes", _log_uniform(SMALLEST, 100)),
    ("64 KiB to 1 MiB", _log_uniform(64 << 10, LARGEST)),
    ("lognormal, median 300 bytes", _lognormal(300, 1.0)),
    ("small, one in twenty large", _small_and_large),
    ("10 to 100 bytes again", _log_uniform(SMALLEST, 100)),
    ("growing from 10 bytes to 1 MiB", _growing),
    ("1 to 4 KiB", _log_uniform(1 << 10, 4 << 10)),
    ("lognormal, median 4 KiB", _lognormal(4096, 1.5)),
    ("all sizes again", _log_uniform(SMALLEST, LARGEST)),
)


@dataclass
class Found:
    """What became of the writes."""

    written: int = 0
    refused: int = 0
    refusal: str = ""  # the first one's message
    read: int = 0  # hits among the keys looked at again
    wrong: int = 0  # of them, or the very last write was not there
    lowest: dict[str, float] = field(default_factory=dict)  # fill, by phase, once the table was full
    payload: dict[str, float] = field(default_factory=dict)  # share of the memory that keys and values have at the end of a phase


def measure(plan: Plan) -> list[Section]:
    writes = WRITES // 10 if plan.quick else WRITES
    with table("mixed", f"{MEMORY_MIB}m") as cache:
        ours = _Writer(cache, plan).write(writes)
        plan.progress.say("mixed sizes: check")
        report = check_table(cache.attached_table)
    theirs = _memcached(plan, writes)
    section = Section(
        f"Mixed sizes in -m {MEMORY_MIB} -I 1m",
        f"{len(PHASES)} phases of {writes:,} writes each, keys at random. Ours: an attached table; its fill (granules used by records and\n"
        f"index) looked at every {STRETCH:,} writes once twice the memory was written, and {LOOKS_BACK} keys read back each time.\n"
        f"memcached: over TCP, each phase until {MEMCACHED_TURNS} times its memory was written.",
    )
    if ours.refusal:
        section.how += f"\nThe first refusal: {ours.refusal}."
    section.figures += _counts(ours, theirs)
    section.figures.append(Figure("findings of check", "", {OURS: [len(report.findings)]}, limit=0))
    for name, lowest in ours.lowest.items():
        section.figures.append(Figure(f"{name}: lowest fill", "of the arena", {OURS: [lowest]}, limit=FILL_SHARE, more_is_better=True))
    for name, share in ours.payload.items():
        samples = {OURS: [share], MEMCACHED: [theirs.payload[name]]}
        section.figures.append(Figure(f"{name}: keys and values", "of the memory", samples, MEMCACHED, more_is_better=True))
    return [section]


def _counts(ours: Found, theirs: Found) -> list[Figure]:
    return [
        Figure("writes", "", {OURS: [ours.written], MEMCACHED: [theirs.written]}),
        Figure("writes refused", "", {OURS: [ours.refused], MEMCACHED: [theirs.refused]}, limit=0),
        Figure("values read back", "", {OURS: [ours.read]}),
        Figure("values read back wrong, or lost at once", "", {OURS: [ours.wrong]}, limit=0),
    ]


def _phases(writes: int) -> Iterator[tuple[str, list[int], list[int]]]:
    """Title, numbers of the keys and sizes of each phase; the same ones at each call."""
    generator = numpy.random.default_rng(11)
    for name, sizes_of in PHASES:
        sizes: Sizes = numpy.clip(sizes_of(generator, writes), SMALLEST, LARGEST).astype(numpy.int64)
        yield name, generator.integers(0, KEYS, writes).tolist(), sizes.tolist()


def _value(write: int, size: int) -> bytes:
    """Of that write; another write's has the same beginning once in a million."""
    start = write * STEP % LARGEST
    return DATA[start : start + size]


class _Writer:
    """Writes the phases into an attached table and looks back at what it wrote."""

    def __init__(self, cache: memcache_shm.Cache, plan: Plan) -> None:
        self._cache = cache
        self._plan = plan
        self._random = random.Random(5)
        self._found = Found()
        self._write_of = array("q", bytes(8 * KEYS))  # by the number of the key: its last write, 0 when there was none,
        self._size_of = array("q", bytes(8 * KEYS))  # and that one's size
        self._written_bytes = 0

    def write(self, writes: int) -> Found:
        """All phases, of so many writes each."""
        overhead_bytes = self._overhead_bytes()
        for name, keys, sizes in _phases(writes):
            lowest = 1.0
            for start in range(0, writes, STRETCH):
                self._plan.progress.say(f"mixed sizes, {name}: {100 * start // writes} %")
                part = slice(start, start + STRETCH)
                self._write(keys[part], sizes[part])
                self._look_back(keys[part])
                if self._written_bytes > 2 * (MEMORY_MIB << 20):
                    lowest = min(lowest, self._fill())
            self._found.lowest[name] = lowest
            figures = self._cache.stats()
            self._found.payload[name] = _payload(figures[b"bytes"], figures[b"curr_items"], overhead_bytes)
        return self._found

    def _write(self, keys: Sequence[int], sizes: Sequence[int]) -> None:
        put, write_of, size_of = self._cache.set, self._write_of, self._size_of
        write = self._found.written
        for number, size in zip(keys, sizes, strict=True):
            write += 1
            try:
                put(key(b"k", number), _value(write, size))
            except MemcacheError as error:
                self._found.refused += 1
                self._found.refusal = self._found.refusal or f"{type(error).__name__}: {error}"
                write_of[number] = 0
            else:
                write_of[number] = write
                size_of[number] = size
        self._found.written = write
        self._written_bytes += sum(sizes)

    def _look_back(self, keys: Sequence[int]) -> None:
        """Read keys of the last stretch, the very last one first, and of all that were ever written."""
        if self._write_of[keys[-1]] and self._cache.get(key(b"k", keys[-1])) is None:
            self._found.wrong += 1
        chosen = [keys[-1], *self._random.choices(keys, k=LOOKS_BACK // 2), *self._random.choices(range(KEYS), k=LOOKS_BACK // 2)]
        for number in chosen:
            value = self._cache.get(key(b"k", number))
            if value is not None:
                self._found.read += 1
                write = self._write_of[number]
                self._found.wrong += not write or value != _value(write, self._size_of[number])

    def _fill(self) -> float:
        figures = self._cache.attached_table.stats()
        return (figures["shm_arena_used_bytes"] + figures["hash_bytes"]) / figures["shm_arena_bytes"]

    def _overhead_bytes(self) -> int:
        """What `bytes` counts for an item besides key and value."""
        self._cache.set(key(b"k", 0), b"x")
        overhead_bytes = self._cache.stats()[b"bytes"] - len(key(b"k", 0)) - 1
        self._cache.delete(key(b"k", 0))
        return int(overhead_bytes)


def _payload(held_bytes: int, items: int, overhead_bytes: int) -> float:
    return (held_bytes - items * overhead_bytes) / (MEMORY_MIB << 20)


def _memcached(plan: Plan, writes: int) -> Found:
    """What memcached does with the same phases, or with as much of each as it takes to turn its memory over."""
    found = Found()
    with running((MEMCACHED,), 1, plan.directory, MEMORY_MIB) as servers, servers[MEMCACHED].connect() as connection:
        client = Client(connection)
        client.store([(key(b"k", 0), b"x")])
        overhead_bytes = int(client.stats()[b"bytes"]) - len(key(b"k", 0)) - 1
        for name, keys, sizes in _phases(writes):
            plan.progress.say(f"mixed sizes, {name}: {MEMCACHED}")
            left_bytes = MEMCACHED_TURNS * (MEMORY_MIB << 20)
            for start in range(0, writes, STRETCH):
                pairs = _cut(keys[start : start + STRETCH], sizes[start : start + STRETCH], left_bytes)
                found.refused += client.store((key(b"k", number), _value(found.written, size)) for number, size in pairs)
                found.written += len(pairs)
                left_bytes -= sum(size for _, size in pairs)
                if left_bytes <= 0:
                    break
            figures = client.stats()
            found.payload[name] = _payload(int(figures[b"bytes"]), int(figures[b"curr_items"]), overhead_bytes)
    return found


def _cut(keys: Sequence[int], sizes: Sequence[int], left_bytes: int) -> list[tuple[int, int]]:
    """Key and size, as memcached takes it, until `left_bytes` are used up."""
    pairs = []
    for number, size in zip(keys, sizes, strict=True):
        if left_bytes <= 0:
            break
        pairs.append((number, min(size, MEMCACHED_LARGEST)))
        left_bytes -= size
    return pairs
