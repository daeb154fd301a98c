"""Showing lines a screen at a time, and asking for one key in between."""

from __future__ import annotations

import os
import shutil
import termios
import tty
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import TextIO

_ENDING = (b"q", b"Q", b"\x04", b"\x1b", b"")  # Ctrl-D, Escape, the end of the input
_LEAST_LINES = 2
_KEY_MAX_BYTES = 16  # as a terminal sends it


class Pager:
    """A terminal that shows pages. `paint` gives a text its colour (SGR code)."""

    def __init__(self, keyboard: TextIO, screen: TextIO, paint: Callable[[str, str], str]) -> None:
        self._keyboard = keyboard
        self._screen = screen
        self._paint = paint

    def show(self, lines: Iterable[tuple[str, int]], total: int | None) -> tuple[int, bool]:
        """Write `lines`, each with the columns it takes, a page at a time. There are `total` where that is known. They are made as they
        are needed; after q or Ctrl-C none any more. Returns how many were written, and whether that was all."""
        count = taken = 0
        with suppress(KeyboardInterrupt):
            for line, columns in lines:
                size = shutil.get_terminal_size()
                rows = max(1, -(-columns // size.columns))
                if taken and taken + rows >= max(_LEAST_LINES, size.lines):
                    if not self._goes_on(count, total):
                        return count, False
                    taken = 0
                self._screen.write(line + "\n")
                count += 1
                taken += rows
            return count, True
        return count, False

    def _goes_on(self, count: int, total: int | None) -> bool:
        """Tell how far it has come, and wait for a key, which needs no Enter: whether the next page is wanted."""
        told = f"-- {count} shown" if total is None else f"-- {count} of {total}"
        told = f"{told}; space: next page, q: end --"[: shutil.get_terminal_size().columns - 1]
        fd = self._keyboard.fileno()
        before = termios.tcgetattr(fd)
        try:
            tty.setcbreak(fd)
            self._screen.write(self._paint(told, "7"))
            self._screen.flush()
            return os.read(fd, _KEY_MAX_BYTES) not in _ENDING
        finally:
            termios.tcsetattr(fd, termios.TCSADRAIN, before)
            self._screen.write("\r" + " " * len(told) + "\r")  # as any terminal understands it
            self._screen.flush()
