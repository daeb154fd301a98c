"""Showing lines a screen at a time, and asking for one key in between."""

from __future__ import annotations

import os
import shutil
import termios
import tty
from collections.abc import Callable, Iterable
from typing import TextIO

_ENDING = (b"q", b"Q", b"\x04", b"\x1b", b"")  # Ctrl-D, Escape, the end of the input
_LEAST_LINES = 2


class Pager:
    """A terminal that shows pages. `paint` gives a text its colour (SGR code)."""

    def __init__(self, keyboard: TextIO, screen: TextIO, paint: Callable[[str, str], str]) -> None:
        self._keyboard = keyboard
        self._screen = screen
        self._paint = paint

    def show(self, lines: Iterable[tuple[str, int]], total: int | None) -> int:
        """Write `lines`, each with the columns it takes, a page at a time; how many were written. There are `total` where that is known.
        They are made as they are needed; after q none any more."""
        count = taken = 0
        for line, columns in lines:
            size = shutil.get_terminal_size()
            rows = max(1, -(-columns // size.columns))
            if taken and taken + rows >= max(_LEAST_LINES, size.lines):
                if not self._goes_on(count, total):
                    break
                taken = 0
            self._screen.write(line + "\n")
            count += 1
            taken += rows
        return count

    def _goes_on(self, count: int, total: int | None) -> bool:
        """Tell how far it has come, and wait for a key: whether the next page is wanted."""
        told = f"-- {count} shown" if total is None else f"-- {count} of {total}"
        self._screen.write(self._paint(f"{told}; space: next page, q: end --", "7"))
        self._screen.flush()
        try:
            return self._key() not in _ENDING
        except KeyboardInterrupt:
            return False
        finally:
            self._screen.write("\r\x1b[K")
            self._screen.flush()

    def _key(self) -> bytes:
        """The next key, which needs no Enter."""
        fd = self._keyboard.fileno()
        before = termios.tcgetattr(fd)
        try:
            tty.setcbreak(fd)
            return os.read(fd, 16)  # all bytes of a key
        finally:
            termios.tcsetattr(fd, termios.TCSADRAIN, before)
