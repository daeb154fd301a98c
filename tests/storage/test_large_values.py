"""Values as large as the table allows: in tables full of small ones, in several runs, and while another process reads them."""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from model.hammering import FAILED, Fleet
from support.segments import Segment
from support.tables import verb
from support.waiting import until

import memcache_shm
from memcache_shm.storage.check import check_table
from memcache_shm.storage.geometry import KIB, MIB, Geometry

SIZES = [(64 * KIB, 8 * KIB), (MIB, 256 * KIB), (8 * MIB, 2 * MIB)]
ROUNDS = 200
each_size = pytest.mark.parametrize(("memory_bytes", "max_item_bytes"), SIZES)


@contextmanager
def table(memory_bytes: int, max_item_bytes: int, **options: Any) -> Iterator[memcache_shm.Cache]:
    """An empty cache that is whole at the end, and removed."""
    with memcache_shm.open("large", memory=memory_bytes, max_item=max_item_bytes, **options) as cache:
        yield cache
        assert check_table(cache.attached_table).findings == []
    memcache_shm.unlink("large")


def stat(cache: memcache_shm.Cache, name: str) -> int:
    return cache.attached_table.stats()[name]


def fill_with_small(cache: memcache_shm.Cache) -> dict[str, bytes]:
    """Small values until one has to go for the next; all of them."""
    held = {}
    before = stat(cache, "evictions")
    while len(held) % 100 or stat(cache, "evictions") == before:
        key = f"small-{len(held)}"
        held[key] = bytes([len(held) % 256]) * (40 + len(held) % 100)
        cache.set(key, held[key])
    return held


def check_held(cache: memcache_shm.Cache, held: dict[str, bytes]) -> int:
    """What is left of them is right; how many."""
    found = cache.get_many(held)
    assert found.items() <= held.items()
    return len(found)


# In full tables


@each_size
def test_large_among_small_and_back(state_dir: object, memory_bytes: int, max_item_bytes: int) -> None:
    """Each finds room at once, whatever has to go for it; what stays is right."""
    chance = random.Random(memory_bytes)
    with table(memory_bytes, max_item_bytes) as cache:
        for turn in range(3):
            held = fill_with_small(cache)
            for number in range(8):
                size = chance.choice([max_item_bytes, max_item_bytes - 1, max_item_bytes // 2, max_item_bytes // 3])
                key = f"large-{turn}-{number}"
                held[key] = chance.randbytes(size)
                assert cache.set(key, held[key])
                assert cache.get(key) == held[key]
            assert check_held(cache, held) > 0
        assert stat(cache, "store_no_memory") == 0


@each_size
def test_one_large_value_costs_few_small_ones(state_dir: object, memory_bytes: int, max_item_bytes: int) -> None:
    """What goes for it is about its size, not half the table."""
    with table(memory_bytes, max_item_bytes) as cache:
        held = fill_with_small(cache)
        before = check_held(cache, held)
        cache.set("large", b"x" * (max_item_bytes // 2))
        gone = before - check_held(cache, held)
        assert gone * 60 <= 3 * max_item_bytes, "each small one has at least 60 bytes"


@each_size
def test_a_large_value_grows_by_pieces(state_dir: object, memory_bytes: int, max_item_bytes: int) -> None:
    """By append and prepend in a full table, up to the largest and not beyond."""
    piece = max_item_bytes // 8
    with table(memory_bytes, max_item_bytes) as cache:
        fill_with_small(cache)
        value = b""
        cache.set("grows", value)
        for number in range(8):
            more = bytes([number]) * piece
            value = more + value if number % 2 else value + more
            assert (cache.prepend if number % 2 else cache.append)("grows", more)
            assert cache.get("grows") == value
        with pytest.raises(memcache_shm.TooLargeError, match=str(max_item_bytes)):
            cache.append("grows", b"x" * (max_item_bytes - len(value) + 1))
        assert cache.get("grows") == value


# Of several runs


def fragment(cache: memcache_shm.Cache, piece_bytes: int) -> dict[str, bytes]:
    """Fill a table that does not evict with pieces, then delete every second one; those that stay."""
    held: dict[str, bytes] = {}
    with pytest.raises(memcache_shm.NoSpaceError):
        while True:
            value = os.urandom(8).ljust(piece_bytes, b"x")
            cache.set(f"piece-{len(held)}", value)
            held[f"piece-{len(held)}"] = value
    for key in list(held)[::2]:
        cache.delete(key)
        del held[key]
    return held


def has_several_runs(cache: memcache_shm.Cache, key: bytes) -> bool:
    with Segment(cache.attached_table) as segment:
        return segment.has_several_runs(segment.find(key))


@each_size
def test_a_record_of_several_runs_reads_right(state_dir: object, memory_bytes: int, max_item_bytes: int) -> None:
    """Every second piece was deleted: no gap takes the largest value, several together do. All operations on it."""
    with table(memory_bytes, max_item_bytes, evict=False) as cache:
        held = fragment(cache, max_item_bytes // 8)
        value = random.Random(1).randbytes(max_item_bytes - 100)
        assert cache.set("large", value)
        assert has_several_runs(cache, b"large")
        assert stat(cache, "shm_several_run_records") > 0
        with memcache_shm.attach("large", readonly=True) as onlooker:
            assert onlooker.get("large") == value
        assert cache.get("large") == value
        assert cache.append("large", b"y" * 100)
        assert cache.get("large") == value + b"y" * 100
        assert cache.touch("large", 1000)
        assert cache.get_many([*held, "large"]) == held | {"large": value + b"y" * 100}
        assert cache.delete("large")
        assert cache.get_many([*held, "large"]) == held


def test_a_record_of_several_runs_gives_all_of_them_back(state_dir: object) -> None:
    with table(MIB, 256 * KIB, evict=False) as cache:
        fragment(cache, 32 * KIB)
        used = stat(cache, "shm_arena_used_bytes")
        for _ in range(50):
            cache.set("large", b"x" * (256 * KIB))
            cache.delete("large")
        assert stat(cache, "shm_arena_used_bytes") == used


# What cannot be


@pytest.mark.parametrize(
    ("memory_bytes", "max_item_bytes"),
    [(MIB, MIB), (MIB, MIB // 2 + 1), (MIB, MIB // 2), (64 * KIB, 32 * KIB), (64 * KIB, 64 * KIB), (64 * MIB, 33 * MIB)],
)
def test_a_largest_value_that_the_memory_cannot_hold(state_dir: Path, memory_bytes: int, max_item_bytes: int) -> None:
    """One line that names both numbers' options; nothing is made."""
    with pytest.raises(ValueError, match=str(max_item_bytes)) as raised:
        Geometry.by_memory(memory_bytes, max_item_bytes)
    said = str(raised.value)
    assert "-m" in said
    assert "-I" in said
    assert "\n" not in said
    with pytest.raises(ValueError, match="-I"):
        memcache_shm.open("large", memory=memory_bytes, max_item=max_item_bytes)
    assert not list(state_dir.glob("*.json"))


@pytest.mark.parametrize("line", ["-m 1 -I 1m", "-m 64k -I 32k", "-m 2 -I 1025k"])
def test_the_command_line_says_so(state_dir: Path, line: str) -> None:
    ended = verb(*line.split())
    assert ended.returncode == 2
    assert ended.stdout == ""
    assert ended.stderr.startswith("memcache-shm: error: ")
    assert ended.stderr.count("\n") == 1
    assert "-I" in ended.stderr
    assert not list(state_dir.glob("*.json"))


@each_size
def test_what_fits_by_the_rule_is_held_twice(state_dir: object, memory_bytes: int, max_item_bytes: int) -> None:
    """A quarter of the memory: an item can be replaced by another of the largest size and never is missing."""
    with table(memory_bytes, max_item_bytes, evict=False) as cache:
        for number in range(5):
            cache.set("large", bytes([number]) * max_item_bytes)
            assert cache.get("large") == bytes([number]) * max_item_bytes


# Read while they are overwritten


@pytest.fixture
def fleets() -> Iterator[list[Fleet]]:
    """Fleets put in here are ended with the test."""
    started: list[Fleet] = []
    yield started
    for fleet in started:
        fleet.end_all()


def overwriter(_number: int) -> Callable[[], None]:
    """Writes the next byte over and over again, 1 MiB of it."""
    cache = memcache_shm.attach("large")
    turn = 0

    def write() -> None:
        nonlocal turn
        turn += 1
        cache.set("large", bytes([turn % 256]) * MIB)

    return write


def read_one(cache: memcache_shm.Cache) -> int:
    """The byte that the value consists of."""
    value = cache["large"]
    assert len(value) == MIB
    assert value.count(value[:1]) == MIB, "a mixture of an old and a new value"
    return int(value[0])


@pytest.mark.parametrize("pieces", [None, 160 * KIB], ids=["one run", "several runs"])
@pytest.mark.parametrize("readonly", [False, True])
def test_a_reader_never_gets_a_mixture(state_dir: object, fleets: list[Fleet], pieces: int | None, readonly: bool) -> None:
    with table(8 * MIB, 2 * MIB, evict=False) as maker:
        if pieces:
            fragment(maker, pieces)
        maker.set("large", b"\0" * MIB)
        assert has_several_runs(maker, b"large") is bool(pieces)
        fleets.append(Fleet(overwriter, 1))
        with memcache_shm.attach("large", readonly=readonly) as cache:
            seen = {read_one(cache) for _ in range(ROUNDS)}
            while len(seen) < 5:
                seen.add(read_one(cache))
        assert FAILED not in fleets[0].end_all(), "see its traceback"
        maker.attached_table.sweep()  # the writer may have been killed amid a store


def test_readers_in_other_processes_while_this_one_overwrites(state_dir: object, fleets: list[Fleet]) -> None:
    """The other way round; a reader that met a mixture would have ended."""

    def reader(number: int) -> Callable[[], Any]:
        cache = memcache_shm.attach("large", readonly=bool(number % 2))
        return lambda: read_one(cache)

    with table(8 * MIB, 2 * MIB) as cache:
        cache.set("large", b"\0" * MIB)
        fleets.append(Fleet(reader, 2))
        for number in range(ROUNDS):
            cache.set("large", bytes([number % 256]) * MIB)
            cache.set(f"other-{number % 3}", b"o" * MIB)
        until(lambda: stat(cache, "get_hits") > 10, "reads through the writable handle")
        assert FAILED not in fleets[0].end_all(), "see its traceback"
