"""Which tables this user can see, and how each stands."""

from __future__ import annotations

from dataclasses import dataclass

from memcache_shm.errors import MemcacheError, TableNotFoundError
from memcache_shm.storage import inventory, namelock, statefile
from memcache_shm.storage.geometry import Geometry


@dataclass(frozen=True)
class TableInfo:
    """One table, as `memcache-shm ls` shows it. `items` and `fill` are None where it cannot be attached."""

    name: str
    state: str  # one of `inventory.Status`
    geometry: str
    items: int | None
    fill: float | None  # of its elements, or of its memory: 0 to 1
    pid: int | None  # the daemon that serves it; 0 for one in another PID namespace
    created: float  # seconds of the wall clock
    segment_bytes: int
    directory: str  # of its state file
    follows: bool  # another one; False where it cannot be attached
    socket: str  # path of the UNIX socket of the daemon that serves it; "": none


def list_tables() -> list[TableInfo]:
    """The tables in one's own state directory and in root's, by name."""
    return [_info(listed) for listed in inventory.list_tables()]


def socket_of(name: str) -> str:
    """Path of the UNIX socket of the daemon that serves the table `name`, in one's own state directory or in root's.

    Raises TableNotFoundError; MemcacheError when no daemon serves it, when that has no such socket, or when its state file may not be read.
    """
    directories = statefile.search_directories()
    for directory in directories:
        try:
            state = statefile.read_state(directory, name)
        except PermissionError:
            raise MemcacheError(f"no right to look for table {name!r} in {directory}; name its daemon's socket by the path") from None
        if state is None:
            continue
        if namelock.daemon_pid(directory, name) is None:
            raise MemcacheError(f"no daemon serves table {name!r}; start one with '-s PATH --name {name}'")
        if not state.socket:
            raise MemcacheError(f"the daemon of table {name!r} has no UNIX socket; start it with -s PATH")
        return state.socket
    raise TableNotFoundError(f"no table {name!r} in {' or '.join(directories)}; start a daemon with -s PATH")


def _info(listed: inventory.Listed) -> TableInfo:
    geometry = Geometry.from_dict(listed.state.geometry)
    items = fill = None
    follows = False
    if listed.table is not None:
        stats = listed.table.stats()
        items = stats["curr_items"]
        fill = items / geometry.elements if geometry.elements else stats["bytes"] / geometry.segment_bytes
        follows = listed.table.follows
        listed.table.close()
    return TableInfo(
        name=listed.state.name,
        state=listed.status.value,
        geometry=geometry.describe(),
        items=items,
        fill=fill,
        pid=listed.daemon_pid,
        created=listed.state.created,
        segment_bytes=geometry.segment_bytes,
        directory=listed.state.directory,
        follows=follows,
        socket=listed.state.socket if listed.status is inventory.Status.SERVED else "",
    )
