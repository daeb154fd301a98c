"""What a geometry promises, and that a table keeps it at every fill level and mix of sizes."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

import memcache_shm
from memcache_shm.storage.geometry import ELEMENTS_A_SHARD, GIB, KIB, MIB, Geometry
from memcache_shm.storage.table import Table

MANY = 70_000


def key_of(chance: random.Random, number: int) -> bytes:
    """A key of its own for every number, 1 to 250 bytes long."""
    name = b"%d" % number
    return name if chance.random() < 0.5 else name + b"-" * chance.randint(0, 250 - len(name))


def size_of(chance: random.Random, largest: int) -> int:
    return chance.choice([0, 1, largest - 1, largest, chance.randint(0, largest), int(chance.triangular(0, largest, 0))])


class Filled:
    """A cache by elements, and what must be in it as long as nothing had to go."""

    def __init__(self, elements: int, element_size: int, evict: bool, seed: int) -> None:
        self.chance = random.Random(seed)
        self.size = element_size
        self.cache = memcache_shm.open(f"filled-{seed}-{elements}", elements=elements, element_size=element_size, evict=evict)
        self.held: dict[bytes, bytes] = {}
        self.made = 0

    def add(self) -> bytes:
        key = key_of(self.chance, self.made)
        self.made += 1
        self.store(key)
        return key

    def store(self, key: bytes) -> None:
        value = self.chance.randbytes(8)[: self.size].ljust(size_of(self.chance, self.size), b"x")[: self.size]
        self.cache.set(key, value)
        self.held[key] = value

    def churn(self, times: int) -> None:
        """Replace items by others of other sizes, and by nothing and a new one: the number stays."""
        for _ in range(times):
            key = self.chance.choice(list(self.held))
            if self.chance.random() < 0.5:
                self.store(key)
            else:
                assert self.cache.delete(key)
                del self.held[key]
                self.add()

    def check(self) -> None:
        assert len(self.cache) == len(self.held)
        assert self.cache.get_many(self.held) == self.held

    def close(self) -> None:
        self.cache.close()
        memcache_shm.unlink(self.cache.name)


FIXTURES = settings(deadline=None, max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])


@FIXTURES
@given(
    elements=st.one_of(st.integers(1, 40), st.integers(41, 600)),
    element_size=st.one_of(st.integers(1, 40), st.integers(1, 5000)),
    level=st.floats(0, 1),
    evict=st.booleans(),
    seed=st.integers(0, 2**32),
)
def test_by_elements_holds_exactly_that_many(
    state_dir: object, elements: int, element_size: int, level: float, evict: bool, seed: int
) -> None:
    filled = Filled(elements, element_size, evict, seed)
    try:
        while len(filled.held) < max(1, level * elements):
            filled.add()
        filled.churn(min(200, elements))
        filled.check()
        while len(filled.held) < elements:
            filled.add()
        filled.churn(min(200, elements))
        filled.check()
        one_more(filled, elements, evict)
    finally:
        filled.close()


def one_more(filled: Filled, elements: int, evict: bool) -> None:
    """A full table takes one more item for one that goes, or refuses it and keeps all."""
    before = dict(filled.held)
    if evict:
        key = filled.add()
        assert filled.cache.get(key) == filled.held[key]
        assert len(filled.cache) == elements
        found = filled.cache.get_many(filled.held)
        assert len(found) == elements
        assert all(filled.held[key] == value for key, value in found.items())
    else:
        with pytest.raises(memcache_shm.NoSpaceError):
            filled.add()
        filled.held = before
        filled.check()


def test_more_elements_than_one_shard_has(state_dir: object) -> None:
    """At least the number asked for, whatever shards their keys fall into; at most that and the slack."""
    geometry = Geometry.by_elements(MANY, 8)
    assert geometry.shards > 1
    assert MANY <= geometry.max_elements <= MANY * 1.1
    cache = memcache_shm.open("many", elements=MANY, element_size=8)
    for number in range(MANY):
        cache.set(b"key-%d" % number, b"%08d" % number)
    assert len(cache) == MANY
    for number in range(MANY):
        assert cache.get(b"key-%d" % number) == b"%08d" % number
    for number in range(MANY, 2 * MANY):
        cache.set(b"key-%d" % number, b"%08d" % number)
        assert cache.get(b"key-%d" % number) == b"%08d" % number
    assert MANY <= len(cache) <= geometry.max_elements
    cache.close()


@pytest.mark.parametrize("elements", [1, 2, 1024, ELEMENTS_A_SHARD])
def test_one_shard_is_exact(elements: int) -> None:
    geometry = Geometry.by_elements(elements, 100)
    assert geometry.shards == 1
    assert geometry.max_elements == elements
    assert "slack" not in geometry.describe()


def test_slack_is_told() -> None:
    geometry = Geometry.by_elements(ELEMENTS_A_SHARD + 1, 100)
    assert f"(+{geometry.max_elements - ELEMENTS_A_SHARD - 1} slack)" in geometry.describe()


@pytest.mark.parametrize("memory_bytes", [64 * KIB, 64 * KIB + 1, 100_000, MIB, 3 * MIB + 7, 64 * MIB])
def test_segment_is_as_large_as_asked_for(make_table: Callable[..., Table], memory_bytes: int) -> None:
    table = make_table(Geometry.by_memory(memory_bytes, 4096))
    assert table.geometry.segment_bytes == table.stats()["limit_maxbytes"] == memory_bytes


@given(st.integers(64 * KIB, 16 * GIB), st.integers(1, GIB))
def test_geometry_survives_the_state_file(memory_bytes: int, max_item_bytes: int) -> None:
    try:
        geometry = Geometry.by_memory(memory_bytes, max_item_bytes)
    except ValueError as error:
        assert "-I" in str(error)
        return
    assert Geometry.from_dict(geometry.to_dict()) == geometry
    assert Geometry.from_dict(geometry.to_dict()).plan == geometry.plan
    assert geometry.plan.segment_bytes <= memory_bytes
    arena = geometry.plan.records
    assert arena.base_offset + arena.granules * arena.granule_bytes <= geometry.plan.shard_bytes


@given(st.integers(1, 2**31), st.integers(1, GIB))
def test_element_geometry_survives_the_state_file(elements: int, element_size: int) -> None:
    assume(elements * element_size < 2**45)
    geometry = Geometry.by_elements(elements, element_size)
    assert Geometry.from_dict(geometry.to_dict()).plan == geometry.plan
    assert geometry.max_elements >= elements


@pytest.mark.parametrize(
    ("make", "why"),
    [
        (lambda: Geometry.by_elements(0, 1), "NUM_ELEMENTS"),
        (lambda: Geometry.by_elements(2**31 + 1, 1), "NUM_ELEMENTS"),
        (lambda: Geometry.by_elements(1, 0), "ELEMENT_SIZE"),
        (lambda: Geometry.by_elements(1, GIB + 1), "ELEMENT_SIZE"),
        (lambda: Geometry.by_memory(64 * KIB - 1, 100), "64 KiB"),
        (lambda: Geometry.by_memory(2**47, 100), "at most"),
        (lambda: Geometry.by_elements(2**31, GIB), "take fewer"),
        (lambda: Geometry.by_memory(MIB, 0), "1 byte"),
        (lambda: Geometry.by_memory(4 * GIB, GIB + 1), "1 GiB"),
        (lambda: Geometry.by_memory(MIB, MIB), "-I"),
        (lambda: Geometry.from_dict({"elements": 1}), "incomplete"),
        (lambda: Geometry.from_dict(Geometry.by_elements(1, 1).to_dict() | {"shards": 3}), "power of two"),
    ],
)
def test_impossible_geometries(make: Callable[[], Geometry], why: str) -> None:
    with pytest.raises(ValueError, match=why) as raised:
        make()
    assert "\n" not in str(raised.value)
