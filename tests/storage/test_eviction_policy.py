"""Who goes when a table is full: what a scan cannot drive out, what returning teaches, what the counts tell; room is always made."""

from __future__ import annotations

import itertools
import os
import random
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from support.segments import Segment

import memcache_shm
from memcache_shm.storage.check import check_table
from memcache_shm.storage.geometry import KIB, MIB, Geometry

TABLES: dict[str, dict[str, Any]] = {
    "elements": {"elements": 1000, "element_size": 100},
    "elements-few": {"elements": 64, "element_size": 100},
    "memory": {"memory": "65k", "max_item": "8k"},
}
ALL = 2**24  # unit of the share of new items: all
LEAST_SHARE, START_SHARE, MOST_SHARE = 0.02, 0.1, 0.6
FIXTURES = settings(deadline=None, max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
names = itertools.count()
each_table = pytest.mark.parametrize("name", TABLES)


class Watched:
    """A cache and a read-only handle of the same table: looking through it leaves no trace in the items."""

    def __init__(self, options: dict[str, Any]) -> None:
        self.cache = memcache_shm.open(f"policy-{os.getpid()}-{next(names)}", **options)
        self.onlooker = memcache_shm.attach(self.cache.name, readonly=True)
        self.made = 0

    def close(self) -> None:
        self.onlooker.close()
        self.cache.close()
        memcache_shm.unlink(self.cache.name)

    def stat(self, name: str) -> int:
        return self.cache.attached_table.stats()[name]

    def add_new(self, number: int) -> list[str]:
        """Store so many keys that never were there; they are not read."""
        keys = [f"new-{self.made + i:07d}" for i in range(number)]
        self.made += number
        for key in keys:
            self.cache.set(key, b"some value")
        return keys

    def fill(self) -> list[str]:
        """New keys until one has to go for the next; all of them."""
        keys = []
        while self.stat("evictions") == 0:
            keys += self.add_new(1)
        return keys

    def there(self, keys: Iterable[str]) -> set[str]:
        return set(self.onlooker.get_many(keys))

    def evict_one_of(self, keys: list[str]) -> str:
        """Store new keys until one of these has gone: that one."""
        here = self.there(keys)
        while len(self.there(here)) == len(here):
            self.add_new(1)
        return min(here - self.there(here))


@contextmanager
def watched(options: dict[str, Any]) -> Iterator[Watched]:
    """Whatever was done, the table is whole and its accounts are right."""
    table = Watched(options)
    try:
        yield table
        stats = table.cache.attached_table.stats()
        assert stats["evictions"] == stats["shm_evicted_new"] + stats["shm_evicted_proven"]
        assert stats["evicted_unfetched"] <= stats["evictions"]
        assert stats["store_no_memory"] == 0
        assert check_table(table.cache.attached_table).findings == []
    finally:
        table.close()


# Scans


@each_table
@pytest.mark.parametrize("reads", [0, 3])
def test_a_scan_drives_no_read_item_out(state_dir: object, name: str, reads: int) -> None:
    """Ten times the table of keys that nobody reads; what was read before the scan (and, now and then, during it) outlives it."""
    with watched(TABLES[name]) as table:
        hot = [f"hot-{number}" for number in range(16)]
        for key in hot:
            table.cache.set(key, b"some value")
            assert table.cache.get(key)
        filled = len(table.fill())
        for _ in range(10):
            table.add_new(filled)
            for _ in range(reads):
                table.cache.get_many(hot)
        assert table.there(hot) == set(hot)
        assert table.stat("evictions") > 9 * filled
        # A new key may be taken for one that returns, since ghosts remember 12 bits of it.
        assert table.stat("shm_evicted_proven") <= 1 + filled // 100


@each_table
def test_what_was_never_read_goes(state_dir: object, name: str) -> None:
    """Without any hit the oldest go about first: after ten times the table nothing of the first is left."""
    with watched(TABLES[name]) as table:
        first = table.fill()
        table.add_new(10 * len(first))
        assert not table.there(first)


@each_table
def test_items_that_all_are_hot_let_new_ones_in(state_dir: object, name: str) -> None:
    """Everything in the table is read three times between any two sets; each set finds room, and what it brings can be read."""
    with watched(TABLES[name]) as table:
        held = table.fill()
        for _ in range(100):
            for _ in range(3):
                held = list(table.cache.get_many(held))
            [key] = table.add_new(1)
            assert table.there([key])
            held.append(key)
        assert table.stat("evictions") >= table.made - len(table.cache)
        assert table.stat("shm_evicted_proven") > 50


# Returning


@each_table
def test_a_key_that_soon_returns_is_proven(state_dir: object, name: str) -> None:
    """It then survives what drives a new one out that came with it."""
    with watched(TABLES[name]) as table:
        filled = table.fill()
        victim = table.evict_one_of(filled)
        new_before = table.stat("shm_new_records")
        returned_before = table.stat("shm_returned_new")
        table.cache.set(victim, b"back again")
        assert table.stat("shm_returned_new") == returned_before + 1
        assert table.stat("shm_returned_proven") == 0
        assert table.stat("shm_new_records") <= new_before
        others = table.add_new(5)
        table.add_new(2 * len(filled))
        assert table.there([victim]) == {victim}
        assert len(table.there(others)) <= 1, "one may have been taken for another that returned: a ghost is 11 bits"


@each_table
def test_a_key_that_never_was_there_is_new(state_dir: object, name: str) -> None:
    with watched(TABLES[name]) as table:
        filled = table.fill()
        for key in filled[:20]:
            table.cache.delete(key)
        before = table.stat("shm_returned_new")
        for key in filled[:20]:
            table.cache.set(key, b"deleted, not evicted")
        assert table.stat("shm_returned_new") - before <= 1, "at most what a stranger's ghost is taken for"
        assert table.stat("shm_returned_proven") == 0


@each_table
def test_a_proven_one_that_returns_is_counted_as_such(state_dir: object, name: str) -> None:
    """All are read between any two sets, so that proven ones have to go; who of them returns was proven."""
    with watched(TABLES[name]) as table:
        keys = table.fill()
        for _ in range(100):
            table.cache.get_many(keys)
            keys += table.add_new(1)
            if table.stat("shm_evicted_proven") > 4:
                break
        for key in set(keys) - table.there(keys):
            table.cache.set(key, b"back again")
        assert table.stat("shm_returned_proven") > 0


# The border between the classes


def share(table: Watched) -> float:
    """Which part of the records may be new, in the first shard."""
    with Segment(table.cache.attached_table) as segment:
        word = segment.get(segment.control(0, "share"))
    return word / ALL if word else START_SHARE


def ask(table: Watched, key: str) -> None:
    """As a cache is used: read, and store what was not there."""
    if table.cache.get(key) is None:
        table.cache.set(key, b"some value")


@each_table
def test_new_ones_that_return_get_more_room(state_dir: object, name: str) -> None:
    """Each key is asked for twice, at a distance of half a table: too far for a tenth of it."""
    with watched(TABLES[name]) as table:
        filled = len(table.fill())
        for number in range(20 * filled):
            ask(table, f"twice-{number}")
            ask(table, f"twice-{number - filled // 2}")
        assert table.stat("shm_returned_new") > 0
        assert START_SHARE < share(table) <= MOST_SHARE + 1e-6


@each_table
def test_proven_ones_that_return_get_more_room(state_dir: object, name: str) -> None:
    """A set of hot keys that fills the table, and strangers that come once: proven ones that return take room from the new."""
    with watched(TABLES[name]) as table:
        keys = [f"hot-{number}" for number in range(len(table.fill()))]
        for _ in range(30):
            for number, key in enumerate(keys):
                ask(table, key)
                if number % 8 == 0:
                    table.add_new(1)
        assert table.stat("shm_returned_proven") > 0
        assert LEAST_SHARE - 1e-6 <= share(table) < START_SHARE


@pytest.mark.parametrize("word", [1, ALL // 1000, ALL - 1, 2**32 - 1])
def test_a_senseless_border_is_kept_within_its_limits(state_dir: object, word: int) -> None:
    with watched(TABLES["elements-few"]) as table:
        keys = table.fill()
        with Segment(table.cache.attached_table) as segment:
            segment.put(segment.control(0, "share"), word)
        for _ in range(5):
            for key in keys:
                ask(table, key)
            table.add_new(30)
        assert LEAST_SHARE - 1e-6 <= share(table) <= MOST_SHARE + 1e-6


# Counts


@each_table
@pytest.mark.parametrize("every", [1, 2, 0])
def test_evicted_unfetched_is_who_was_never_read(state_dir: object, name: str, every: int) -> None:
    """All, every second or none of the items were read once; each key comes once."""
    with watched(TABLES[name]) as table:
        keys = table.fill()
        fetched = set()
        for number in range(2 * len(keys)):
            keys += table.add_new(1)
            if every and number % every == 0:
                assert table.cache.get(keys[-1])
                fetched.add(keys[-1])
        gone = set(keys) - table.there(keys)
        assert table.stat("evictions") == len(gone)
        assert table.stat("evicted_unfetched") == len(gone - fetched)


# Room is always made


def small(chance: random.Random, largest: int) -> int:
    return min(largest, int(chance.lognormvariate(3, 1)))


def skewed(chance: random.Random, largest: int) -> int:
    return min(largest, int(chance.lognormvariate(6, 2)))


def even(chance: random.Random, largest: int) -> int:
    return chance.randint(0, largest)


def huge(chance: random.Random, largest: int) -> int:
    return chance.choice([largest, max(0, largest - 1), largest // 2 + 1])


SizeOf = Callable[[random.Random, int], int]
mixes = st.lists(st.sampled_from([small, skewed, even, huge]), min_size=1, max_size=4)


def use(table: Watched, chance: random.Random, largest: int, size_of: SizeOf) -> None:
    """One operation; what it stores can be read at once."""
    key = f"k{chance.randrange(600)}".ljust(chance.choice([1, 250]), "-")
    roll = chance.random()
    value = bytes([chance.randrange(256)]) * size_of(chance, largest)
    if roll < 0.7:
        table.cache.set(key, value, expire=chance.choice([0, 0, 1000]))
        assert table.cache.get(key) == value
    elif roll < 0.8:
        table.cache.delete(key)
    elif roll < 0.9:
        table.cache.touch(key, -1)
    else:
        old = table.cache.get(key)
        if old is not None and len(old) + len(value) <= largest and table.cache.append(key, value):
            assert table.cache.get(key) == old + value


@FIXTURES
@given(
    memory_bytes=st.one_of(st.integers(64 * KIB, 128 * KIB), st.integers(64 * KIB, MIB)),
    part=st.floats(0.0001, 0.49),
    sizes=mixes,
    seed=st.integers(0, 2**32),
)
def test_no_mixture_of_sizes_is_refused(state_dir: object, memory_bytes: int, part: float, sizes: list[SizeOf], seed: int) -> None:
    """While eviction is on every value up to the largest finds room, whatever was there before; afterwards the table is whole."""
    largest = max(1, int(memory_bytes * part))
    try:
        Geometry.by_memory(memory_bytes, largest)
    except ValueError:
        assume(False)
    chance = random.Random(seed)
    with watched({"memory": memory_bytes, "max_item": largest}) as table:
        for size_of in sizes:
            for _ in range(250):
                use(table, chance, largest, size_of)
        table.cache.set("largest", b"x" * largest)
        assert table.cache.get("largest") == b"x" * largest


@FIXTURES
@given(elements=st.integers(1, 100), element_size=st.integers(1, 4000), sizes=mixes, seed=st.integers(0, 2**32))
def test_no_number_of_elements_is_refused(state_dir: object, elements: int, element_size: int, sizes: list[SizeOf], seed: int) -> None:
    chance = random.Random(seed)
    with watched({"elements": elements, "element_size": element_size}) as table:
        for size_of in sizes:
            for _ in range(150):
                use(table, chance, element_size, size_of)
        assert len(table.cache) <= elements
