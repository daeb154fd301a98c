"""The picture of a table's arenas as a PNG file, drawn by Pillow (the extra "png")."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

from memcache_shm.cli.bars import NAMES, PARTS, Bar, bars, columns, largest_free_bytes, sums, tops
from memcache_shm.cli.png import BLACK, GREY, WHITE, text, write
from memcache_shm.storage.geometry import Geometry
from memcache_shm.storage.occupancy import Occupancy
from memcache_shm.storage.units import format_size

if TYPE_CHECKING:
    from PIL.Image import Image
    from PIL.ImageDraw import ImageDraw

COLUMNS = 860  # pixels of a bar
MOST_BARS = 64
# Told apart by people who see fewer colours, too (Okabe and Ito, "Color Universal Design", 2008)
COLOURS = {"live": (0, 158, 115), "dead": (230, 159, 0), "index": (0, 114, 178), "free": (226, 229, 233)}
_BARS_HEIGHT = 640  # pixels of all bars, as far as _LEAST and _MOST allow
_LEAST, _MOST = 13, 150
_GAP = 3
_MARGIN = 16
_LEFT, _RIGHT = 84, 56  # beside the bars
_HEAD, _FOOT = 102, 36  # above and below
_SWATCH = 14


def save(name: str, geometry: Geometry, maps: Sequence[Occupancy], path: str) -> None:
    """Draw the map and put it into the file `path`, whole or not at all. MemcacheError when that cannot be written."""
    write(draw(name, geometry, maps), path)


def draw(name: str, geometry: Geometry, maps: Sequence[Occupancy]) -> Image:
    """The map as an image of 1000 pixels' width."""
    from PIL import Image, ImageDraw

    drawn = bars(maps, MOST_BARS)
    height = max(_LEAST, min(_MOST, _BARS_HEIGHT // len(drawn) - _GAP))
    width, bottom = _LEFT + COLUMNS + _RIGHT, _HEAD + len(drawn) * (height + _GAP)
    image = Image.new("RGB", (width, bottom + _FOOT), WHITE)
    pen = ImageDraw.Draw(image)
    text(pen, _MARGIN, 28, f"{name}: {geometry.describe()}", 19)
    _legend(pen, maps, geometry)
    text(pen, _LEFT - 8, _HEAD - 12, "shard", 12, GREY, "rm")
    text(pen, _LEFT + COLUMNS + 8, _HEAD - 12, "used", 12, GREY)
    for number, bar in enumerate(drawn):
        _bar(pen, bar, _HEAD + number * (height + _GAP), height)
    text(pen, _LEFT, bottom + 14, "lower end" if drawn[0].first == drawn[0].last else "arenas one after the other", 12, GREY)
    text(pen, _LEFT + COLUMNS // 2, bottom + 14, time.strftime("%Y-%m-%d %H:%M:%S"), 12, GREY, "mm")
    text(pen, _LEFT + COLUMNS, bottom + 14, "upper end of a shard's arena", 12, GREY, "rm")
    return image


def _legend(pen: ImageDraw, maps: Sequence[Occupancy], geometry: Geometry) -> None:
    x, y = _MARGIN, 60
    for sum_ in sums(maps, geometry):
        label = f"{NAMES[sum_.part]}  {format_size(sum_.size_bytes)}  {sum_.share:.1%}"
        if sum_.part == "free" and not geometry.elements:
            label += f"  (largest piece {format_size(largest_free_bytes(maps))})"
        pen.rectangle((x, y - _SWATCH // 2, x + _SWATCH - 1, y + _SWATCH // 2 - 1), COLOURS[sum_.part])
        x += _SWATCH + 8 + text(pen, x + _SWATCH + 8, y, label, 14) + 28


def _bar(pen: ImageDraw, bar: Bar, top: int, height: int) -> None:
    """One band: its shard's number, a line of a pixel's width for each column, how much of it is taken."""
    middle, size = top + height // 2, 13 if height > _LEAST else 12
    text(pen, _LEFT - 8, middle, bar.label, size, BLACK, "rm")
    for number, column in enumerate(columns(bar.cells, COLUMNS)):
        x, start = _LEFT + number, 0
        for part, end in zip(PARTS, tops(column, height, number), strict=True):
            if end > start:
                pen.line((x, top + height - end, x, top + height - start - 1), COLOURS[part])
            start = end
    text(pen, _LEFT + COLUMNS + 8, middle, f"{bar.used:.0%}", size, GREY)
