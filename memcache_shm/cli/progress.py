"""How far a long task is: one line on standard error that changes, where that is a terminal."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import TextIO

from memcache_shm.cli.messages import paint
from memcache_shm.ops.backup_parts import Step

_BAR_WIDTH = 24
_EVERY_S = 0.1  # between two pictures
_SPEED_S = 1.0  # over which speed is measured


class ProgressBar:
    """`tell` draws a step, now and then; the end of the `with` block wipes it. On anything but a terminal nothing appears."""

    def __init__(self, what: str, output: bool = False) -> None:
        """`what` is worked on; `output`: something comes on standard output meanwhile, which a terminal would mix with this."""
        stream: TextIO | None = sys.stderr
        if stream is None or not stream.isatty() or (output and sys.stdout is not None and sys.stdout.isatty()):
            stream = None
        self._what = what
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
        filled = int(step.part * _BAR_WIDTH)
        bar = f"[{'#' * filled}{'.' * (_BAR_WIDTH - filled)}] {step.part:4.0%}"
        text = f"{step.doing} {self._what} {bar}  {step.items:,} items{self._speed()}"
        stream.write("\r" + paint(text, "36", stream) + " " * (self._width - len(text)))
        stream.flush()
        self._width = len(text)

    def _speed(self) -> str:
        (first_s, first), (last_s, last) = self._measured[0], self._measured[-1]
        return f"  {(last - first) / (last_s - first_s) / (1 << 20):.0f} MiB/s" if last_s > first_s and last > first else ""

    def __enter__(self) -> ProgressBar:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._stream is not None and self._width:
            self._stream.write("\r" + " " * self._width + "\r")
            self._stream.flush()
