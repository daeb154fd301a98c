"""Where a backup is restored to: an attached table, or one behind a socket."""

from __future__ import annotations

from typing import Protocol

from memcache_shm.client.cache import Cache
from memcache_shm.client.copying import Copier
from memcache_shm.client.items import unpack
from memcache_shm.client.remote import RemoteTable
from memcache_shm.client.remote_items import RemotePutter
from memcache_shm.errors import ReadOnlyError
from memcache_shm.ops.backup_parts import Piece


class Target(Protocol):
    """Takes items. The counts are complete after `end`."""

    name: str  # as users write it
    items: int  # stored
    refused: int  # for want of room, or as too large
    expired: int  # over when their turn came
    removed: int  # that were there before and are not in the backup, where those go
    evicted: int  # while it was done, by whomsoever
    unnamed: int  # with a key that the protocol cannot name
    keeps_cas: bool  # whether items have the CAS ids of the backup

    def begin(self, highest_cas: int) -> None: ...

    def put(self, piece: Piece) -> None: ...

    def end(self) -> None: ...

    def close(self) -> None: ...


class AttachedTarget:
    """An attached table. Raises ReadOnlyError, TableRemovedError, BusyError, NoSpaceError for too many writers."""

    unnamed = 0
    keeps_cas = True

    def __init__(self, cache: Cache, replace: bool) -> None:
        """`replace`: what is not in the backup goes, at the end; otherwise it stays."""
        self.name = cache.name
        self.items = self.refused = self.expired = self.removed = self.evicted = 0
        self._table = cache.attached_table
        if self._table.follows:
            raise ReadOnlyError(f"table {cache.name!r} follows another and is changed by that alone; restore to its leader, or promote it first")
        if cache.readonly:
            raise ReadOnlyError(f"table {cache.name!r} is attached read-only; attach it with the right to write")
        self._replace = replace
        self._evicted_before = self._evictions()
        self._copier = Copier(cache)

    def begin(self, highest_cas: int) -> None:
        """Before the first piece."""
        self._copier.raise_versions(highest_cas)
        if self._replace:
            self._copier.begin_copy()

    def put(self, piece: Piece) -> None:
        """Store its items over what is there."""
        self.items += self._copier.put_packed(piece.data)

    def end(self) -> None:
        """After the last one."""
        if self._replace:
            self.removed = self._copier.end_copy()
        self.refused = self._copier.refused
        self.expired = self._copier.expired
        self.evicted = self._evictions() - self._evicted_before

    def close(self) -> None:
        """Idempotent."""
        self._copier.close()

    def _evictions(self) -> int:
        return self._table.stats()["evictions"]


class RemoteTarget:
    """A table behind a socket, a memcached's too. Raises RemoteError."""

    removed = evicted = 0

    def __init__(self, table: RemoteTable) -> None:
        self.name = table.name
        self._putter = RemotePutter(table)
        self.keeps_cas = self._putter.sets_cas

    def begin(self, highest_cas: int) -> None:
        """Before the first piece."""

    def put(self, piece: Piece) -> None:
        """Store its items over what is there."""
        for item in unpack(piece.data):
            self._putter.put(item)

    def end(self) -> None:
        """After the last one."""
        self._putter.flush()

    def close(self) -> None:
        """Idempotent."""

    @property
    def items(self) -> int:
        """Stored."""
        return self._putter.stored

    @property
    def refused(self) -> int:
        """For want of room, or as too large."""
        return self._putter.refused

    @property
    def expired(self) -> int:
        """Over when their turn came."""
        return self._putter.expired

    @property
    def unnamed(self) -> int:
        """With a key that the protocol cannot name."""
        return self._putter.unnamed
