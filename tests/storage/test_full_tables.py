"""Tables that are full: what was just stored is there, whatever had to go for it; values up to the largest always find room."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

import memcache_shm

KIB, MIB = 1024, 1024 * 1024
SEGMENTS = [(64 * KIB, 4 * KIB), (64 * KIB, 16 * KIB), (128 * KIB, 8 * KIB), (MIB, 100 * KIB), (MIB, 500 * KIB), (8 * MIB, MIB)]


@contextmanager
def table(**options: object) -> Iterator[memcache_shm.Cache]:
    """An empty cache that is removed at the end."""
    with memcache_shm.open("full", **options) as cache:
        yield cache
    memcache_shm.unlink("full")


def small(chance: random.Random, largest: int) -> int:
    return min(largest, int(chance.lognormvariate(3, 1)))


def skewed(chance: random.Random, largest: int) -> int:
    return min(largest, int(chance.lognormvariate(5, 2)))


def even(chance: random.Random, largest: int) -> int:
    return chance.randint(0, largest)


def huge(chance: random.Random, largest: int) -> int:
    return chance.choice([largest, largest - 1, largest // 2 + 1])


MIXES = [small, skewed, even, huge]


def fill(cache: memcache_shm.Cache, chance: random.Random, sets: int, size_of: Callable[[random.Random, int], int], largest: int) -> None:
    """Store random values of random keys; each is there at once."""
    keys = sets // 2
    for number in range(sets):
        key = b"key-%d" % chance.randrange(keys)
        value = b"%08d" % number + b"x" * size_of(chance, largest - 8)
        cache.set(key, value)
        assert cache.get(key) == value, (number, size_of.__name__)


@pytest.mark.parametrize(("memory_bytes", "max_item_bytes"), SEGMENTS)
def test_what_was_just_stored_is_there(state_dir: object, memory_bytes: int, max_item_bytes: int) -> None:
    """Through all changes from one mix of sizes to another: the index grows and shrinks, records come in several runs."""
    chance = random.Random(memory_bytes + max_item_bytes)
    with table(memory=memory_bytes, max_item=max_item_bytes) as cache:
        for size_of in (small, huge, skewed, small, even, huge, small):
            fill(cache, chance, 6000 if size_of is small else 600, size_of, max_item_bytes)
        stats = cache.stats()
        assert stats[b"evictions"] > 0
        assert stats[b"store_no_memory"] == 0


@pytest.mark.parametrize("seed", range(8))
def test_small_values_after_skewed_ones(state_dir: object, seed: int) -> None:
    """A table full of large values turns to one of small values: the index grows into what they leave."""
    chance = random.Random(seed)
    with table(memory=128 * KIB, max_item=8 * KIB) as cache:
        fill(cache, chance, 12_000, skewed, 8 * KIB)
        fill(cache, chance, 8000, lambda chance, largest: 0, 8 * KIB)


@pytest.mark.parametrize(("memory_bytes", "max_item_bytes"), SEGMENTS)
@pytest.mark.parametrize("size_of", MIXES)
def test_full_without_eviction(
    state_dir: object, memory_bytes: int, max_item_bytes: int, size_of: Callable[[random.Random, int], int]
) -> None:
    """Refuses what does not fit, keeps all that it took, and takes again what was made room for."""
    chance = random.Random(1)
    held: dict[bytes, bytes] = {}
    with table(memory=memory_bytes, max_item=max_item_bytes, evict=False) as cache:
        with pytest.raises(memcache_shm.NoSpaceError, match="full"):
            for number in range(10 * memory_bytes):
                key, value = b"key-%d" % number, b"%08d" % number + b"x" * size_of(chance, max_item_bytes - 8)
                cache.set(key, value)
                held[key] = value
        assert cache.stats()[b"evictions"] == 0
        assert len(cache) == len(held)
        assert cache.get_many(held) == held
        payload = sum(len(key) + len(value) for key, value in held.items())
        assert payload > memory_bytes * (0.3 if size_of is small else 0.4), "filled before it refused"
        for key in held:
            cache.delete(key)
        assert len(cache) == 0
        cache.set("largest", b"x" * max_item_bytes)
        assert cache.get("largest") == b"x" * max_item_bytes


@pytest.mark.parametrize(("memory_bytes", "max_item_bytes"), SEGMENTS)
def test_largest_value_fits_and_one_byte_more_does_not(state_dir: object, memory_bytes: int, max_item_bytes: int) -> None:
    with table(memory=memory_bytes, max_item=max_item_bytes) as cache:
        fill(cache, random.Random(2), 3000, small, max_item_bytes)
        for key in ("k", "x" * 250):
            cache.set(key, b"v" * max_item_bytes)
            assert cache.get(key) == b"v" * max_item_bytes
            with pytest.raises(memcache_shm.TooLargeError, match=str(max_item_bytes)):
                cache.set(key, b"v" * (max_item_bytes + 1))


def test_hot_items_outlive_cold_ones(state_dir: object) -> None:
    """The sweep gives a second chance to what was read."""
    with table(elements=100, element_size=20) as cache:
        for number in range(100):
            cache.set(f"hot-{number}" if number < 20 else f"cold-{number}", b"x")
        for number in range(70):
            for hot in range(20):
                cache.get(f"hot-{hot}")
            cache.set(f"new-{number}", b"x")
        assert sum(f"hot-{number}" in cache for number in range(20)) >= 19


@pytest.mark.parametrize("options", [{"elements": 50, "element_size": 100}, {"memory": 64 * KIB, "max_item": 4 * KIB}])
@pytest.mark.parametrize("evict", [False, True])
def test_dead_items_go_first(state_dir: object, options: dict[str, int], evict: bool) -> None:
    """Expired and flushed items make room before a live one goes or a new one is refused."""
    with table(**options, evict=evict) as cache:
        cache.set("live", b"x" * 50)
        for round_number in range(20):
            for number in range(40):
                cache.set(f"dead-{round_number}-{number}", b"x" * 50, expire=-1)
        assert cache.get("live") == b"x" * 50
        assert cache.stats()[b"evictions"] == 0
        cache.flush_all()
        for number in range(50):
            cache.set(f"new-{number}", b"x" * 50)
        assert all(f"new-{number}" in cache for number in range(50))
        assert cache.stats()[b"evictions"] == 0
