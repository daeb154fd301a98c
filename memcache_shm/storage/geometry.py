"""Geometry: how many bytes a table has and where each part of its segment lies.

Two ways to ask: by elements (room for N items up to a size, whatever their order) and by memory (as many items as fit).
Both end in one `Plan`, a pure function of the geometry: the creator formats by it and every attach checks the header against it.
"""

from __future__ import annotations

import math
import os
from dataclasses import dataclass, field
from typing import Any

from memcache_shm.storage import layout

KIB = 1024
MIB = 1024 * KIB
GIB = 1024 * MIB

MIN_MEMORY_BYTES = 64 * KIB
MAX_MEMORY_BYTES = 2**46  # half of what a process can address on x86-64
MAX_VALUE_BYTES = GIB
ELEMENTS_A_SHARD = 65_536  # up to this many the number of elements is exact
GRANULE_BYTES = 16  # memory geometry
TYPICAL_GRANULES = 32  # an item of 512 bytes
NODE_GRANULE_BYTES = layout.INDEX_NODE_BYTES  # index arena of the element geometry
MAX_GRANULES = 2**28 - 1  # a slot word has 28 bits for the granule
FOREIGN_CAS_BYTES = 8
FEED_PART = 256  # of the memory that the feed takes unless told otherwise
FEED_LEAST_BYTES = KIB  # a shard: some of the largest events
FEED_ELEMENTS_BYTES = 16 * KIB  # ... of the element geometry, unless told otherwise
FEED_DEFAULT_MOST_BYTES = 64 * MIB
FEED_MOST_BYTES = 16 * GIB
LINE = 64


def align(n: int, to: int = LINE) -> int:
    """``n`` rounded up to a multiple of ``to``."""
    return _ceil(n, to) * to


@dataclass(frozen=True)
class ArenaPlan:
    """One arena of a shard: granule size, number of granules, offsets from the shard's start (bytes)."""

    granule_bytes: int
    granules: int
    bitmap_offset: int
    longest_offset: int
    base_offset: int


@dataclass(frozen=True)
class Plan:
    """Where everything lies; offsets are bytes from the start of the segment unless said otherwise."""

    process_slots: int
    counter_blocks: int
    processes_offset: int
    counters_offset: int
    controls_offset: int
    shards_offset: int
    shard_bytes: int
    directory_entries: int  # chunk directory at the start of each shard, 4 bytes an entry
    soonest_offset: int  # from the shard's start: when the first record of each chunk expires, 4 bytes an entry
    records: ArenaPlan
    index: ArenaPlan | None  # None: the index lives in the record arena
    buckets: int  # at creation
    max_buckets: int
    max_records: int  # a shard, 0 = whatever fits
    feed_offset: int  # from the shard's start
    feed_cells: int  # a shard, of 16 bytes; 0: no feed
    version_unit_log2: int  # versions that a slot word does not tell apart: its 10 bits shall outlast what a full shard holds
    segment_bytes: int


@dataclass(frozen=True)
class Geometry:
    """What the user asked for. Make one with `by_elements` or `by_memory`."""

    elements: int
    element_size: int
    memory_bytes: int
    max_item_bytes: int
    shards: int
    feed_bytes: int  # of all shards' feeds; 0: none
    plan: Plan = field(compare=False, repr=False)

    @classmethod
    def by_elements(cls, num_elements: int, element_size: int, feed_bytes: int | None = None) -> Geometry:
        """Room for ``num_elements`` items with values up to ``element_size`` bytes, and for the feed (None: a small one).
        ValueError when out of range."""
        if not 1 <= num_elements <= 2**31:
            raise ValueError(f"NUM_ELEMENTS must be from 1 to {2**31}, not {num_elements}")
        if not 1 <= element_size <= MAX_VALUE_BYTES:
            raise ValueError(f"ELEMENT_SIZE must be from 1 to {MAX_VALUE_BYTES} bytes, not {element_size}")
        shards = 1
        while num_elements > ELEMENTS_A_SHARD * shards:
            shards *= 2
        if feed_bytes is None:
            part = min(num_elements * (element_size + layout.MAX_KEY_BYTES) // FEED_PART, FEED_DEFAULT_MOST_BYTES)
            feed_bytes = max(part, FEED_ELEMENTS_BYTES * shards)
        geometry = cls._elements(num_elements, element_size, shards, feed_bytes)
        if geometry.segment_bytes > MAX_MEMORY_BYTES:
            raise ValueError(f"{num_elements} elements of {element_size} bytes need more than {MAX_MEMORY_BYTES // GIB} GiB; take fewer")
        return geometry

    @classmethod
    def by_memory(cls, memory_bytes: int, max_item_bytes: int = MIB, feed_bytes: int | None = None) -> Geometry:
        """A segment of ``memory_bytes``, everything included, with values up to ``max_item_bytes``. ValueError as above."""
        if memory_bytes > MAX_MEMORY_BYTES:
            raise ValueError(f"the memory must be at most {MAX_MEMORY_BYTES // GIB} GiB, not {memory_bytes} bytes")
        if memory_bytes < MIN_MEMORY_BYTES:
            raise ValueError(f"the memory must be at least {MIN_MEMORY_BYTES // KIB} KiB, not {memory_bytes} bytes")
        if not 1 <= max_item_bytes <= MAX_VALUE_BYTES:
            raise ValueError(f"the largest item must be from 1 byte to 1 GiB, not {max_item_bytes} bytes")
        if max_item_bytes * 2 >= memory_bytes:
            raise ValueError(
                f"items of {max_item_bytes} bytes need a table of more than {max_item_bytes * 2} bytes; "
                f"raise the memory (-m) above that or lower the largest item (-I)"
            )
        shards = 1
        limit = 8 * (os.cpu_count() or 1)
        while shards < min(limit, 64) and memory_bytes // (2 * shards) >= 4 * max_item_bytes + 64 * KIB:
            shards *= 2
        while memory_bytes // shards > (MAX_GRANULES - 1) * GRANULE_BYTES:
            shards *= 2
        if feed_bytes is None:
            feed_bytes = max(min(memory_bytes // FEED_PART, FEED_DEFAULT_MOST_BYTES), FEED_LEAST_BYTES * shards)
        elif feed_bytes > memory_bytes // 4:
            raise ValueError(f"a feed of {feed_bytes} bytes is more than a quarter of the memory ({memory_bytes} bytes); take less")
        return cls._memory(memory_bytes, max_item_bytes, shards, feed_bytes)

    @classmethod
    def _elements(cls, elements: int, element_size: int, shards: int, feed_bytes: int) -> Geometry:
        plan = _plan_elements(elements, element_size, shards, _feed_cells(feed_bytes, shards))
        return cls(elements, element_size, 0, element_size, shards, feed_bytes, plan)

    @classmethod
    def _memory(cls, memory_bytes: int, max_item_bytes: int, shards: int, feed_bytes: int) -> Geometry:
        plan = _plan_memory(memory_bytes, max_item_bytes, shards, _feed_cells(feed_bytes, shards))
        return cls(0, 0, memory_bytes, max_item_bytes, shards, feed_bytes, plan)

    @property
    def segment_bytes(self) -> int:
        """Size of the whole segment."""
        return self.plan.segment_bytes

    @property
    def max_value_bytes(self) -> int:
        """The largest value a `set` may store."""
        return self.max_item_bytes

    @property
    def max_elements(self) -> int:
        """Most items the table can ever hold in the element geometry, 0 in the memory geometry."""
        return self.plan.max_records * self.shards

    def describe(self) -> str:
        """One phrase for people: the start line and `ls` print it."""
        if not self.elements:
            return f"{_size(self.memory_bytes)} memory, items up to {_size(self.max_item_bytes)}, {_count(self.shards)}"
        slack = self.max_elements - self.elements
        extra = f" (+{slack} slack)" if slack else ""
        return f"{self.elements} elements{extra} of {self.element_size} bytes, {_count(self.shards)}"

    def to_dict(self) -> dict[str, int]:
        """What the state file keeps; `from_dict` takes it back."""
        return {
            "elements": self.elements,
            "element_size": self.element_size,
            "memory_bytes": self.memory_bytes,
            "max_item_bytes": self.max_item_bytes,
            "shards": self.shards,
            "feed_bytes": self.feed_bytes,
        }

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Geometry:
        """Rebuild a geometry from `to_dict` or a header. ValueError when the numbers make no table."""
        try:
            names = ("elements", "element_size", "memory_bytes", "max_item_bytes", "shards", "feed_bytes")
            numbers = {name: int(data[name]) for name in names}
        except (KeyError, TypeError) as error:
            raise ValueError(f"incomplete geometry: {error}") from error
        shards = numbers["shards"]
        if not 1 <= shards <= 2**16 or shards & (shards - 1):
            raise ValueError(f"number of shards {shards} is not a power of two up to 65536")
        if numbers["elements"]:
            cls.by_elements(numbers["elements"], numbers["element_size"], 0)
            return cls._elements(numbers["elements"], numbers["element_size"], shards, numbers["feed_bytes"])
        cls.by_memory(numbers["memory_bytes"], numbers["max_item_bytes"], 0)
        return cls._memory(numbers["memory_bytes"], numbers["max_item_bytes"], shards, numbers["feed_bytes"])


def _ceil(n: int, by: int) -> int:
    return -(-n // by)


def _size(n: int) -> str:
    for unit, name in ((GIB, "GiB"), (MIB, "MiB"), (KIB, "KiB")):
        if n >= unit and n % unit == 0:
            return f"{n // unit} {name}"
    return f"{n} bytes"


def _count(shards: int) -> str:
    return "1 shard" if shards == 1 else f"{shards} shards"


def _longest_bytes(granules: int) -> int:
    """Bytes of the bounds on the longest free run, one a block; whole cache lines, as the search compares them."""
    return align(_ceil(granules, layout.ARENA_BLOCK))


def _feed_cells(feed_bytes: int, shards: int) -> int:
    """Cells of a shard's feed, whole cache lines. ValueError when it could not hold some of the largest events."""
    if feed_bytes and not FEED_LEAST_BYTES * shards <= feed_bytes <= FEED_MOST_BYTES:
        least, most = _size(FEED_LEAST_BYTES * shards), _size(FEED_MOST_BYTES)
        raise ValueError(f"the feed of {_count(shards)} must be from {least} to {most}, or 0 for none; not {feed_bytes} bytes")
    return feed_bytes // shards // LINE * (LINE // layout.FEED_CELL_BYTES)


def _version_unit(items: int) -> int:
    """So many versions (a power of two) to a unit that 1024 units are about four times the items of a full shard."""
    return max(0, (4 * items // 1024).bit_length() - 1)


def _front(shards: int, budget_bytes: int) -> tuple[int, int, int, int, int, int]:
    """Process slots, counter blocks and the offsets of everything in front of the shards."""
    slots = max(64, min(1024, budget_bytes // (64 * KIB)))
    blocks = max(4, min(256, budget_bytes // MIB))
    processes = align(layout.HEADER_BYTES)
    counters = align(processes + slots * layout.PROCESS_SLOT_BYTES)
    controls = align(counters + blocks * layout.COUNTER_BLOCK_BYTES)
    end = align(controls + shards * layout.SHARD_CONTROL_BYTES)
    return slots, blocks, processes, counters, controls, end


def _plan_memory(memory_bytes: int, max_item_bytes: int, shards: int, feed_cells: int) -> Plan:
    """Divide ``memory_bytes`` evenly; within a shard, solve directory + bitmap + granules <= its bytes."""
    slots, blocks, processes, counters, controls, start = _front(shards, memory_bytes)
    shard_bytes = (memory_bytes - start) // shards // LINE * LINE
    feed = shard_bytes - feed_cells * layout.FEED_CELL_BYTES
    granules = (feed - 4 * LINE) * 8 // (GRANULE_BYTES * 8 + 1)
    while True:
        entries = granules // 288 + 2  # items of 2 granules plus their share of the index: one chunk in 288 granules
        bitmap = 2 * align(entries * 4)
        longest = align(bitmap + align(granules, 64) // 8)
        base = longest + _longest_bytes(granules)
        over = base + granules * GRANULE_BYTES - feed
        if over <= 0:
            break
        granules -= _ceil(over, GRANULE_BYTES)
    needed = align(layout.RECORD_BYTES + FOREIGN_CAS_BYTES + layout.MAX_KEY_BYTES + max_item_bytes, GRANULE_BYTES) // GRANULE_BYTES
    if granules // 2 < needed + 128:
        raise ValueError(
            f"a table of {memory_bytes} bytes in {_count(shards)} cannot hold items of {max_item_bytes} bytes; "
            "raise the memory (-m) or lower the largest item (-I)"
        )
    arena = ArenaPlan(GRANULE_BYTES, granules, bitmap, longest, base)
    return Plan(
        slots, blocks, processes, counters, controls, start, shard_bytes, entries, align(entries * 4), arena, None,
        layout.INDEX_CHUNK_BUCKETS, entries * layout.INDEX_CHUNK_BUCKETS, 0, feed, feed_cells,
        _version_unit(granules // TYPICAL_GRANULES), memory_bytes,
    )  # fmt: skip


def _plan_elements(elements: int, element_size: int, shards: int, feed_cells: int) -> Plan:
    """Cells for the elements of a shard and one spare; the index has an arena of its own, full-grown from the start."""
    mean = _ceil(elements, shards)
    cells = mean if shards == 1 else mean + math.ceil(6 * math.sqrt(mean))
    cell = align(layout.RECORD_BYTES + FOREIGN_CAS_BYTES + layout.MAX_KEY_BYTES + element_size, 8)
    chunks = _ceil(cells, 4 * layout.INDEX_CHUNK_BUCKETS)
    buckets = chunks * layout.INDEX_CHUNK_BUCKETS
    nodes = cells // 8 + 16
    granules = chunks * layout.INDEX_CHUNK_BYTES // NODE_GRANULE_BYTES + nodes
    bitmap = 2 * align(chunks * 4)
    longest = align(bitmap + align(cells + 1, 64) // 8)
    index_bitmap = longest + _longest_bytes(cells + 1)
    index_longest = align(index_bitmap + align(granules, 64) // 8)
    index_base = index_longest + _longest_bytes(granules)
    base = align(index_base + granules * NODE_GRANULE_BYTES)
    feed = align(base + (cells + 1) * cell)
    shard_bytes = feed + feed_cells * layout.FEED_CELL_BYTES
    slots, blocks, processes, counters, controls, start = _front(shards, shard_bytes * shards)
    return Plan(
        slots, blocks, processes, counters, controls, start, shard_bytes, chunks, align(chunks * 4),
        ArenaPlan(cell, cells + 1, bitmap, longest, base),
        ArenaPlan(NODE_GRANULE_BYTES, granules, index_bitmap, index_longest, index_base),
        buckets, buckets, cells, feed, feed_cells, _version_unit(cells), start + shards * shard_bytes,
    )  # fmt: skip
