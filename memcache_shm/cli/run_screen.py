"""What a run shows: on a terminal a line that tells how far the jobs are, and what any thread says or prints meanwhile."""

from __future__ import annotations

import contextlib
import logging
import threading
from typing import TextIO

from memcache_shm.cli.messages import PROGRAM, plural
from memcache_shm.cli.unbuffered import write_text
from memcache_shm.ops.quoting import harmless

_BAR_WIDTH = 30


class Screen:
    """Standard output and standard error of a run, None where they are closed. Any thread may use it. What standard error does not take
    matters to nobody: the exit status tells all the same."""

    def __init__(self, output: TextIO | None, errors: TextIO | None) -> None:
        self._output = output
        self._errors = errors
        self._shows = errors is not None and errors.isatty()
        self._mixes = self._shows and output is not None and output.isatty()  # what is printed stands where the bar is
        self._bar = ""  # on the terminal now
        self._lock = threading.Lock()

    def say(self, line: str) -> None:
        """A line on standard error; names of files in it may be of any bytes."""
        with self._lock:
            encoding = self._errors.encoding if self._errors is not None else "utf-8"
            self._tell(f"{self._wiped()}{harmless(line, encoding)}\n{self._bar}")

    def note(self, message: str) -> None:
        """A line that the program speaks for itself."""
        self.say(f"{PROGRAM}: {message}")

    def print(self, text: str) -> None:
        """Whole lines on standard output, together. OSError; a closed one is none."""
        if self._output is None:
            return
        with self._lock:
            if not self._mixes:
                write_text(self._output, text)
                return
            self._tell(self._wiped())
            try:
                write_text(self._output, text)
            finally:
                self._tell(self._bar)

    def show(self, over: int, jobs: int, backups: int) -> None:
        """Draw the bar: so many jobs are over, so many backups are being written."""
        if not self._shows or not jobs:
            return
        filled = over * _BAR_WIDTH // jobs
        bar = f"[{'#' * filled}{'.' * (_BAR_WIDTH - filled)}] {over}/{jobs} jobs" + (f", {plural(backups, 'backup')}" if backups else "")
        with self._lock:
            if bar != self._bar:
                self._tell(f"{self._wiped()}{bar}")
                self._bar = bar

    def end(self, summary: str) -> None:
        """The bar goes; on a terminal the summary takes its place."""
        with self._lock:
            self._tell(self._wiped())
            self._bar = ""
        if self._shows and summary:
            self.note(summary)

    def _wiped(self) -> str:
        return f"\r{' ' * len(self._bar)}\r" if self._bar else ""

    def _tell(self, text: str) -> None:
        if self._errors is not None and text:
            with contextlib.suppress(OSError):  # nobody reads it, or the disk is full
                write_text(self._errors, text)


class ScreenHandler(logging.Handler):
    """What is logged is said there."""

    def __init__(self, screen: Screen) -> None:
        super().__init__()
        self._screen = screen

    def emit(self, record: logging.LogRecord) -> None:
        """A record with a traceback has several lines."""
        for line in self.format(record).splitlines():
            self._screen.note(line)
