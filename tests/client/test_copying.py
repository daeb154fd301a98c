"""Filling a table with items as they are elsewhere."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.checks import is_whole
from support.waiting import until

import memcache_shm
from memcache_shm.client.copying import Copier

BINARY = bytes(range(250))
FAR = 2_000_000_000  # unix time


@pytest.fixture
def copier(cache: memcache_shm.Cache) -> Iterator[Copier]:
    """Of a table that follows no other."""
    copier = Copier(cache)
    yield copier
    copier.close()


# Items as they were


def test_an_item_keeps_its_flags_and_its_cas_id(cache: memcache_shm.Cache, copier: Copier) -> None:
    assert copier.put(b"key", b"value", 2**32 - 1, 0, 2**64 - 1)
    assert cache.gets("key") == (b"value", b"%d" % (2**64 - 1))
    assert copier.put(b"key", b"newer", 0, FAR, 7)
    assert cache.gets("key") == (b"newer", b"7")
    assert cache.cas("key", b"x", 8) is False
    assert cache.cas("key", b"x", 7) is True
    assert is_whole(cache)


def test_without_a_cas_id_it_gets_one_of_the_tables_own(cache: memcache_shm.Cache, copier: Copier) -> None:
    cache.set("before", b"")
    assert copier.put(b"key", b"value", 0, 0, 0)
    cache.set("after", b"")
    assert int(cache.gets("before")[1]) != int(cache.gets("key")[1]) != 0


@pytest.mark.parametrize("key", [b"\0", BINARY, b"a b\r\n", b"k" * 250], ids=["nul", "all", "blanks", "longest"])
def test_keys_of_any_bytes(cache: memcache_shm.Cache, copier: Copier, key: bytes) -> None:
    assert copier.put(key, b"value", 0, 0, 1)
    assert len(cache) == 1
    assert copier.drop(key)
    assert not copier.drop(key)
    assert len(cache) == 0


@pytest.mark.parametrize("key", [b"", b"k" * 251])
def test_what_is_no_key(copier: Copier, key: bytes) -> None:
    for call in (lambda: copier.put(key, b"", 0, 0, 1), lambda: copier.touch(key, 0), lambda: copier.drop(key)):
        with pytest.raises(memcache_shm.IllegalInputError, match="1 to 250"):
            call()


@pytest.mark.parametrize("arguments", [(-1, 0, 0), (2**32, 0, 0), (0, 2**63, 0), (0, 0, -1), (0, 0, 2**64)])
def test_numbers_out_of_range(copier: Copier, arguments: tuple[int, int, int]) -> None:
    with pytest.raises(OverflowError):
        copier.put(b"key", b"", *arguments)


def test_expiry_is_a_point_in_time(cache: memcache_shm.Cache, copier: Copier) -> None:
    copier.put(b"soon", b"v", 0, int(time.time()) + 2, 1)
    copier.put(b"over", b"v", 0, int(time.time()) - 1, 1)
    copier.put(b"long ago", b"v", 0, 1, 1)
    copier.put(b"never", b"v", 0, 0, 1)
    copier.put(b"late", b"v", 0, FAR, 1)
    assert cache.get("soon") == b"v"
    assert cache.get_many(["over", "never", "late"]) == {"never": b"v", "late": b"v"}
    until(lambda: cache.get("soon") is None, "the item to expire", 4)


def test_touch(cache: memcache_shm.Cache, copier: Copier) -> None:
    copier.put(b"key", b"v", 5, 0, 9)
    assert copier.touch(b"key", FAR)
    assert cache.gets("key") == (b"v", b"9")
    assert copier.touch(b"key", int(time.time()) - 1)
    assert cache.get("key") is None
    assert not copier.touch(b"key", FAR)


def test_flush(cache: memcache_shm.Cache, copier: Copier) -> None:
    copier.put(b"key", b"v", 0, 0, 1)
    copier.flush()
    copier.put(b"next", b"v", 0, 0, 2)
    assert cache.get_many(["key", "next"]) == {"next": b"v"}


def test_large_values(cache: memcache_shm.Cache, copier: Copier) -> None:
    value = random.Random(1).randbytes(cache.attached_table.max_value)
    assert copier.put(b"large", value, 1, 0, 2)
    assert cache.gets("large") == (value, b"2")


def test_a_value_too_large_takes_the_older_one_with_it(cache: memcache_shm.Cache, copier: Copier) -> None:
    assert copier.put(b"key", b"v", 0, 0, 1)
    assert not copier.put(b"key", bytes(cache.attached_table.max_value + 1), 0, 0, 2)
    assert cache.get("key") is None
    assert copier.refused == 1


def test_no_room(state_dir: Path) -> None:
    with memcache_shm.open("small", elements=3, element_size=10, evict=False) as cache:
        copier = Copier(cache)
        stored = [copier.put(b"%d" % number, b"v", 0, 0, 1) for number in range(5)]
        assert (stored, copier.refused) == ([True, True, True, False, False], 2)
        assert copier.put(b"0", b"w", 0, 0, 2)
        copier.close()


def test_a_smaller_table_evicts(state_dir: Path) -> None:
    with memcache_shm.open("small", elements=100, element_size=10) as cache:
        copier = Copier(cache)
        assert all(copier.put(b"%d" % number, b"v", 0, 0, 1) for number in range(1000))
        assert (copier.refused, len(cache)) == (0, 100)
        copier.close()


# What is so already


SAME = (b"key", b"value", 3, FAR, 7)


def stored(cache: memcache_shm.Cache) -> int:
    return int(cache.stats()[b"total_items"])


@pytest.mark.parametrize("value", [b"value", b"", bytes(60_000)], ids=["usual", "empty", "large"])
def test_an_item_that_is_there_already_is_not_stored_again(cache: memcache_shm.Cache, copier: Copier, value: bytes) -> None:
    same = (b"key", value, 3, FAR, 7)
    copier.put(*same)
    before = stored(cache)
    with cache.subscribe("*") as changes:
        assert copier.put(*same)
        assert copier.put(*same)
        copier.put(b"other", b"v", 0, 0, 1)
        assert next(changes).key == b"other"
    assert stored(cache) == before + 1
    assert cache.gets("key") == (value, b"7")


@pytest.mark.parametrize(
    "other",
    [(b"key", b"valuf", 3, FAR, 7), (b"key", b"value2", 3, FAR, 7), (*SAME[:2], 4, *SAME[3:]), (*SAME[:3], 0, 7), (*SAME[:3], FAR + 1, 7),
     (*SAME[:4], 8), (*SAME[:4], 0)],
    ids=["value", "length", "flags", "never", "exptime", "cas", "own cas"],
)  # fmt: skip
def test_an_item_with_something_else_is_stored(
    cache: memcache_shm.Cache, copier: Copier, other: tuple[bytes, bytes, int, int, int]
) -> None:
    copier.put(*SAME)
    before = stored(cache)
    assert copier.put(*other)
    assert stored(cache) == before + 1
    assert cache.get("key") == other[1]


def test_in_a_copy_everything_comes_again(cache: memcache_shm.Cache, copier: Copier) -> None:
    copier.put(*SAME)
    copier.put(b"gone", b"v", 0, 0, 8)
    copier.begin_copy()
    copier.put(*SAME)
    assert copier.end_copy() == 1
    assert cache.get_many(["key", "gone"]) == {"key": b"value"}


def test_a_flush_of_nothing_is_not_told(cache: memcache_shm.Cache, copier: Copier) -> None:
    with cache.subscribe("*") as changes:
        copier.flush()
        copier.put(*SAME)
        assert next(changes).kind == "set"
        copier.flush()
        assert next(changes).kind == "flush"


# A whole copy


def test_a_copy_leaves_what_came(cache: memcache_shm.Cache, copier: Copier) -> None:
    cache.set_many({f"old{number}": b"v" for number in range(500)})
    copier.begin_copy()
    for number in range(250, 1000):
        copier.put(b"old%d" % number, b"w", 0, 0, number)
    copier.drop(b"old300")
    assert len(cache) == 999
    assert copier.end_copy() == 250
    assert len(cache) == 749
    assert cache.gets("old999") == (b"w", b"999")
    assert is_whole(cache)


def test_a_copy_that_begins_anew(cache: memcache_shm.Cache, copier: Copier) -> None:
    copier.begin_copy()
    copier.put(b"first", b"v", 0, 0, 1)
    copier.begin_copy()
    copier.put(b"second", b"v", 0, 0, 2)
    assert copier.end_copy() == 1
    assert cache.get_many(["first", "second"]) == {"second": b"v"}
    with pytest.raises(ValueError, match="begin_copy"):
        copier.end_copy()


def test_a_copy_of_nothing(cache: memcache_shm.Cache, copier: Copier) -> None:
    cache.set_many({f"k{number}": b"v" for number in range(1000)})
    copier.begin_copy()
    assert copier.end_copy() == 1000
    assert len(cache) == 0


def test_what_others_write_meanwhile_stays(cache: memcache_shm.Cache, copier: Copier) -> None:
    cache.set("both", b"v")
    copier.begin_copy()
    cache.set("both", b"w")
    cache.set("theirs", b"w")
    assert copier.end_copy() == 0
    assert len(cache) == 2


def test_closed(copier: Copier) -> None:
    copier.close()
    copier.close()
    for call in (lambda: copier.put(b"k", b"", 0, 0, 1), copier.flush, copier.begin_copy):
        with pytest.raises(memcache_shm.ClosedError):
            call()


def test_a_removed_table_is_told(state_dir: Path) -> None:
    cache = memcache_shm.open("gone", memory="1m")
    copier = Copier(cache)
    memcache_shm.unlink("gone")
    for call in (lambda: copier.put(b"k", b"", 0, 0, 1), lambda: copier.drop(b"k"), lambda: copier.touch(b"k", 0), copier.flush):
        with pytest.raises(memcache_shm.TableRemovedError):
            call()
    copier.close()
