"""A broken or hostile attacher writes into the segment: misses and errors may follow, never a crash or an endless loop.

Each test prints its seed with the case when one fails. The long form takes new seeds as long as TORTURE_S allows.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import random
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from model.hammering import Fleet
from support.isolation import is_running
from support.scribbles import (
    Scribble,
    Scribbler,
    Victim,
    alarmed,
    attach_guarded,
    draw,
    exercise,
    mixed_words,
    random_ranges,
    single_fields,
    survive,
)
from support.segments import Segment
from support.servers import Daemon

import memcache_shm
from memcache_shm.storage.check import check_table

SCRIBBLER, CHECKER = 1, 4  # of the fleet
SECONDS = 1.5
TORTURE_S = float(os.environ.get("TORTURE_S", "600"))
TABLES: dict[str, dict[str, Any]] = {
    "memory": {"memory": "64k", "max_item": "8k"},
    "memory-refusing": {"memory": "64k", "max_item": "16k", "evict": False},
    "memory-shards": {"memory": "256k", "max_item": "1k"},
    "elements": {"elements": 150, "element_size": 400},
    "elements-refusing": {"elements": 150, "element_size": 400, "evict": False},
}
KINDS: dict[str, Callable[[Segment, int, int], list[Scribble]]] = {
    "fields": single_fields,
    "ranges": random_ranges,
    "words": mixed_words,
}
CASES = {"fields": 2, "ranges": 120, "words": 120}  # a run; of the fields, values each


@contextmanager
def filled(name: str, seed: int) -> Iterator[memcache_shm.Cache]:
    """A table with small and large items, its hash key made of the seed."""
    cache = memcache_shm.open("scribbled", **TABLES[name])
    try:
        with Segment(cache.attached_table) as segment:
            segment.put(segment.header("hash_key0"), seed)
            segment.put(segment.header("hash_key1"), 0)
        with memcache_shm.attach("scribbled") as cache:  # which reads the key
            fill(cache)
            yield cache
    finally:
        cache.close()
        memcache_shm.unlink("scribbled")


def fill(cache: memcache_shm.Cache) -> None:
    """Until it is rather full; where nothing is evicted, the largest values find only gaps and take several runs."""
    largest = cache.attached_table.max_value
    for number in range(55):
        cache.set(f"fill{number}", b"f" * min(largest, 900))
    for number in range(0, 55, 2):
        cache.delete(f"fill{number}")
    sizes = [min(largest, 6000)] * 3 + [min(largest, number % 50) for number in range(130)]
    for number, size in enumerate(sizes):
        with contextlib.suppress(memcache_shm.NoSpaceError):
            cache.set(f"k{number}", b"v" * size, expire=1000 * (number % 2))


def test_what_is_to_be_scribbled_over_is_there(state_dir: object) -> None:
    """Overflow nodes and records of several runs, too."""
    links = several = 0
    for name in TABLES:
        with filled(name, 1) as cache, Segment(cache.attached_table) as segment:
            links += sum(1 for _ in segment.links())
            several += sum(map(segment.has_several_runs, segment.entries()))
    assert links >= 10
    assert several >= 2


def scribble(name: str, kind: str, seed: int) -> None:
    with filled(name, seed) as cache, Segment(cache.attached_table) as segment, segment.put_back() as image:
        scribbles = KINDS[kind](segment, seed, CASES[kind])
        survive(
            len(scribbles),
            lambda: Victim("scribbled", segment, image, scribbles).run,
            lambda number: f"{name}, {kind}, seed {seed}, case {number}: {scribbles[number].what}",
        )


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", TABLES)
def test_scribbled_memory_is_survived(state_dir: object, name: str, kind: str) -> None:
    scribble(name, kind, 1)


def work_on(cache: memcache_shm.Cache, number: int) -> Callable[[], None]:
    """What a process of the fleet does to a table that is being scribbled over: use it or check it."""
    chance = random.Random(number)
    table = cache.attached_table

    def check() -> None:
        draw(table)
        with contextlib.suppress(memcache_shm.MemcacheError):
            check_table(table, repair=chance.random() < 0.5)

    return alarmed(check if number == CHECKER else lambda: exercise(cache, table.max_value, chance))


def scribble_on(name: str, seed: int, seconds: float) -> None:
    """One process writes at random while others work; none of them may die of it."""
    with filled(name, seed) as first, Segment(first.attached_table) as segment, segment.put_back() as image:
        scribbler = Scribbler(segment, image, seed)
        cache, _guards = attach_guarded("scribbled", segment.plan.segment_bytes)
        fleet = Fleet(lambda number: scribbler.write if number == SCRIBBLER else work_on(cache, number), 4)
        end = time.monotonic() + seconds
        try:
            while time.monotonic() < end and all(map(is_running, fleet.pids)):
                time.sleep(0.05)
        finally:
            ends = fleet.end_all()
            cache.close()
        assert ends == [-signal.SIGKILL] * 4, f"seed {seed}: how scribbler, users and checker ended"


@pytest.mark.parametrize("name", TABLES)
def test_scribbling_that_goes_on_is_survived(state_dir: object, name: str) -> None:
    scribble_on(name, 1, SECONDS)


@pytest.mark.torture
@pytest.mark.parametrize("name", TABLES)
def test_scribbling_that_goes_on_is_survived_for_long(state_dir: object, name: str) -> None:
    end = time.monotonic() + TORTURE_S / len(TABLES)
    for seed in itertools.count(2):
        scribble_on(name, seed, 5 * SECONDS)
        if time.monotonic() > end:
            return


REQUESTS = b"".join(
    [
        b"get %b\r\n" % b" ".join(b"k%d" % number for number in range(100)),
        *(b"set k%d 0 0 %d\r\n%b\r\n" % (number, 40 * number, b"x" * (40 * number)) for number in range(60)),
        *(b"set new%d 0 100 3\r\nnew\r\nget new%d\r\n" % (number, number) for number in range(100)),
        *(b"append k%d 0 0 1\r\na\r\nset n 0 0 1\r\n1\r\nincr n %d\r\n" % (number, number) for number in range(30)),
        *(b"touch k%d 10\r\ngat 10 k%d\r\ndelete k%d\r\n" % (number, number, number) for number in range(60)),
        b"stats\r\nflush_all\r\nset k1 0 0 1\r\nx\r\nget k1\r\n",
    ]
)


@pytest.mark.parametrize(
    "options", [("-m", "64k", "-I", "8k"), ("-m", "64k", "-I", "8k", "-M"), ("150", "400")], ids=["memory", "refusing", "elements"]
)
def test_a_worker_survives_scribbles(options: tuple[str, ...]) -> None:
    """Every request is answered, by the worker that was there before."""
    with Daemon(*options, workers=1) as daemon, memcache_shm.attach(daemon.name) as cache, Segment(cache.attached_table) as segment:
        fill(cache)
        workers = daemon.workers
        scribbles = [scribble for kind in KINDS.values() for scribble in kind(segment, 1, 1 if kind is single_fields else 60)]
        with segment.put_back() as image:
            for scribble in scribbles:
                if not scribble.costs_a_wait:
                    segment.memory.write(image)
                    segment.memory.write(scribble.data, scribble.offset)
                    assert answered(daemon), (scribble.what, daemon.lines)
        assert daemon.workers == workers, daemon.lines


def answered(daemon: Daemon) -> bool:
    """Whether a worker answers all requests."""
    with daemon.connect(timeout_s=20.0) as sock:
        sock.sendall(REQUESTS + b"quit\r\n")
        tail = b""
        while data := sock.recv(65536):
            tail = (tail + data)[-100:]
    return tail.endswith(b"END\r\n")


@pytest.mark.torture
@pytest.mark.parametrize("name", TABLES)
def test_scribbled_memory_is_survived_for_long(state_dir: object, name: str) -> None:
    end = time.monotonic() + TORTURE_S / len(TABLES)
    for seed in itertools.count(2):
        for kind in KINDS:
            scribble(name, kind, seed)
        if time.monotonic() > end:
            return
