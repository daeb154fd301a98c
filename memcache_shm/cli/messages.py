"""What the command line says on standard error, and its exit statuses."""

from __future__ import annotations

import logging
import os
import select
import sys
from typing import TextIO

from memcache_shm.ops.quoting import harmless

PROGRAM = "memcache-shm"
EXIT_OK = 0
EXIT_FAILURE = 1
EXIT_USAGE = 2


class UsageError(Exception):
    """The command line is wrong; the message names the argument and the remedy."""


class StderrHandler(logging.StreamHandler[TextIO]):
    """A daemon's log: a line that standard error does not take at once (a pipe that nobody empties) is left out and counted, since
    the supervisor must not wait for whoever reads its log."""

    def __init__(self) -> None:
        super().__init__(sys.stderr)
        self._left_out = 0

    def emit(self, record: logging.LogRecord) -> None:
        """A line is shorter than PIPE_BUF, so that a pipe that is ready takes it whole (pipe(7))."""
        if self.stream is None:  # standard error was closed before the start
            return
        poll = select.poll()
        poll.register(self.stream, select.POLLOUT)
        if not poll.poll(0):
            self._left_out += 1
            return
        if self._left_out:
            record.msg, record.args = f"({self._left_out} lines left out: standard error was full) {record.getMessage()}", ()
            self._left_out = 0
        super().emit(record)


# What is said may hold names of files and words of servers: nothing of it may move a terminal's cursor, or be no text of its encoding.
# Where a stream was closed before the start (`2>&-`) nothing is said: print() would take standard output for it.


def error(message: str) -> None:
    """One line for a failure."""
    if sys.stderr is not None:
        print(f"{PROGRAM}: {paint('error:', '31', sys.stderr)} {_shown(message, sys.stderr)}", file=sys.stderr)


def note(message: str) -> None:
    """One line for an event."""
    say_aside(f"{PROGRAM}: {message}")


def say(line: str) -> None:
    """A line of what was asked for, on standard output."""
    if sys.stdout is not None:
        print(_shown(line, sys.stdout))


def say_aside(line: str) -> None:
    """One on standard error, beside what was asked for."""
    if sys.stderr is not None:
        print(_shown(line, sys.stderr), file=sys.stderr, flush=True)


def _shown(text: str, stream: TextIO) -> str:
    return harmless(text, stream.encoding or "utf-8")


def paint(text: str, code: str, stream: TextIO) -> str:
    """`text` in the colour of SGR `code` where the stream shows colours."""
    return f"\x1b[{code}m{text}\x1b[0m" if shows_colour(stream) else text


def shows_colour(stream: TextIO) -> bool:
    """Whether `stream` is a terminal that shows colours, and NO_COLOR is not set (no-color.org)."""
    return not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb" and stream.isatty()


def plural(count: int, what: str) -> str:
    """`count` things called `what`, which takes an s."""
    return f"{count} {what}{'' if count == 1 else 's'}"
