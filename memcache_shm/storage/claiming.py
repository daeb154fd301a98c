"""A daemon's hold on a name and its table."""

from __future__ import annotations

import logging

from memcache_shm.errors import LayoutError
from memcache_shm.storage import statefile
from memcache_shm.storage.creating import Fill, create, follow
from memcache_shm.storage.leftovers import remove_leftovers
from memcache_shm.storage.namelock import NameLock
from memcache_shm.storage.statefile import State
from memcache_shm.storage.table import Table

_log = logging.getLogger(__name__)


class Claim:
    """A daemon's hold on a name and its table, from before its workers are forked to its end."""

    def __init__(self, lock: NameLock, table: Table, state: State, adopted: bool, fill: Fill | None) -> None:
        self._lock = lock
        self._fill = fill
        self.table = table
        self.state = state
        self.adopted = adopted  # the table was there before: killed or kept by an earlier daemon, or made by open()

    @property
    def removes(self) -> bool:
        """Whether the daemon's end is the table's end."""
        return self.state.made_by == "daemon"

    def recreate(self) -> Table:
        """A new table of the same geometry under the name, in place of one that was removed from outside; it is the claim's now.

        Whose it was (`made_by`) and whether it follows another do not change; what is left of the old one is removed, and this process's
        handle of it closed.
        Raises OSError when the system refuses, MemcacheError when the state directory cannot be written.
        """
        old = self.state
        self._lock.lock()
        try:
            self.table.retire()
            remove_leftovers(old)
            statefile.make_directory(old.directory, old.mode)
            fill = follow if self.table.follows else self._fill
            table, state = create(old.directory, old.name, self.table.geometry, old.mode, old.evict, made_by=old.made_by, fill=fill)
            self.state = statefile.write_state(state.directory, state.with_owner(served=True))
        finally:
            self._lock.unlock()
        self.table.close()
        self.table = table
        return table

    def release(self, *, keep: bool = False) -> None:
        """Give the name up; remove the table if a daemon made it, unless `keep`. For the process that claimed it."""
        self._lock.lock()
        mine = self._name_is_ours()
        if self.removes and not keep:
            self.table.destroy()
            if mine:
                statefile.drop_state(self.state.directory, self.state.name)
                self._lock.discard()
        elif mine:
            statefile.write_state(self.state.directory, self.state.with_owner(served=False))
        self._lock.close()
        self.table.close()

    def _name_is_ours(self) -> bool:
        """Whether the state file is still our table's; one that somebody damaged is, since the name's lock is ours."""
        try:
            current = statefile.read_state(self.state.directory, self.state.name)
        except LayoutError as error:
            _log.warning("%s", error)
            return True
        return current is not None and current.uuid == self.state.uuid
