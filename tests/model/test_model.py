"""The cache object against a dict: every operation, expiry, flush, and what eviction or its absence may do.

Time: an item is either far from its expiry or past it, so that no answer depends on the second it is asked in.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

import memcache_shm

FAR_S = 10_000
EXAMPLES = 40
MAX_KEYS = 10
HALF_OF_TIGHT_BYTES = 32 * 1024
names = itertools.count()

STARTS_OF_NUMBERS = {b"%c" % char for char in b"+- \t\n\v\f\r0123456789"}

keys = st.sampled_from([b"k%d" % number for number in range(MAX_KEYS - 2)] + [b"x" * 250, b"\xff"])
expiries = st.sampled_from([0, 0, FAR_S, -1])
flags = st.sampled_from([0, 1, 2**32 - 1])
numbers = st.one_of(st.integers(0, 20), st.integers(2**64 - 20, 2**64 - 1), st.integers(0, 2**64 - 1))


@dataclass(frozen=True)
class Setup:
    """How a table is made and what follows for the model."""

    options: dict[str, Any]
    max_value: int
    capacity: int | None  # items, None: by their bytes
    evict: bool

    @property
    def exact(self) -> bool:
        """Whether nothing is ever evicted."""
        roomy = self.capacity > MAX_KEYS if self.capacity else self.options["memory"] == "64m"
        return roomy or not self.evict


SETUPS = {
    "memory-roomy": Setup({"memory": "64m", "max_item": "64k"}, 65_536, None, True),
    "memory-tight": Setup({"memory": "64k", "max_item": "16k"}, 16_384, None, True),
    "memory-tight-refusing": Setup({"memory": "64k", "max_item": "16k", "evict": False}, 16_384, None, False),
    "elements-roomy": Setup({"elements": 2 * MAX_KEYS, "element_size": 100}, 100, 2 * MAX_KEYS, True),
    "elements-tight": Setup({"elements": 5, "element_size": 100}, 100, 5, True),
    "elements-tight-refusing": Setup({"elements": 5, "element_size": 100, "evict": False}, 100, 5, False),
}


class CacheMachine(RuleBasedStateMachine):
    """`held` is what a cache without limits would hold. A tight table may have fewer (evicted), never others or other values."""

    setup: Setup

    def __init__(self) -> None:
        super().__init__()
        self.held: dict[bytes, bytes] = {}
        self.cas: dict[bytes, bytes] = {}
        self.seen_cas: set[bytes] = set()

    @initialize()
    def open(self) -> None:
        self.cache = memcache_shm.open(f"model-{os.getpid()}-{next(names)}", **self.setup.options)

    # What the model knows

    def is_held(self, key: bytes) -> bool:
        """Whether the table has the key; what was evicted leaves the model, too."""
        there = key in self.cache
        assert there == (key in self.held) or (not there and not self.setup.exact)
        if not there:
            self.held.pop(key, None)
        return there

    def changed(self, key: bytes, value: bytes | None) -> None:
        if value is None:
            self.held.pop(key, None)
        else:
            self.held[key] = value

    def store(self, key: bytes, call: Callable[[], Any], value: bytes, expire: int, replaces: bool) -> Any:
        """Run a storing call that the model says must succeed, unless the value is too large or the table full and refusing."""
        try:
            result = call()
        except memcache_shm.TooLargeError:
            assert len(value) > self.setup.max_value
            self.refused(key, replaces)
            return None
        except memcache_shm.NoSpaceError:
            assert not self.setup.evict
            assert self.is_full(len(value))
            self.refused(key, replaces)
            return None
        assert len(value) <= self.setup.max_value
        self.changed(key, None if expire < 0 else value)
        assert self.cache.get(key) == self.held.get(key), "what was just stored is there"
        return result

    def refused(self, key: bytes, replaces: bool) -> None:
        """As in memcached a `set` that fails takes the old value with it; nothing else does."""
        if replaces:
            self.changed(key, None)
            assert self.cache.get(key) is None

    def is_full(self, more_bytes: int) -> bool:
        """Whether a table that does not evict may refuse so many bytes more."""
        if self.setup.capacity is not None:
            return len(self.held) >= self.setup.capacity
        return sum(map(len, self.held.values())) + more_bytes > HALF_OF_TIGHT_BYTES

    # Operations

    @rule(key=keys, data=st.data(), expire=expiries, flag=flags)
    def set(self, key: bytes, data: st.DataObject, expire: int, flag: int) -> None:
        value = data.draw(self.values())
        assert self.store(key, lambda: self.cache.set(key, value, expire, flags=flag), value, expire, True) in (True, None)

    def values(self) -> st.SearchStrategy[bytes]:
        largest = self.setup.max_value
        sizes = st.one_of(st.sampled_from([0, 1, largest - 1, largest, largest + 1]), st.integers(0, largest))
        return st.one_of(
            st.binary(max_size=40),
            numbers.map(lambda number: b"%d" % number),
            st.tuples(sizes, st.integers(0, 255)).map(lambda pair: bytes([pair[1]]) * pair[0]),
        )

    @rule(key=keys, data=st.data(), expire=expiries)
    def add(self, key: bytes, data: st.DataObject, expire: int) -> None:
        value = data.draw(self.values())
        if self.is_held(key):
            if len(value) <= self.setup.max_value:
                assert self.cache.add(key, value, expire) is False
        else:
            assert self.store(key, lambda: self.cache.add(key, value, expire), value, expire, False) in (True, None)

    @rule(key=keys, data=st.data(), expire=expiries)
    def replace(self, key: bytes, data: st.DataObject, expire: int) -> None:
        value = data.draw(self.values())
        if self.is_held(key):
            assert self.store(key, lambda: self.cache.replace(key, value, expire), value, expire, False) in (True, None)
        elif len(value) <= self.setup.max_value:
            assert self.cache.replace(key, value, expire) is False

    @rule(key=keys, piece=st.binary(max_size=60), front=st.booleans())
    def extend(self, key: bytes, piece: bytes, front: bool) -> None:
        call = self.cache.prepend if front else self.cache.append
        if not self.is_held(key):
            assert call(key, piece) is False
            return
        old = self.held[key]
        value = piece + old if front else old + piece
        assert self.store(key, lambda: call(key, piece), value, 0, False) in (True, None)

    @rule(key=keys, piece=st.binary(max_size=40), stale=st.booleans())
    def compare_and_set(self, key: bytes, piece: bytes, stale: bool) -> None:
        value, cas = self.cache.gets(key)
        if value is None:
            assert self.cache.cas(key, piece, self.cas.get(key, b"1")) is None
            return
        if stale and self.cas.get(key) not in (None, cas):
            assert self.cache.cas(key, piece, self.cas[key]) is False
            return
        assert self.store(key, lambda: self.cache.cas(key, piece, cas), piece, 0, False) in (True, None)

    @rule(key=keys)
    def note_cas(self, key: bytes) -> None:
        """CAS ids change with every store and are never given twice."""
        value, cas = self.cache.gets(key)
        if value is not None:
            if self.cas.get(key) != cas:
                assert cas not in self.seen_cas
            self.cas[key] = cas
            self.seen_cas.add(cas)

    @rule(key=keys, delta=numbers, down=st.booleans())
    def count(self, key: bytes, delta: int, down: bool) -> None:
        call = self.cache.decr if down else self.cache.incr
        if not self.is_held(key):
            assert call(key, delta) is None
            return
        text = self.held[key]
        digits = text.rstrip(b" ")  # a number that got shorter is padded
        if not digits.isdigit() or len(text) > 20 or int(digits) >= 2**64:
            if text[:1] not in STARTS_OF_NUMBERS:
                with pytest.raises(memcache_shm.IllegalInputError, match="non-numeric"):
                    call(key, delta)
            return
        number = max(0, int(digits) - delta) if down else (int(digits) + delta) % 2**64
        value = b"%d" % number
        answer = self.store(key, lambda: call(key, delta), value.ljust(len(text)), 0, False)
        assert answer in (number, None)

    @rule(key=keys)
    def delete(self, key: bytes) -> None:
        held = self.is_held(key)
        assert self.cache.delete(key) is held
        self.changed(key, None)
        assert key not in self.cache

    @rule(key=keys, expire=expiries)
    def touch(self, key: bytes, expire: int) -> None:
        held = self.is_held(key)
        assert self.cache.touch(key, expire) is held
        if expire < 0:
            self.changed(key, None)
        assert (key in self.cache) == (key in self.held)

    @rule(key=keys, expire=expiries)
    def get_and_touch(self, key: bytes, expire: int) -> None:
        expected = self.held[key] if self.is_held(key) else None
        assert self.cache.gat(key, expire) == expected
        if expire < 0:
            self.changed(key, None)
        assert (key in self.cache) == (key in self.held)

    @rule()
    def flush(self) -> None:
        self.cache.flush_all()
        self.held.clear()
        assert len(self.cache) == 0

    @rule()
    def flush_later(self) -> None:
        self.cache.flush_all(delay=FAR_S)

    @rule(wanted=st.lists(keys, max_size=8))
    def get_many(self, wanted: list[bytes]) -> None:
        found = self.cache.get_many(wanted)
        assert all(self.held[key] == value for key, value in found.items())
        if self.setup.exact:
            assert found.keys() == self.held.keys() & {*wanted}

    @rule(value=st.binary(max_size=100), wanted=st.lists(keys, max_size=8, unique=True))
    def set_many(self, value: bytes, wanted: list[bytes]) -> None:
        failed = self.cache.set_many(dict.fromkeys(wanted, value))
        assert not failed or not self.setup.evict
        for key in wanted:
            self.changed(key, None if key in failed else value)
            assert key not in self.cache or self.held[key] == self.cache[key]

    @invariant()
    def no_more_items_than_promised(self) -> None:
        if self.setup.capacity is not None and hasattr(self, "cache"):
            assert len(self.cache) <= self.setup.capacity

    def teardown(self) -> None:
        if not hasattr(self, "cache"):
            return
        try:
            found = self.cache.get_many(self.held)
            assert all(self.held[key] == value for key, value in found.items())
            assert found.keys() == self.held.keys() or not self.setup.exact
        finally:
            self.cache.close()
            memcache_shm.unlink(self.cache.name)


@pytest.mark.parametrize("name", SETUPS)
def test_cache_is_a_dict_with_limits(state_dir: object, name: str) -> None:
    machine = type(name, (CacheMachine,), {"setup": SETUPS[name]})
    run_state_machine_as_test(machine, settings=settings(max_examples=EXAMPLES, stateful_step_count=60, deadline=None))


@pytest.mark.torture
@pytest.mark.parametrize("name", SETUPS)
def test_cache_is_a_dict_with_limits_for_long(state_dir: object, name: str) -> None:
    machine = type(name, (CacheMachine,), {"setup": SETUPS[name]})
    run_state_machine_as_test(machine, settings=settings(max_examples=100 * EXAMPLES, stateful_step_count=300, deadline=None))
