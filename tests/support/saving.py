"""Daemons that save their table to a file."""

from __future__ import annotations

import os
import signal
from pathlib import Path

from support.client import Client
from support.isolation import is_running
from support.servers import Daemon
from support.supervision import shm_stats
from support.waiting import until

LATER = "86400"  # seconds between saves: none while a test runs
SOON = "1"


def store(daemon: Daemon, **items: str) -> None:
    with Client(daemon) as client:
        for key, value in items.items():
            assert client.set(key.encode(), value.encode()) == b"STORED"


def value(daemon: Daemon, key: bytes) -> bytes | None:
    with Client(daemon) as client:
        return client.get(key)


def figures(daemon: Daemon) -> dict[str, int]:
    with Client(daemon) as client:
        return {name: int(figure) for name, figure in shm_stats(client).items() if name.startswith("shm_save")}


def kill(daemon: Daemon) -> None:
    children = daemon.workers
    os.kill(daemon.pid, signal.SIGKILL)
    daemon.wait()
    until(lambda: not any(map(is_running, children)), "its children to go")


def refused(daemon: Daemon) -> str:
    """The one line of a start that fails."""
    assert daemon.wait() == 1
    (line,) = daemon.lines
    return line


def damage(path: Path, how: str) -> None:
    content = bytearray(path.read_bytes())
    if how == "altered":
        content[len(content) // 2] ^= 1
    path.write_bytes({"altered": content, "cut off": content[:-10], "empty": b"", "another": b"hello\n"}[how])
