"""A broken or hostile attacher writes into the segment: misses and errors may follow, never a crash or an endless loop.

Each test prints its seed with the case when one fails. The long form takes new seeds as long as TORTURE_S allows.
"""

from __future__ import annotations

import itertools
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from support.scribbles import Scribble, Victim, mixed_words, random_ranges, single_fields, survive
from support.segments import Segment

import memcache_shm

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
CASES = {"fields": 3, "ranges": 200, "words": 200}  # a run; of the fields, values each


@contextmanager
def filled(name: str) -> Iterator[memcache_shm.Cache]:
    """A table with about 100 small items and some large ones, of several runs where it has such."""
    cache = memcache_shm.open("scribbled", **TABLES[name])
    try:
        fill(cache)
        yield cache
    finally:
        cache.close()
        memcache_shm.unlink("scribbled")


def fill(cache: memcache_shm.Cache) -> None:
    largest = cache.attached_table.max_value
    for number in range(60):
        cache.set(f"fill{number}", b"f" * min(largest, 700))
    for number in range(0, 60, 2):
        cache.delete(f"fill{number}")
    for number in range(5):
        try:
            cache.set(f"k{number}", b"l" * largest)
        except memcache_shm.NoSpaceError:
            break
    for number in range(5, 100):
        try:
            cache.set(f"k{number}", b"v" * min(number, largest), expire=1000 * (number % 2))
        except memcache_shm.NoSpaceError:
            break


def scribble(name: str, kind: str, seed: int) -> None:
    with filled(name) as cache, Segment(cache.attached_table) as segment:
        scribbles = KINDS[kind](segment, seed, CASES[kind])
        image = bytes(segment.memory.read())
        survive(
            len(scribbles),
            lambda: Victim("scribbled", image, scribbles).run,
            lambda number: f"{name}, {kind}, seed {seed}, case {number}: {scribbles[number].what}",
        )


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", TABLES)
def test_scribbled_memory_is_survived(state_dir: object, name: str, kind: str) -> None:
    scribble(name, kind, 1)


@pytest.mark.torture
@pytest.mark.parametrize("name", TABLES)
def test_scribbled_memory_is_survived_for_long(state_dir: object, name: str) -> None:
    end = time.monotonic() + TORTURE_S / len(TABLES)
    for seed in itertools.count(2):
        for kind in KINDS:
            scribble(name, kind, seed)
        if time.monotonic() > end:
            return
