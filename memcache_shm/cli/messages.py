"""What the command line says on standard error, and its exit statuses."""

from __future__ import annotations

import os
import sys
from typing import TextIO

PROGRAM = "memcache-shm"
EXIT_OK = 0
EXIT_FAILURE = 1
EXIT_USAGE = 2


class UsageError(Exception):
    """The command line is wrong; the message names the argument and the remedy."""


def error(message: str) -> None:
    """One line for a failure."""
    print(f"{PROGRAM}: {paint('error:', '31', sys.stderr)} {message}", file=sys.stderr)


def note(message: str) -> None:
    """One line for an event."""
    print(f"{PROGRAM}: {message}", file=sys.stderr, flush=True)


def paint(text: str, code: str, stream: TextIO) -> str:
    """`text` in the colour of SGR `code` on a terminal, unless NO_COLOR is set (no-color.org)."""
    if os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb" or not stream.isatty():
        return text
    return f"\x1b[{code}m{text}\x1b[0m"
