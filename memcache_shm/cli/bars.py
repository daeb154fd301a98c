"""What both pictures of a table are made of: sums for a legend, and bars.

A bar is a shard's arena from its lower end (left) to its upper one, in columns whose height is divided among what fills them.
Very many shards share bars.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

from memcache_shm.storage.geometry import Geometry
from memcache_shm.storage.occupancy import Cell, Occupancy

PARTS = ("index", "live", "dead", "free")  # from the bottom of a column up
NAMES = {"live": "live", "dead": "expired", "index": "index", "free": "free"}  # for people, in a legend's order
_RATIOS = 0.6180339887498949, 0.7548776662466927, 0.5698402909980532  # of the golden and the plastic number


@dataclass(frozen=True)
class Bar:
    """The arenas of shards `first` to `last`, one after the other."""

    first: int
    last: int
    granule_bytes: int
    cells: tuple[Cell, ...]

    @property
    def label(self) -> str:
        """The number of its shard, or of the first and the last."""
        return str(self.first) if self.first == self.last else f"{self.first}-{self.last}"

    @property
    def used(self) -> float:
        """How much of it is not free, 0 to 1."""
        whole = total(self.cells)
        return 1 - whole.free / whole.granules


def bars(maps: Sequence[Occupancy], most: int) -> list[Bar]:
    """A bar for each shard; where these were more than `most`, as few shards as possible share one, always equally many."""
    together = -(-len(maps) // most)
    groups = (maps[start : start + together] for start in range(0, len(maps), together))
    return [
        Bar(group[0].shard, group[-1].shard, group[0].granule_bytes, tuple(cell for map_ in group for cell in map_.cells))
        for group in groups
    ]


def total(cells: Iterable[Cell]) -> Cell:
    """What several stretches hold together."""
    sums = [0] * len(PARTS)
    for cell in cells:
        for part, name in enumerate(PARTS):
            sums[part] += getattr(cell, name)
    return Cell(**dict(zip(PARTS, sums, strict=True)))


@dataclass(frozen=True)
class Sum:
    """How much of all arenas one of PARTS fills."""

    part: str
    granules: int
    size_bytes: int
    share: float  # 0 to 1


def sums(maps: Sequence[Occupancy], geometry: Geometry) -> list[Sum]:
    """What a legend lists. In the element geometry the index has arenas of its own and is none of it."""
    whole = total(cell for map_ in maps for cell in map_.cells)
    parts = [part for part in NAMES if part != "index" or not geometry.elements]
    counts = [(part, getattr(whole, part)) for part in parts]
    return [Sum(part, granules, granules * maps[0].granule_bytes, granules / whole.granules) for part, granules in counts]


def largest_free_bytes(maps: Sequence[Occupancy]) -> int:
    """The largest piece of free space in any arena."""
    return max(map_.largest_free * map_.granule_bytes for map_ in maps)


def columns(cells: Sequence[Cell], count: int) -> list[Cell]:
    """The same stretches in `count` columns; a cell that is wider than a column fills several."""
    starts = [len(cells) * column // count for column in range(count + 1)]
    return [total(cells[start : max(end, start + 1)]) for start, end in pairwise(starts)]


def spread(column: int, line: int) -> float:
    """A number from 0 to 1 for a place in a picture, such that those of neighbours differ and any number of them lie evenly (the R2
    sequence: Roberts, "The unreasonable effectiveness of quasirandom sequences", 2018)."""
    return (column * _RATIOS[1] + line * _RATIOS[2]) % 1


def tops(column: Cell, units: int, number: int) -> list[int]:
    """Where each of PARTS ends in a column of that number which is `units` high; the last ends at `units`.

    Heights are rounded up in some columns and down in others, so that what fills a hundredth of an arena shows in its picture.
    """
    threshold = (number + 1) * _RATIOS[0] % 1
    granules = below = 0
    ends = []
    for name in PARTS:
        granules += getattr(column, name)
        below = int(granules * units / column.granules + threshold)
        ends.append(below)
    return ends
