"""What a daemon says on standard error and counts in `stats shm`."""

from __future__ import annotations

import re

from support.client import Client
from support.servers import Daemon
from support.waiting import until


def shm_stats(client: Client) -> dict[str, str]:
    client.send(b"stats shm\r\n")
    return dict(line.decode().split(" ", 2)[1:] for line in iter(client.line, b"END"))


def said(daemon: Daemon, pattern: str) -> list[str]:
    """The daemon's lines that match."""
    return [line for line in list(daemon.lines) if re.search(pattern, line)]


def await_line(daemon: Daemon, pattern: str, count: int = 1) -> str:
    """The last of so many matching lines."""
    until(lambda: len(said(daemon, pattern)) >= count, f"{count} x {pattern!r}", 20.0)
    return said(daemon, pattern)[-1]
