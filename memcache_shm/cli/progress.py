"""How far a long task is: one line on standard error that changes, where that is a terminal."""

from __future__ import annotations

import os
import sys
import time
from types import TracebackType
from typing import TextIO

from memcache_shm.cli.messages import paint
from memcache_shm.ops.backup_parts import Step
from memcache_shm.ops.quoting import harmless, width

_BAR_WIDTH = 24  # at most; where the line is too long for the terminal the bar is shorter, or not there
_BAR_LEAST = 4
_COLUMNS = 80  # of a terminal that does not tell
_EVERY_S = 0.1  # between two pictures
_SPEED_S = 1.0  # over which speed is measured


class ProgressBar:
    """`tell` draws a step, now and then; the end of the `with` block wipes it. On anything but a terminal nothing appears."""

    def __init__(self, what: str, output: bool = False) -> None:
        """`what` is worked on; `output`: something comes on standard output meanwhile, which a terminal would mix with this."""
        stream: TextIO | None = sys.stderr
        if stream is None or not stream.isatty() or (output and sys.stdout is not None and sys.stdout.isatty()):
            stream = None
        self._what = harmless(what, getattr(stream, "encoding", None) or "utf-8")
        self._stream = stream
        self._width = 0  # of what is drawn
        self._doing = ""
        self._due_s = 0.0
        self._measured: list[tuple[float, int]] = []  # times and bytes, over the last second or so

    def tell(self, step: Step) -> None:
        """Draw it if it is time to."""
        now_s = time.monotonic()
        if self._stream is None or (step.doing == self._doing and now_s < self._due_s):
            return
        if step.doing != self._doing:
            self._measured.clear()
        self._doing, self._due_s = step.doing, now_s + _EVERY_S
        self._measured = [(at_s, size) for at_s, size in self._measured if now_s - at_s < _SPEED_S] + [(now_s, step.size_bytes)]
        self._draw(self._stream, step)

    def _draw(self, stream: TextIO, step: Step) -> None:
        figures = f"{step.part:4.0%}  {step.items:,} items{self._speed()}"
        columns = _columns(stream) - 1  # a terminal goes on to the next line after the last one
        room = columns - width(f"{step.doing} {self._what} [] {figures}")
        text = f"{step.doing} {self._what} {_bar(step.part, min(room, _BAR_WIDTH))}{figures}"
        if width(text) > columns:
            text = figures.strip()[:columns]
        stream.write("\r" + paint(text, "36", stream) + " " * (self._width - width(text)))
        stream.flush()
        self._width = width(text)

    def _speed(self) -> str:
        (first_s, first), (last_s, last) = self._measured[0], self._measured[-1]
        return f"  {(last - first) / (last_s - first_s) / (1 << 20):.0f} MiB/s" if last_s > first_s and last > first else ""

    def __enter__(self) -> ProgressBar:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._stream is not None and self._width:
            self._stream.write("\r" + " " * self._width + "\r")
            self._stream.flush()


class StatusLine:
    """`say` shows what is being done; the end of the `with` block wipes it. On anything but a terminal nothing appears."""

    def __init__(self) -> None:
        self._stream = sys.stderr if sys.stderr is not None and sys.stderr.isatty() else None
        self._width = 0

    def say(self, what: str) -> None:
        """Printable text."""
        if self._stream is not None:
            what = what[: _columns(self._stream) - 1]
            self._stream.write("\r" + paint(what, "36", self._stream) + " " * (self._width - width(what)))
            self._stream.flush()
            self._width = width(what)

    def __enter__(self) -> StatusLine:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._width:
            self.say("")
            sys.stderr.write("\r")


def _bar(part: float, room: int) -> str:
    filled = int(part * room)
    return f"[{'#' * filled}{'.' * (room - filled)}] " if room >= _BAR_LEAST else ""


def _columns(stream: TextIO) -> int:
    try:
        return os.get_terminal_size(stream.fileno()).columns or _COLUMNS
    except (OSError, ValueError):
        return _COLUMNS
