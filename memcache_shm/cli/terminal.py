"""The picture of a table's arenas that a terminal, a pipe or a log can show.

In colour a character shows the two larger parts of its place, to an eighth of its height. Without colour its height shows how much is
taken, and its kind what by: live and dead records and index take turns by their shares.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import TextIO

from memcache_shm.cli.bars import NAMES, PARTS, Bar, Sum, bars, columns, largest_free_bytes, spread, sums, tops
from memcache_shm.cli.messages import paint, plural, shows_colour
from memcache_shm.storage.geometry import Geometry
from memcache_shm.storage.occupancy import Occupancy
from memcache_shm.storage.units import format_size

MOST_LINES = 32  # of bars
MOST_COLUMNS = 180
_PLAIN_WIDTH = 80
_LEAST_COLUMNS = 16
_TALLEST = 6  # lines a bar
_BESIDE = 5  # characters of the last column, " 100%"
_UNITS = 8  # a character
_INK = dict(zip(PARTS, ("34", "32", "33", "90"), strict=True))  # SGR codes
_PAPER = dict(zip(PARTS, ("44", "42", "43", "100"), strict=True))


@dataclass(frozen=True)
class Style:
    """What an output can show, and how many characters there are for a line."""

    width: int
    colour: bool  # together with blocks: two parts a character
    shapes: dict[str, str]  # of each part: a character for each height in units from 1 to _UNITS

    @classmethod
    def of(cls, stream: TextIO) -> Style:
        """As wide as the terminal, or 80 characters where there is none."""
        width = shutil.get_terminal_size((_PLAIN_WIDTH, 24)).columns if stream.isatty() else _PLAIN_WIDTH
        blocks = cls(width, shows_colour(stream), {"live": "▁▂▃▄▅▆▇█", "dead": "xxxxXXXX", "index": "≡" * _UNITS, "free": "·" * _UNITS})
        try:
            "".join(blocks.shapes.values()).encode(stream.encoding or "ascii")
        except (UnicodeEncodeError, LookupError):
            return cls(width, False, {"live": "..::++##", "dead": "xxxxXXXX", "index": "=" * _UNITS, "free": "-" * _UNITS})
        return blocks

    def columns(self, label_width: int) -> int:
        """How many characters are left for a bar."""
        return max(_LEAST_COLUMNS, min(self.width - label_width - 2 - _BESIDE, MOST_COLUMNS))

    def sample(self, part: str) -> str:
        """How the legend shows it."""
        return self.shapes["live" if self.colour else part][-1]


def picture(name: str, geometry: Geometry, maps: Sequence[Occupancy], stream: TextIO) -> Iterator[str]:
    """The lines to print to `stream`: a headline, a legend with the sums, and the bars."""
    style = Style.of(stream)
    drawn = bars(maps, MOST_LINES)
    label_width = max(len("shard"), *(len(bar.label) for bar in drawn))
    count = style.columns(label_width)
    lines_a_bar = max(1, min(_TALLEST, MOST_LINES // len(drawn) - 1))
    yield paint(f"{name}: {geometry.describe()}", "1", stream)
    yield from _legend(maps, geometry, style, stream)
    yield ""
    yield paint(f"{'shard':<{label_width}} {_caption(drawn[0], count):<{count}} {'used':>{_BESIDE}}", "2", stream)
    for number, bar in enumerate(drawn):
        if number and lines_a_bar > 1:
            yield ""
        yield from _bar(bar, label_width, count, lines_a_bar, style, stream)


def _legend(maps: Sequence[Occupancy], geometry: Geometry, style: Style, stream: TextIO) -> Iterator[str]:
    """A line for each part: how it is shown, how much there is of it, what to know of it."""
    for sum_ in sums(maps, geometry):
        sample = paint(style.sample(sum_.part), _INK[sum_.part], stream)
        remark = _of_elements(sum_) if geometry.elements else _of_memory(sum_, maps)
        yield f"{sample} {NAMES[sum_.part]:<8}{format_size(sum_.size_bytes):>11}{sum_.share:>7.1%}  {remark}".rstrip()


def _of_elements(sum_: Sum) -> str:
    if sum_.part == "free":
        return f"{plural(sum_.granules, 'place')}, one a shard for replacing"
    return plural(sum_.granules, "element")


def _of_memory(sum_: Sum, maps: Sequence[Occupancy]) -> str:
    if sum_.part == "dead":
        return "or flushed; makes room when that is needed"
    pieces = sum(map_.free_runs for map_ in maps)
    if sum_.part == "free" and pieces:
        return f"in {plural(pieces, 'piece')}, the largest {format_size(largest_free_bytes(maps))}"
    return ""


def _caption(bar: Bar, count: int) -> str:
    """What a line shows and, where a column is no part of a granule, how much that one is."""
    shards = bar.last - bar.first + 1
    granules = sum(cell.granules for cell in bar.cells) // count
    what = "its arena" if shards == 1 else f"{shards} arenas, each"
    scale = f"; a column is {format_size(granules * bar.granule_bytes)}" if granules else ""
    return f"{what} from lower to upper end{scale}"[:count]


def _bar(bar: Bar, label_width: int, count: int, lines: int, style: Style, stream: TextIO) -> Iterator[str]:
    """The lines of one bar, the upper one first and with its label and how much of it is taken."""
    ends = [tops(column, lines * _UNITS, number) for number, column in enumerate(columns(bar.cells, count))]
    show = _in_colour if style.colour else _plain
    for line in reversed(range(lines)):
        shown = [show(_shares(column, line * _UNITS), spread(number, line), style) for number, column in enumerate(ends)]
        painted = "".join(paint("".join(text for text, _ in run), code, stream) for code, run in groupby(shown, key=lambda pair: pair[1]))
        label, beside = (bar.label, f"{bar.used:>{_BESIDE}.0%}") if line == lines - 1 else ("", "")
        yield f"{label:>{label_width}} {painted} {beside}".rstrip()


def _shares(ends: Sequence[int], bottom: int) -> dict[str, int]:
    """Of the _UNITS from `bottom` up in a column whose parts end at `ends`: how many are whose."""
    heights = [min(max(end - bottom, 0), _UNITS) for end in ends]
    return {part: end - start for part, start, end in zip(PARTS, [0, *heights], heights, strict=False)}


def _in_colour(shares: dict[str, int], _: float, style: Style) -> tuple[str, str]:
    """A character and its SGR code: the two parts that have most of it, the lower in its colour and the upper behind it."""
    lower, upper = sorted(sorted(PARTS, key=shares.__getitem__)[-2:], key=PARTS.index)
    if shares[lower] == 0 or shares[upper] == 0:
        return style.shapes["live"][-1], _INK[upper if shares[lower] == 0 else lower]
    height = round(_UNITS * shares[lower] / (shares[lower] + shares[upper]))
    return style.shapes["live"][min(max(height, 1), _UNITS - 1) - 1], f"{_INK[lower]};{_PAPER[upper]}"


def _plain(shares: dict[str, int], turn: float, style: Style) -> tuple[str, str]:
    """A character and its SGR code (for a terminal without block characters): how much is taken, by the part whose turn it is."""
    used = _UNITS - shares["free"]
    left = turn * used
    part = "free"
    for part in ("dead", "index", "live") if used else ():
        left -= shares[part]
        if left < 0:
            break
    return style.shapes[part][used - 1], _INK[part]
