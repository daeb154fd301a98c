"""Which tables there are, and how each stands; nothing here changes any."""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass
from enum import Enum

from memcache_shm.errors import LayoutError, MemcacheError, TableRemovedError
from memcache_shm.storage import making, registry, statefile
from memcache_shm.storage.namelock import daemon_pid
from memcache_shm.storage.statefile import State
from memcache_shm.storage.table import Table

_log = logging.getLogger(__name__)


class Status(Enum):
    """How a table stands, as `memcache-shm ls` shows it."""

    SERVED = "served"  # a daemon has it
    OPEN = "open"  # made by open(); needs no daemon
    KEPT = "kept"  # its daemon ended with --keep
    LEFT_BEHIND = "left behind"  # its daemon was killed; the next start with the same name takes it over
    UNFINISHED = "unfinished"  # being made this moment, or its maker was killed: who next makes or removes the name clears it
    GONE = "gone"  # the segment was removed from outside: only the name is left


@dataclass(frozen=True)
class Listed:
    """One table as `list_tables` found it; `table` is a read-only attachment, None when there is none to be had."""

    state: State
    status: Status
    daemon_pid: int | None
    table: Table | None


def list_tables() -> list[Listed]:
    """Every table in one's own directory and, as far as it may be read, root's."""
    listed = []
    for directory in statefile.search_directories():
        names = statefile.names_in(directory)
        for name in names:
            try:
                state = statefile.read_state(directory, name)
            except PermissionError:
                continue  # none of ours
            except LayoutError as error:
                _log.warning("%s", error)
                continue
            if state is not None:
                listed.append(_look_at(state))
        notes = making.unfinished(directory)
        listed += [Listed(state, Status.UNFINISHED, None, None) for name, state in notes.items() if name not in names]
    return listed


def _look_at(state: State) -> Listed:
    table = None
    gone = False
    try:
        table = registry.attach_state(state, readonly=True)
    except TableRemovedError:
        gone = True
    except (MemcacheError, PermissionError):
        gone = False  # there, but of another layout or namespace, or not ours to read
    pid = os.getpid() if state.served and state.owner_is_me else daemon_pid(state.directory, state.name)
    return Listed(state, _status(state, pid, gone), pid, table)


def _status(state: State, pid: int | None, gone: bool) -> Status:
    if gone:
        return Status.GONE
    if pid is not None:
        return Status.SERVED
    if state.served:
        return Status.LEFT_BEHIND
    return Status.KEPT if state.made_by == "daemon" else Status.OPEN
