"""What fills an arena, against an account of every granule that is derived from the segment's bytes without the package's code."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from itertools import pairwise
from typing import Any

import pytest
from model.hammering import Fleet, Hammer
from support.segments import NO_GRANULE, Entry, Segment, constants, field, size_of

import memcache_shm
from memcache_shm.storage.check import check_table
from memcache_shm.storage.geometry import Geometry
from memcache_shm.storage.occupancy import Cell, Occupancy, occupancy
from memcache_shm.storage.table import Table

NS = 1_000_000_000
FOREIGN_CAS_BYTES = 8
MAPS_UNDER_LOAD = 30
TABLES: dict[str, dict[str, Any]] = {
    "memory": {"memory": "64k", "max_item": "16k", "evict": False},
    "shards": {"memory": "512k", "max_item": "1k"},
    "elements": {"elements": 200, "element_size": 400},
}


@contextmanager
def opened(name: str) -> Iterator[tuple[memcache_shm.Cache, Segment]]:
    cache = memcache_shm.open("mapped", **TABLES[name])
    try:
        with Segment(cache.attached_table) as segment:
            yield cache, segment
    finally:
        cache.close()
        memcache_shm.unlink("mapped")


def fill(cache: memcache_shm.Cache) -> None:
    """Items small and large, some that expire soon, late or never, and gaps between them; a value that no gap can take."""
    largest = cache.attached_table.max_value
    for number in range(55):
        cache.set(f"large{number}", b"v" * min(largest, 900), expire=(0, 10, 1000)[number % 3])
    for number in range(100):
        cache.set(f"k{number}", b"v" * (number % 30), expire=(0, 10, 1000)[number % 3])
    for number in range(0, 55, 2):
        cache.delete(f"large{number}")
    if largest > 10_000:
        cache.set("huge", random.Random(1).randbytes(12_000), expire=10)


def pass_time(segment: Segment, seconds: int) -> None:
    """Put the table's clock forward."""
    shift = segment.header("clock_shift_ns")
    segment.put(shift, segment.get(shift) + seconds * NS)


def sums(shards: list[Occupancy]) -> Cell:
    """Of all shards together."""
    cells = [cell for shard in shards for cell in shard.cells]
    return Cell(*(sum(getattr(cell, part) for cell in cells) for part in ("live", "dead", "index", "free")))


# The other account


def runs(segment: Segment, entry: Entry) -> Iterator[tuple[int, int]]:
    """(first granule, granules) of each run of an item's record."""
    if not segment.has_several_runs(entry):
        size = size_of("Record") + len(segment.key(entry)) + segment.get(segment.record(entry, "length"))
        if segment.get(segment.record(entry, "state")) & constants()["STATE_FOREIGN_CAS"]:
            size += FOREIGN_CAS_BYTES
        yield entry.granule, -(-size // segment.plan.records.granule_bytes)
        return
    granule, link = entry.granule, segment.record_granule(entry.shard, entry.granule) + size_of("Record")
    while granule != NO_GRANULE:
        yield granule, segment.get(field("RunLink", "granules").at(link))
        granule = segment.get(field("RunLink", "next").at(link))
        link = segment.record_granule(entry.shard, granule)


def account(segment: Segment, is_dead: Callable[[bytes], bool]) -> list[list[str]]:
    """The part that each granule of each shard belongs to; `is_dead` tells it of a key."""
    granules = segment.plan.records.granules
    parts = [["free"] * granules for _ in range(segment.shards)]
    for shard, of_shard in enumerate(parts):
        if segment.plan.index is None:
            for granule in range(segment.get(segment.control(shard, "zone")), granules):
                if segment.get(segment.bitmap_byte(shard, segment.plan.records, granule)) >> granule % 8 & 1:
                    of_shard[granule] = "index"
    for entry in segment.entries():
        part = "dead" if is_dead(segment.key(entry)) else "live"
        for start, length in runs(segment, entry):
            assert set(parts[entry.shard][start : start + length]) == {"free"}
            parts[entry.shard][start : start + length] = [part] * length
    return parts


def cells(parts: list[str], count: int) -> list[Cell]:
    """The same account, divided into `count` stretches."""
    borders = [len(parts) * number // count for number in range(count + 1)]
    stretches = [parts[start:end] for start, end in pairwise(borders)]
    return [Cell(*(stretch.count(part) for part in ("live", "dead", "index", "free"))) for stretch in stretches]


def free_pieces(parts: list[str], end: int) -> list[int]:
    """The lengths of the free runs below granule `end`."""
    text = "".join("." if part == "free" else "x" for part in parts[:end])
    return [len(run) for run in text.split("x") if run]


def expires_soon(key: bytes) -> bool:
    """As `fill` does it."""
    return key == b"huge" or int(key.decode().lstrip("largek")) % 3 == 1


# The tests


@pytest.mark.parametrize("count", [1, 2, 7, 64, 1000, 10**9])
@pytest.mark.parametrize("name", TABLES)
def test_every_granule_is_accounted_for(state_dir: object, name: str, count: int) -> None:
    with opened(name) as (cache, segment):
        fill(cache)
        pass_time(segment, 100)
        granules = segment.plan.records.granules
        for shard, parts in zip(occupancy(cache.attached_table, count), account(segment, expires_soon), strict=True):
            assert list(shard.cells) == cells(parts, min(count, granules))
            assert {cell.granules for cell in shard.cells} <= {granules // len(shard.cells), -(-granules // len(shard.cells))}
            assert shard.granule_bytes == segment.plan.records.granule_bytes
            border = granules if segment.plan.index else segment.get(segment.control(shard.shard, "zone"))
            pieces = free_pieces(parts, border)
            assert (shard.free_runs, shard.largest_free) == (len(pieces), max(pieces))


def test_what_is_to_be_accounted_for_is_there(state_dir: object) -> None:
    """Else the cases above would show nothing."""
    nodes = 0
    for name in TABLES:
        with opened(name) as (cache, segment):
            fill(cache)
            pass_time(segment, 100)
            whole = sums(occupancy(cache.attached_table, 10))
            assert min(whole.live, whole.dead, whole.free) > 0
            assert (whole.index > 0) == (name != "elements")
            assert (segment.shards > 1) == (name == "shards")
            assert any(map(segment.has_several_runs, segment.entries())) == (name == "memory")
            nodes += sum(1 for _ in segment.links())
    assert nodes > 0


@pytest.mark.parametrize("name", TABLES)
def test_an_empty_table(state_dir: object, name: str) -> None:
    with opened(name) as (cache, segment):
        whole = sums(occupancy(cache.attached_table, 10))
        assert (whole.live, whole.dead) == (0, 0)
        assert whole.granules == segment.shards * segment.plan.records.granules
        fill(cache)
        for entry in list(segment.entries()):
            cache.delete(segment.key(entry))
        emptied = sums(occupancy(cache.attached_table, 10))
        assert (emptied.live, emptied.dead, emptied.granules) == (0, 0, whole.granules)


@pytest.mark.parametrize("name", TABLES)
def test_expired_items_are_dead_until_their_place_is_taken(state_dir: object, name: str) -> None:
    with opened(name) as (cache, segment):
        for number in range(50):
            cache.set(f"k{number}", b"v" * 100, expire=10)
        before = sums(occupancy(cache.attached_table, 10))
        assert before.dead == 0
        assert before.live > 0
        pass_time(segment, 9)
        assert sums(occupancy(cache.attached_table, 10)) == before
        pass_time(segment, 1)
        assert sums(occupancy(cache.attached_table, 10)) == Cell(0, before.live, before.index, before.free)
        cache.set("k1", b"v" * 100)
        after = sums(occupancy(cache.attached_table, 10))
        assert after.live > 0
        assert after.live + after.dead <= before.live


@pytest.mark.parametrize("name", TABLES)
def test_flushed_items_are_dead(state_dir: object, name: str) -> None:
    with opened(name) as (cache, segment):
        fill(cache)
        before = sums(occupancy(cache.attached_table, 10))
        cache.flush_all(delay=20)
        assert sums(occupancy(cache.attached_table, 10)) == before
        pass_time(segment, 21)
        flushed = Cell(0, before.live, before.index, before.free)
        assert sums(occupancy(cache.attached_table, 10)) == flushed, "no writer has come to note it yet"
        for number in range(20):  # in every shard
            cache.delete(f"missing{number}")
        assert sums(occupancy(cache.attached_table, 10)) == flushed
        cache.set("new", b"v")
        assert sums(occupancy(cache.attached_table, 10)).live == -(-(size_of("Record") + 4) // segment.plan.records.granule_bytes)


def test_elements_are_counted_one_by_one(state_dir: object) -> None:
    with opened("elements") as (cache, segment):
        for number in range(30):
            cache.set(f"k{number}", b"v" * number, expire=10 * (number % 2))
        pass_time(segment, 20)
        cache.delete("k0")
        assert sums(occupancy(cache.attached_table, 7)) == Cell(14, 15, 0, 201 - 29)


def test_as_much_is_taken_as_a_check_counts(state_dir: object) -> None:
    with opened("shards") as (cache, _):
        fill(cache)
        whole = sums(occupancy(cache.attached_table, 3))
        assert whole.live + whole.dead + whole.index == check_table(cache.attached_table).granules


@pytest.mark.parametrize("name", TABLES)
def test_the_right_to_read_is_enough(state_dir: object, name: str) -> None:
    with opened(name) as (cache, segment):
        fill(cache)
        pass_time(segment, 100)
        with memcache_shm.attach("mapped", readonly=True) as reader:
            before = bytes(segment.memory.read())
            assert occupancy(reader.attached_table, 20) == occupancy(cache.attached_table, 20)
            assert bytes(segment.memory.read()) == before


@pytest.mark.parametrize("name", TABLES)
def test_it_adds_up_while_others_write(state_dir: object, name: str) -> None:
    with opened(name) as (cache, segment):
        largest = cache.attached_table.max_value

        def start(number: int) -> Callable[[], None]:
            hammer = Hammer("mapped", largest, number)

            def work() -> None:
                with suppress(memcache_shm.NoSpaceError):
                    hammer.strike()

            return work

        fleet = Fleet(start, 2)
        try:
            for _ in range(MAPS_UNDER_LOAD):
                for shard in occupancy(cache.attached_table, 100):
                    assert sum(cell.granules for cell in shard.cells) == segment.plan.records.granules
                    assert all(min(cell.live, cell.dead, cell.index, cell.free) >= 0 for cell in shard.cells)
        finally:
            fleet.end_all()


def test_a_locked_shard_is_shown(state_dir: object) -> None:
    with opened("memory") as (cache, segment):
        fill(cache)
        before = occupancy(cache.attached_table, 10)
        segment.put(segment.control(0, "lock"), 1)
        assert occupancy(cache.attached_table, 10) == before
        segment.put(segment.control(0, "lock"), 0)


def test_wrong_use(make_table: Callable[..., Table]) -> None:
    table = make_table(Geometry.by_elements(10, 10))
    for count in (0, -1):
        with pytest.raises(ValueError, match="at least one cell"):
            occupancy(table, count)
    table.destroy()
    table.close()
    with pytest.raises(ValueError, match="closed"):
        occupancy(table, 1)
