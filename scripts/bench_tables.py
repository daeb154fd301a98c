"""What the parts of `make bench-memory` share: how much is done, and an attached table of their own."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from bench_report import Progress

import memcache_shm


@dataclass(frozen=True)
class Plan:
    """How much is done, and with what. `directory` takes the state files and the servers' messages."""

    directory: Path
    quick: bool
    progress: Progress


@contextlib.contextmanager
def table(name: str, memory: str, max_item: str = "1m") -> Iterator[memcache_shm.Cache]:
    """A table of that memory, which is gone afterwards."""
    name = f"bench-{name}-{os.getpid()}"
    cache = memcache_shm.open(name, memory=memory, max_item=max_item)
    try:
        yield cache
    finally:
        memcache_shm.unlink(name)
        cache.close()


def key(letter: bytes, number: int) -> bytes:
    """12 bytes."""
    return b"%b%011d" % (letter, number)


def fill(cache: memcache_shm.Cache, values: Sequence[bytes], letter: bytes, evicted_share: float = 0.1) -> int:
    """Set keys of `letter` to `values` in turn until so large a share of the items that are there was evicted. How many sets it took.

    0: until the first evictions, which may leave room in other shards; a tenth fills every one.
    """
    before = cache.stats()[b"evictions"]
    put = cache.set
    done = 0
    while (figures := cache.stats())[b"evictions"] - before <= evicted_share * figures[b"curr_items"]:
        stretch = max(100, done // 100)
        for number in range(done, done + stretch):
            put(key(letter, number), values[number % len(values)])
        done += stretch
    return done
