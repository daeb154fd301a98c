"""Tables with an item of every kind, all that is in a table, and the command line at both ends of a backup."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import memcache_shm
from memcache_shm.client.items import Item
from memcache_shm.client.snapshot import Snapshot
from support.doors import open_door

GEOMETRIES: list[dict[str, Any]] = [{"memory": "16m", "max_item": "4m"}, {"elements": 200_000, "element_size": 64}]
_MARKED = b"""ms plain 5 F7
value
ms AAEC/w== 3 b E1234567890123
b\r\r
ms empty 0

ms most_flags 1 F4294967295
f
ms expiring 1 T1000
e
ms stale 5
stale
md stale I
ms won 3 T100
won
mg won R1000
ms stale_and_won 1
x
md stale_and_won I
mg stale_and_won v
mg promised N1000
"""


def fill(cache: memcache_shm.Cache, count: int = 500) -> None:
    """An item of every kind, and `count` plain ones."""
    open_door(cache.attached_table).answer(_MARKED.replace(b"\n", b"\r\n"))
    for number in range(count):
        cache.set(f"key{number}", b"v" * (number % 60), expire=number * 1000, flags=number)
    cache.set("gone", b"x", expire=-1)


def table_of(cache: memcache_shm.Cache) -> dict[bytes, Item]:
    """Everything that is in the table."""
    found = list(Snapshot(cache))
    assert len({item.key for item in found}) == len(found)
    return {item.key: item for item in found}


def shell(command: str, directory: Path) -> subprocess.CompletedProcess[str]:
    """A shell's command line, in which `memcache-shm` stands for ours; its status is that of the last one that failed."""
    command = command.replace("memcache-shm", f"{sys.executable} -m memcache_shm")
    return subprocess.run(["bash", "-o", "pipefail", "-c", command], cwd=directory, capture_output=True, text=True, timeout=60, check=False)
