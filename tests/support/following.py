"""Leaders and followers, and whether these hold the same."""

from __future__ import annotations

import re
from typing import NamedTuple

from memcache_shm.client.remote_feed import RemoteFeed
from support.client import Client
from support.isolation import children
from support.servers import Daemon
from support.supervision import shm_stats
from support.waiting import until

PATIENCE_S = 30.0
REFUSED = b"SERVER_ERROR this table follows another: write to that one, or promote it"


class Item(NamedTuple):
    value: bytes
    flags: int
    exptime: int  # unix time, 0 never
    cas: int


def where(daemon: Daemon) -> str:
    return f"{daemon.host}:{daemon.port}"


def follower_of(leader: Daemon, *options: str, name: str = "copy", workers: int = 1) -> Daemon:
    return Daemon("--name", name, "-m", "16", "--follow", where(leader), *options, workers=workers)


def contents(daemon: Daemon) -> dict[bytes, Item]:
    """All items of a daemon, as it tells them to a follower."""
    items: dict[bytes, Item] = {}
    with RemoteFeed(daemon.unix_path).sync() as stream:
        for change in stream:
            if change.kind == "synced":
                break
            if change.kind == "lost" or change.kind == "flush":
                items.clear()
            elif change.kind == "set":
                items[change.key] = Item(change.value, change.flags, change.exptime, change.cas)
            elif change.kind in ("delete", "expire", "evict"):
                items.pop(change.key, None)
    return items


def figures(daemon: Daemon) -> dict[str, int]:
    """What `stats shm` says about following."""
    with Client(daemon, "unix") as client:
        return {name: int(value) for name, value in shm_stats(client).items() if re.match("follow", name)}


def is_in_step(daemon: Daemon) -> bool:
    found = figures(daemon)
    return bool(found["follow_connected"]) and 0 <= found["follow_lag_ms"] < 2000


def await_copies(daemon: Daemon, count: int) -> None:
    """Wait until so many full copies are complete, since the table was made."""
    until(lambda: figures(daemon)["follow_copies"] >= count, f"{count} full copies", PATIENCE_S)


def await_equal(copy: Daemon, leader: Daemon) -> dict[bytes, Item]:
    """Wait until both hold the same; what that is."""
    until(lambda: is_in_step(copy) and contents(copy) == contents(leader), "leader and follower to hold the same", PATIENCE_S, 0.05)
    return contents(copy)


def companion_of(daemon: Daemon) -> int:
    """The pid of the child that follows."""

    def find() -> int:
        with Client(daemon, "unix") as client:
            workers = {int(pid) for name, pid in shm_stats(client).items() if re.fullmatch(r"worker_\d+_pid", name)}
        others = [pid for pid, state in children(daemon.pid).items() if state != "Z" and pid not in workers]
        return others[0] if len(others) == 1 else 0

    return until(find, "the follower's process")


def has_companion(daemon: Daemon, workers: int = 1) -> bool:
    """Whether there is one, or a zombie."""
    return len(children(daemon.pid)) > workers
