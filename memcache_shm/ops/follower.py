"""A follower: keeps a table of this host in step with a daemon elsewhere, as a companion of the daemon that serves the copy.

    connect -> begin_copy; every item, mixed with changes -> SYNCED: end_copy -> changes, ALIVE each second -> lost: connect again

The copy serves reads all the time, also while it is made anew: what has not come again goes at its end. Nothing is kept of the stream but
the piece that was received last. It ends for good when the table is promoted, which its copier notices by being refused.
"""

from __future__ import annotations

import logging
import random
import time
from typing import NoReturn

from memcache_shm.client.addresses import Address, written
from memcache_shm.client.api import attach
from memcache_shm.client.changes import Change
from memcache_shm.client.copying import Copier
from memcache_shm.client.remote_feed import RemoteFeed, RemoteStream
from memcache_shm.client.remote_figures import served_uuid
from memcache_shm.client.wire import Connection
from memcache_shm.errors import (
    BusyError,
    FeedOffError,
    LayoutError,
    MemcacheError,
    NoSpaceError,
    ReadOnlyError,
    RemoteError,
    TableNotFoundError,
    TableRemovedError,
)
from memcache_shm.server.outage import Outage
from memcache_shm.storage import following
from memcache_shm.storage.table import Table

log = logging.getLogger(__name__)

DONE = 0
_ANSWER_S = 3.0  # for a connection and for each answer on it
_LOOK_EVERY_S = 1.0  # whether the table was promoted or removed, where nothing comes
_PAUSE_FIRST_S = 0.1
_PAUSE_MOST_S = 2.0


class _Promoted(Exception):
    """The table is independent."""


class _IsItself(Exception):
    """The leader serves this very table."""


def follow(name: str, leader: Address, writable: bool) -> int:
    """Keep the table ``name`` in step with the daemon at ``leader`` until it is promoted; 0 then. ``writable``: it is not guarded, others
    change it, too."""
    return _Follower(name, leader, writable).run()


class _Follower:
    def __init__(self, name: str, leader: Address, writable: bool) -> None:
        self._name = name
        self._leader = leader
        self._where = written(leader)
        self._writable = writable
        self._outage = Outage()
        self._pause_s = _PAUSE_FIRST_S

    def run(self) -> int:
        while True:
            try:
                with attach(self._name) as cache:
                    table = cache.attached_table
                    following.note_connected(table, False)  # a predecessor that was killed could not say so
                    copier = Copier(cache, exempt=not self._writable)
                    try:
                        self._keep_in_step(table, copier)
                    finally:
                        copier.close()
            except (TableNotFoundError, TableRemovedError, LayoutError) as error:
                self._outage.goes_on(f"following {self._where}: {error}")
            except _Promoted:
                log.warning("table %s is independent and follows %s no longer", self._name, self._where)
                return DONE
            except _IsItself:
                log.error("--follow %s: that daemon serves this very table, which cannot follow itself; name another", self._where)
                return DONE
            self._pause()

    def _keep_in_step(self, table: Table, copier: Copier) -> NoReturn:
        """One connection after the other. Raises what ends that: _Promoted, _IsItself, TableRemovedError."""
        while True:
            self._look_at(table)
            try:
                self._refuse_itself(table)
                with RemoteFeed(self._leader, _ANSWER_S).sync() as stream:
                    self._apply(stream, table, copier)
            except (RemoteError, FeedOffError, BusyError, NoSpaceError) as error:
                self._outage.goes_on(f"cannot follow {_about(error, self._where)}; trying again and again, the copy serves meanwhile")
            except ReadOnlyError:
                raise _Promoted from None
            self._pause()

    def _look_at(self, table: Table) -> None:
        if table.is_removed():
            raise TableRemovedError(f"table {self._name!r} was removed; attaching its successor")
        if not self._writable and not table.follows:
            raise _Promoted

    def _refuse_itself(self, table: Table) -> None:
        with Connection(self._leader, _ANSWER_S) as connection:
            if served_uuid(connection) == table.uuid:
                raise _IsItself

    def _pause(self) -> None:
        """Longer each time until a copy is complete; not all followers of a leader come back in the same moment."""
        time.sleep(self._pause_s * random.uniform(0.5, 1.0))
        self._pause_s = min(2 * self._pause_s, _PAUSE_MOST_S)

    def _apply(self, stream: RemoteStream, table: Table, copier: Copier) -> NoReturn:
        """Do here what the stream tells, until that breaks off: RemoteError."""
        try:
            following.note_connected(table, True)
            self._do(stream, table, copier)
        finally:
            following.note_connected(table, False)

    def _do(self, stream: RemoteStream, table: Table, copier: Copier) -> NoReturn:
        step = _Step(self._where, table, copier)
        while True:
            changes = stream.read(_LOOK_EVERY_S)
            self._look_at(table)
            for change in changes:
                if change.kind == "set" and change.key is not None:
                    copier.put(change.key, change.value, change.flags, change.exptime, change.cas)
                else:
                    step.take(change)
            if step.copied:
                step.copied = False
                self._outage.is_over(f"in step with {self._where} again")
                self._pause_s = _PAUSE_FIRST_S


class _Step:
    """One stream, and how far it has brought the table."""

    def __init__(self, where: str, table: Table, copier: Copier) -> None:
        self.copied = False  # a copy has just become complete
        self._where = where
        self._table = table
        self._copier = copier
        self._refused = copier.refused
        self._untouched = self._told_untouched = 0  # touches of what is not here
        self._begin()

    def _begin(self) -> None:
        self._copier.begin_copy()
        self._began_s: float | None = time.monotonic()
        log.info("copying %s", self._where)

    def take(self, change: Change) -> None:
        """Everything but ``set``."""
        kind, key = change.kind, change.key
        if key is not None:
            if kind == "touch":
                # Evicted here, or expired before the touch came, which does not bring the value: the item is missing from now on.
                self._untouched += not self._copier.touch(key, change.exptime)
            else:
                self._copier.drop(key)  # delete, expire, evict
        elif kind == "flush":
            self._copier.flush()
        elif kind == "alive":
            self._note(change.last)
        elif kind == "synced":
            self._end(change.last)
        elif kind == "lost":
            log.info("fell behind %s (its feed's positions %d to %d)", self._where, change.first, change.last)
            self._begin()

    def _end(self, position: int) -> None:
        if self._began_s is not None:
            gone = self._copier.end_copy()
            took_s = time.monotonic() - self._began_s
            self._began_s = None
            following.note_copy(self._table)
            log.info("in step with %s after %.1f s: %d items, %d others removed", self._where, took_s, len(self._table), gone)
            self.copied = True
        self._note(position)

    def _note(self, position: int) -> None:
        following.note_in_step(self._table, position, self._copier.refused + self._untouched)
        if self._copier.refused > self._refused:
            log.warning("%d items of %s are too large for this table, or it has no room for them", self._copier.refused, self._where)
            self._refused = self._copier.refused
        if self._untouched > self._told_untouched:
            log.info("%d items that %s touched are missing here until it sets them", self._untouched, self._where)
            self._told_untouched = self._untouched


def _about(error: MemcacheError, where: str) -> str:
    """The error, which names the leader where it is about that."""
    return str(error) if str(error).startswith(where) else f"{where}: {error}"
