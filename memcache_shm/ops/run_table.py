"""The table that a run of jobs has to itself: it does not outlive the run, or no longer than until the next one if that was killed.

A run has its table attached from before the table has a name to after that is gone again, so a run's table that nobody has attached
is a dead one's.
"""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Iterator

from memcache_shm.client.cache import Cache
from memcache_shm.errors import MemcacheError, TableNotFoundError
from memcache_shm.storage import registry, statefile
from memcache_shm.storage.geometry import Geometry
from memcache_shm.storage.leftovers import kernel_rows
from memcache_shm.storage.statefile import State


@contextlib.contextmanager
def run_table(geometry: Geometry) -> Iterator[Cache]:
    """A new one, attached, that evicts nothing; it is removed at the end. What killed runs of this user have left goes first.

    Raises as `registry.open_or_create`.
    """
    _remove_left_behind()
    name = _prefix(os.getpid()) + secrets.token_hex(4)  # a pid alone may be that of one that was killed
    table, state = registry.open_or_create(name, geometry, evict=False)
    try:
        with Cache(table, name, state.directory) as cache:
            yield cache
    finally:
        with contextlib.suppress(TableNotFoundError):  # somebody else was faster
            registry.remove(name)


def _remove_left_behind() -> None:
    directory = statefile.own_directory()
    for name in statefile.names_in(directory):
        with contextlib.suppress(MemcacheError, PermissionError):  # another run was faster, or it is not ours: it hinders nobody
            state = statefile.read_state(directory, name)
            if state is not None and _is_left_behind(state):
                registry.remove(name)


def _is_left_behind(state: State) -> bool:
    if not state.name.startswith(_prefix(state.pid)) or state.made_by != "open" or state.uid != os.geteuid() or not state.in_this_namespace:
        return False
    return not any(row["shmid"] == state.shmid and row["nattch"] for row in kernel_rows("shm"))


def _prefix(pid: int) -> str:
    return f"run-{pid}-"
