"""What the doors cost as a picture: for each measure a bar for each door."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, NamedTuple

from memcache_shm.cli.png import BLACK, GREY, WHITE, text
from memcache_shm.ops.door_bench import NAMES, Figures

if TYPE_CHECKING:
    from PIL.Image import Image
    from PIL.ImageDraw import ImageDraw

# Told apart by people who see fewer colours, too (Okabe and Ito, "Color Universal Design", 2008)
COLOURS = {"attached": (0, 158, 115), "channel": (0, 114, 178), "unix": (230, 159, 0), "tcp": (204, 121, 167)}
WIDTH = 1000  # pixels
_MARGIN = 16
_HEAD, _FOOT = 60, 34
_LEFT, _RIGHT = 120, 130  # beside the bars
_TITLE, _BAR, _GAP = 36, 20, 5  # heights


class Panel(NamedTuple):
    """One measure."""

    title: str
    figure: Callable[[Figures], float]
    form: str  # of a figure, beside its bar


PANELS = (
    Panel("get, bare exchange: microseconds at the median", lambda f: f.get_us, "{:,.2f}"),
    Panel("set, bare exchange: microseconds at the median", lambda f: f.set_us, "{:,.2f}"),
    Panel("get by the client object in Python: microseconds at the median", lambda f: f.client_get_us, "{:,.2f}"),
    Panel("pipelined gets a second (longer is better)", lambda f: f.pipelined_a_s, "{:,.0f}"),
    Panel("CPU time of the server for a pipelined get: microseconds (attached: of the caller)", lambda f: f.cpu_pipelined_us, "{:,.2f}"),
)


def draw(headline: str, found: Mapping[str, Figures]) -> Image:
    """The measures one below the other, each with a scale of its own."""
    from PIL import Image, ImageDraw

    height = _TITLE + len(found) * (_BAR + _GAP)
    image = Image.new("RGB", (WIDTH, _HEAD + len(PANELS) * height + _FOOT), WHITE)
    pen = ImageDraw.Draw(image)
    text(pen, _MARGIN, 28, f"Doors of a table: {headline}", 19)
    for number, panel in enumerate(PANELS):
        _draw_panel(pen, panel, found, _HEAD + number * height)
    text(pen, WIDTH - _MARGIN, image.height - 18, time.strftime("%Y-%m-%d %H:%M:%S"), 12, GREY, "rm")
    return image


def _draw_panel(pen: ImageDraw, panel: Panel, found: Mapping[str, Figures], top: int) -> None:
    text(pen, _MARGIN, top + _TITLE // 2, panel.title, 14)
    largest = max(map(panel.figure, found.values())) or 1.0
    for number, (door, figures) in enumerate(found.items()):
        y = top + _TITLE + number * (_BAR + _GAP)
        figure = panel.figure(figures)
        length = max(1, round((WIDTH - _LEFT - _RIGHT) * figure / largest))
        text(pen, _LEFT - 8, y + _BAR // 2, NAMES[door], 13, BLACK, "rm")
        pen.rectangle((_LEFT, y, _LEFT + length - 1, y + _BAR - 1), COLOURS[door])
        text(pen, _LEFT + length + 8, y + _BAR // 2, panel.form.format(figure), 13, GREY)
