"""Making the table that a name is to lead to: segment, semaphores, what is in it from the start, and last the state file."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable
from dataclasses import replace

from memcache_shm.errors import LayoutError, TableRemovedError
from memcache_shm.storage import following, making, segment, statefile
from memcache_shm.storage.geometry import Geometry
from memcache_shm.storage.leftovers import remove_leftovers
from memcache_shm.storage.statefile import State
from memcache_shm.storage.table import Table

#: Puts items into a table that was just made, under the name that nobody can find yet, in that directory.
Fill = Callable[[Table, str, str], None]


def create(
    directory: str, name: str, geometry: Geometry, mode: int, evict: bool, *, made_by: str, fill: Fill | None = None, socket: str = ""
) -> tuple[Table, State]:
    """Make segment, semaphores and state file; the caller holds the flock. What `fill` raises ends it, and nothing is left."""
    making.clear(directory, name)
    old = statefile.read_state(directory, name)
    if old is not None and old.in_this_namespace:
        remove_leftovers(old)  # now: once the new state is in place nothing leads to them
    state = State(
        name=name,
        shmid=-1,
        semid=-1,
        uuid="",
        geometry=geometry.to_dict(),
        mode=mode,
        evict=evict,
        created=time.time(),
        made_by=made_by,
        pid=os.getpid(),
        pid_start=statefile.process_start(os.getpid()),
        uid=os.geteuid(),
        ipc_namespace=statefile.ipc_namespace(),
        served=made_by == "daemon",
        socket=socket,
    )
    try:
        making.begin(directory, state)
        table, state = _make(directory, state, geometry, fill)
    except BaseException:
        making.clear(directory, name)
        raise
    making.end(directory, name)
    if old is not None and old.in_this_namespace:
        send_away(old)  # last: they find the new one
    return table, state


def _make(directory: str, note: State, geometry: Geometry, fill: Fill | None) -> tuple[Table, State]:
    table = Table.create(geometry, mode=note.mode, evict=note.evict)
    try:
        if fill is not None:
            fill(table, note.name, directory)  # before anybody can find it
        state = replace(note, shmid=table.shmid, semid=table.semid, uuid=table.uuid, created=time.time())
        return table, statefile.write_state(directory, state)
    except BaseException:
        table.destroy()
        table.close()
        raise


def follow(table: Table, name: str, directory: str) -> None:
    """As a Fill: what it holds comes later, and from somebody else."""
    following.follow(table)


def send_away(state: State) -> None:
    """Tell those who still have a removed table mapped; its memory can be attached by id as long as they have."""
    with contextlib.suppress(TableRemovedError, LayoutError, PermissionError):
        segment.retire(state.shmid, state.uuid)
