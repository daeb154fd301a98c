"""The arena after long use: nothing leaks, every free run can be found again, and a full table is full."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import pytest

import memcache_shm
from memcache_shm.storage.check import check_table
from memcache_shm.storage.geometry import KIB, MIB

TABLES: dict[str, dict[str, Any]] = {
    "smallest": {"memory": 64 * KIB, "max_item": 8 * KIB},
    "one block's border": {"memory": 96 * KIB, "max_item": 8 * KIB},
    "shards": {"memory": 2 * MIB, "max_item": 8 * KIB},
    "large values": {"memory": 2 * MIB, "max_item": 500 * KIB},
    "refusing": {"memory": MIB, "max_item": 200 * KIB, "evict": False},
    "elements": {"elements": 700, "element_size": 500},
    "elements refusing": {"elements": 700, "element_size": 500, "evict": False},
}
FULL_PERCENT = 95
KEYS = 5000


@contextmanager
def opened(options: dict[str, Any]) -> Iterator[memcache_shm.Cache]:
    with memcache_shm.open("arena", **options) as cache:
        yield cache
    memcache_shm.unlink("arena")


def check(cache: memcache_shm.Cache) -> None:
    """Every invariant, the bounds on free runs among them."""
    assert check_table(cache.attached_table).findings == []


def lognormal(chance: random.Random, largest: int) -> int:
    return min(largest, int(chance.lognormvariate(5, 1.3)))


def any_size(chance: random.Random, largest: int) -> int:
    return chance.randint(0, largest)


def two_sizes(chance: random.Random, largest: int) -> int:
    return chance.choice([16, largest // 3])


def largest_ones(chance: random.Random, largest: int) -> int:
    return largest - chance.randrange(2)


MIXES: list[Callable[[random.Random, int], int]] = [lognormal, any_size, two_sizes, largest_ones, lognormal]


def use(cache: memcache_shm.Cache, chance: random.Random, size: int) -> None:
    key, roll = f"k{chance.randrange(KEYS)}", chance.random()
    if roll < 0.65:
        with suppress(memcache_shm.NoSpaceError):
            cache.set(key, b"v" * size, expire=chance.choice([0, 0, 0, 1000, -1]))
    elif roll < 0.9:
        cache.delete(key)
    elif roll < 0.95:
        cache.touch(key, -1)
    else:
        cache.get(key)


@pytest.mark.parametrize("name", TABLES)
def test_whole_after_long_random_use(state_dir: object, name: str) -> None:
    """From one mix of sizes to another, with a sweep now and then and one flush."""
    chance = random.Random(name)
    with opened(TABLES[name]) as cache:
        largest = cache.attached_table.max_value
        for size_of in MIXES:
            for step in range(2500):
                use(cache, chance, size_of(chance, largest))
                if step % 500 == 250:
                    cache.attached_table.reclaim(10.0)
            check(cache)
        cache.flush_all()
        for _ in range(500):
            use(cache, chance, lognormal(chance, largest))
        check(cache)


@pytest.mark.parametrize("name", TABLES)
def test_an_emptied_table_is_empty(state_dir: object, name: str) -> None:
    """After long use and the deletion of all, no granule is taken, and the largest value fits in one run again."""
    chance = random.Random(name)
    with opened(TABLES[name]) as cache:
        largest = cache.attached_table.max_value
        for _ in range(3000):
            use(cache, chance, chance.choice(MIXES)(chance, largest))
        cache.delete_many([f"k{number}" for number in range(KEYS)])
        stats = cache.attached_table.stats()
        assert stats["shm_records"] == stats["curr_items"] == stats["bytes"] == stats["shm_arena_used_bytes"] == 0
        before = stats["shm_several_run_records"]
        cache.set("largest", b"v" * largest)
        assert cache.get("largest") == b"v" * largest
        assert cache.attached_table.stats()["shm_several_run_records"] == before
        check(cache)


@pytest.mark.parametrize(("memory", "max_item"), [(MIB, 64 * KIB), (4 * MIB, 64 * KIB), (4 * MIB, MIB), (16 * MIB, MIB)])
@pytest.mark.parametrize("evict", [False, True])
def test_a_full_table_is_full(state_dir: object, memory: int, max_item: int, evict: bool) -> None:
    """Of lognormal sizes at least 95 % of the arenas hold records and index, also after several times the table has come and gone."""
    chance = random.Random(memory + max_item)
    with opened({"memory": memory, "max_item": max_item, "evict": evict}) as cache:
        came = 0
        while came < 3 * memory:
            value = b"v" * lognormal(chance, max_item)
            with suppress(memcache_shm.NoSpaceError):  # its shard is full; others may not be
                cache.set(f"k{came}", value)
            came += len(value) + 60
        assert cache.attached_table.stats()["shm_fill_percent"] >= FULL_PERCENT
        check(cache)


def test_what_was_freed_is_found_again(state_dir: object) -> None:
    """A table that refuses: for each item that goes, whichever, one of its size comes; nothing else has to."""
    chance = random.Random(1)
    with opened({"memory": MIB, "max_item": 16 * KIB, "evict": False}) as cache:
        sizes: dict[str, int] = {}
        with suppress(memcache_shm.NoSpaceError):
            while True:
                key, size = f"k{len(sizes):06d}", lognormal(chance, 16 * KIB)
                cache.set(key, b"v" * size)
                sizes[key] = size
        for key in chance.choices(list(sizes), k=3000):
            assert cache.delete(key)
            assert cache.set(key, b"w" * sizes[key])
        assert cache.get_many(sizes).keys() == sizes.keys()
        check(cache)
