"""A daemon's hold on a name and its table."""

from __future__ import annotations

import logging
import mmap
import struct
import sys

from memcache_shm.errors import LayoutError, TableRemovedError
from memcache_shm.storage import statefile
from memcache_shm.storage.creating import Fill, create, follow
from memcache_shm.storage.leftovers import remove_leftovers
from memcache_shm.storage.namelock import NameLock
from memcache_shm.storage.statefile import State
from memcache_shm.storage.table import Table

_log = logging.getLogger(__name__)


class _Ids:
    """Those of the claim's table, where its children find them as well. Written by the process that claimed it; half of them is never read
    as if it were all."""

    _FORM = struct.Struct("=Qqq16s")  # a number that is odd while they are written, shmid, semid, uuid

    def __init__(self, table: Table) -> None:
        self._memory = mmap.mmap(-1, self._FORM.size)
        self._number = 0
        self.tell(table)

    def tell(self, table: Table) -> None:
        """They are those of `table` from now on."""
        self._FORM.pack_into(self._memory, 0, self._number + 1, -1, -1, bytes(16))
        self._FORM.pack_into(self._memory, 0, self._number + 1, table.shmid, table.semid, bytes.fromhex(table.uuid))
        self._number += 2
        self._memory[:8] = self._number.to_bytes(8, sys.byteorder)

    def read(self) -> tuple[int, int, str]:
        """shmid, semid, uuid. TableRemovedError while another table takes the place of one that was removed."""
        before = self._FORM.unpack_from(self._memory)
        if before[0] % 2 or self._FORM.unpack_from(self._memory) != before:
            raise TableRemovedError("the table was removed, and another one is just taking its place")
        return before[1], before[2], before[3].hex()


class Claim:
    """A daemon's hold on a name and its table, from before its workers are forked to its end."""

    def __init__(self, lock: NameLock, table: Table, state: State, adopted: bool, fill: Fill | None) -> None:
        self._lock = lock
        self._fill = fill
        self._ids = _Ids(table)
        self.table = table
        self.state = state
        self.adopted = adopted  # the table was there before: killed or kept by an earlier daemon, or made by open()

    @property
    def removes(self) -> bool:
        """Whether the daemon's end is the table's end."""
        return self.state.made_by == "daemon"

    def attach(self) -> Table:
        """The claim's table anew, in the process that claimed it or in a child; it is found by its ids, even where its state file is gone.

        Raises TableRemovedError (removed from outside, and not yet made anew), LayoutError.
        """
        table = Table.attach(*self._ids.read())
        if table.retired:
            table.close()
            raise TableRemovedError(f"the memory of table {self.state.name!r} was removed; its daemon makes a new one")
        return table

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
            table, state = create(
                old.directory, old.name, self.table.geometry, old.mode, old.evict, made_by=old.made_by, fill=fill, socket=old.socket
            )
            self.state = statefile.write_state(state.directory, state.with_owner(served=True))
        finally:
            self._lock.unlock()
        self._ids.tell(table)
        self.table.close()
        self.table = table
        return table

    def release(self, *, keep: bool = False) -> None:
        """Give the name up; remove the table if a daemon made it, unless `keep`: then its name leads to it, even if somebody removed the
        state file meanwhile. For the process that claimed it. Raises OSError and MemcacheError when that cannot be written."""
        self._lock.lock()
        try:
            mine = self._name_is_ours()
            if self.removes and not keep:
                self.table.destroy()
                if mine:
                    statefile.drop_state(self.state.directory, self.state.name)
                    self._lock.discard()
            elif mine:
                statefile.make_directory(self.state.directory, self.state.mode)
                statefile.write_state(self.state.directory, self.state.with_owner(served=False, socket=""))
        finally:
            self._lock.close()
            self.table.close()

    def _name_is_ours(self) -> bool:
        """Whether the name is still our table's. A state file that is damaged or gone leads to no other one; but where the lock file was
        removed, too, somebody else may be making another one under a new lock."""
        try:
            current = statefile.read_state(self.state.directory, self.state.name)
        except LayoutError as error:
            _log.warning("%s", error)
            return True
        if current is None:
            return not self._lock.is_displaced
        return current.uuid == self.state.uuid
