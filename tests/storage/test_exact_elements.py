"""The geometry by elements keeps its promise through every sequence of operations: room for so many items, no more and no fewer."""

from __future__ import annotations

import itertools
import os
import random
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import memcache_shm
from memcache_shm.storage.check import check_table
from memcache_shm.storage.geometry import ELEMENTS_A_SHARD, Geometry

KEY_MAX = 250
FIXTURES = settings(deadline=None, max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
names = itertools.count()


class Promised:
    """A cache by elements beside a dict of what is alive in it. A second handle looks without leaving a trace."""

    def __init__(self, elements: int, element_size: int, evict: bool, seed: int) -> None:
        self.elements = elements
        self.element_size = element_size
        self.chance = random.Random(seed)
        self.cache = memcache_shm.open(f"exact-{os.getpid()}-{next(names)}", elements=elements, element_size=element_size, evict=evict)
        self.onlooker = memcache_shm.attach(self.cache.name, readonly=True)
        self.held: dict[bytes, bytes] = {}
        self.made = 0

    def close(self) -> None:
        self.onlooker.close()
        self.cache.close()
        memcache_shm.unlink(self.cache.name)

    # What to store

    def new_key(self) -> bytes:
        """One that was never used, 1 to 250 bytes long."""
        self.made += 1
        name = b"%x" % self.made
        return name.ljust(self.chance.choice([1, KEY_MAX, self.chance.randint(1, KEY_MAX)]), b"-")

    def some_key(self) -> bytes:
        """One that is held; a new one in an empty cache."""
        return self.chance.choice(list(self.held)) if self.held else self.new_key()

    def value(self, most: int | None = None) -> bytes:
        largest = self.element_size if most is None else most
        size = self.chance.choice([0, min(1, largest), max(0, largest - 1), largest, self.chance.randint(0, largest)])
        return bytes([self.chance.randrange(256)]) * size

    # Operations that leave at most `elements` keys alive: every one must succeed and cost no other item

    def store(self) -> None:
        key, value = self.new_key() if len(self.held) < self.elements else self.some_key(), self.value()
        assert self.cache.set(key, value)
        self.held[key] = value

    def overwrite(self) -> None:
        key, value = self.some_key(), self.value()
        assert self.cache.set(key, value)
        self.held[key] = value

    def delete(self) -> None:
        key = self.some_key()
        assert self.cache.delete(key) is (self.held.pop(key, None) is not None)

    def extend(self) -> None:
        key = self.some_key()
        if key not in self.held:
            return
        more = self.value(self.element_size - len(self.held[key]))
        if self.chance.random() < 0.5:
            assert self.cache.append(key, more)
            self.held[key] += more
        else:
            assert self.cache.prepend(key, more)
            self.held[key] = more + self.held[key]

    def count(self) -> None:
        """A number that gets longer by being counted up."""
        key = self.some_key()
        most = 10 ** min(18, self.element_size) - 10
        assert self.cache.set(key, b"7")
        assert self.cache.incr(key, most) == most + 7
        self.held[key] = b"%d" % (most + 7)

    def expire(self) -> None:
        """Dead items lie about until somebody needs their place."""
        key = self.some_key()
        assert self.cache.touch(key, -1) is (self.held.pop(key, None) is not None)

    def replace_by_a_dead_one(self) -> None:
        key = self.some_key()
        self.cache.set(key, self.value(), expire=-1)
        self.held.pop(key, None)

    def step(self) -> None:
        """One operation; most steps fill the table."""
        operations = (self.overwrite, self.delete, self.extend, self.count, self.expire, self.replace_by_a_dead_one)
        operation = self.store if self.chance.random() < 0.6 else self.chance.choice(operations)
        operation()
        assert len(self.cache) <= self.elements

    def fill(self, number: int) -> None:
        while len(self.held) < number:
            self.store()

    # What must hold

    def check(self) -> None:
        self.check_kept()
        assert len(self.held) <= len(self.cache) <= self.elements

    def check_kept(self) -> None:
        assert self.onlooker.get_many(self.held) == self.held
        assert self.cache.stats()[b"evictions"] == 0

    def take_one_more(self) -> None:
        """A full table that evicts takes it for exactly one other."""
        key, value = self.new_key(), self.value()
        assert self.cache.set(key, value)
        self.held[key] = value
        found = self.onlooker.get_many(self.held)
        assert found[key] == value
        assert len(found) == len(self.cache) == self.elements
        assert found.items() <= self.held.items()
        self.held = found

    def refuse_one_more(self) -> None:
        """A full table that does not evict refuses it and keeps all."""
        for call in (self.cache.set, self.cache.add):
            with pytest.raises(memcache_shm.NoSpaceError, match="full"):
                call(self.new_key(), self.value())
        self.check()


@contextmanager
def promised(elements: int, element_size: int, evict: bool, seed: int = 0) -> Iterator[Promised]:
    table = Promised(elements, element_size, evict, seed)
    try:
        yield table
        assert check_table(table.cache.attached_table).findings == []
    finally:
        table.close()


@FIXTURES
@given(
    elements=st.one_of(st.integers(1, 12), st.integers(1, 300)),
    element_size=st.one_of(st.integers(1, 40), st.integers(1, 4000)),
    level=st.floats(0, 1),
    evict=st.booleans(),
    seed=st.integers(0, 2**32),
)
def test_any_operations_keep_the_promise(state_dir: object, elements: int, element_size: int, level: float, evict: bool, seed: int) -> None:
    with promised(elements, element_size, evict, seed) as table:
        table.fill(int(level * elements))
        table.check()
        for _ in range(30):
            for _ in range(10):
                table.step()
            table.check()
        table.fill(elements)
        table.check()
        for _ in range(5):
            one_more(table, evict)


def one_more(table: Promised, evict: bool) -> None:
    if evict:
        table.take_one_more()
    else:
        table.refuse_one_more()


@pytest.mark.parametrize("evict", [False, True])
def test_full_to_the_last_element_of_one_shard(state_dir: object, evict: bool) -> None:
    """The largest number that is still exact."""
    with promised(ELEMENTS_A_SHARD, 12, evict) as table:
        table.fill(ELEMENTS_A_SHARD)
        table.check()
        for _ in range(200):
            table.overwrite()
        table.check()
        one_more(table, evict)


@pytest.mark.parametrize("elements", [10, 250, 300, 5000])
@pytest.mark.parametrize("evict", [False, True])
@pytest.mark.parametrize("dead", [1, 5])
def test_dead_items_are_no_obstacle(state_dir: object, elements: int, evict: bool, dead: int) -> None:
    """In a full table as many new ones find room as old ones have expired, and none that lives goes."""
    with promised(elements, 20, evict, seed=dead) as table:
        table.fill(elements)
        for _ in range(10):
            for _ in range(dead):
                table.expire()
            table.fill(elements)
        table.check()


@pytest.mark.parametrize("evict", [False, True])
def test_refilled_after_a_flush(state_dir: object, evict: bool) -> None:
    with promised(1000, 20, evict) as table:
        for _ in range(3):
            table.fill(1000)
            table.check()
            assert table.cache.flush_all()
            table.held.clear()


@pytest.mark.parametrize("evict", [False, True])
def test_keys_that_come_and_go(state_dir: object, evict: bool) -> None:
    """Whatever keys were there before: a full table changes all of its items many times over, one by one."""
    with promised(100, 30, evict) as table:
        table.fill(100)
        for _ in range(3000):
            table.delete()
            table.store()
        table.check()


def test_several_shards_hold_at_least_what_was_asked_for(state_dir: object) -> None:
    """Above the exact range: at least that many wherever their keys fall, at most that many and the slack."""
    elements = ELEMENTS_A_SHARD + 2000
    most = Geometry.by_elements(elements, 20).max_elements
    with promised(elements, 20, evict=True) as table:
        for number in range(elements):
            table.cache.set(b"%d" % number, b"v")
            table.held[b"%d" % number] = b"v"
        for key in table.chance.sample(list(table.held), 5000):
            assert table.cache.append(key, b"-and-more")
            table.held[key] = b"v-and-more"
        table.check_kept()
        for number in range(3 * most):
            table.cache.set(b"more-%d" % number, b"")
        assert elements <= len(table.cache) <= most
