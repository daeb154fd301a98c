"""Where a backup is restored to: an attached table, or one behind a socket."""

from __future__ import annotations

from typing import NamedTuple, Protocol

from memcache_shm.client.copying import Copier
from memcache_shm.client.items import unpack
from memcache_shm.client.reading import Reading
from memcache_shm.client.remote import RemoteTable
from memcache_shm.client.remote_items import RemotePutter
from memcache_shm.errors import ReadOnlyError
from memcache_shm.ops.backup_parts import Piece


class Outcome(NamedTuple):
    """What became of the items."""

    items: int  # stored
    refused: int  # for want of room, or as too large
    expired: int  # over when their turn came
    removed: int = 0  # that were there before, where those go
    evicted: int = 0  # while it was done, by whomsoever
    unnamed: int = 0  # with a key that the protocol cannot name
    endless: int = 0  # stored for ever, since the clock does not reach to their expiry
    keeps_cas: bool = True  # whether they have the CAS ids of the backup
    raises_cas: bool = True  # whether ids that the table gives out later are above those


class Target(Protocol):
    """Takes items: `begin`, `put` each piece, `end`. After evictions `missing` tells how many of a piece's items are not there."""

    def begin(self, highest_cas: int) -> None: ...

    def put(self, piece: Piece) -> None: ...

    def end(self) -> Outcome: ...

    def missing(self, piece: Piece) -> int: ...


class AttachedTarget:
    """An attached table. Raises ReadOnlyError, TableRemovedError, BusyError, NoSpaceError for too many writers."""

    def __init__(self, cache: Reading, replace: bool) -> None:
        """`replace`: what is there goes, before the first item comes; otherwise it stays."""
        name, self._table = cache.name, cache.attached_table
        if self._table.follows:
            raise ReadOnlyError(f"table {name!r} follows another and is changed by that alone; restore to its leader, or promote it first")
        if cache.readonly:
            raise ReadOnlyError(f"table {name!r} is attached read-only; attach it with the right to write")
        self._replace = replace
        self._evicted_before = self._evictions()
        self._stored = self._removed = 0
        self._copier = Copier(cache)

    def begin(self, highest_cas: int) -> None:
        """Before the first piece."""
        self._copier.raise_versions(highest_cas)
        if self._replace:  # first: items that proved themselves would keep the room that those of the backup need
            self._removed = len(self._table)
            self._copier.flush()

    def put(self, piece: Piece) -> None:
        """Store its items over what is there."""
        self._stored += self._copier.put_packed(piece.data)

    def end(self) -> Outcome:
        """After the last one."""
        copier = self._copier
        evicted = self._evictions() - self._evicted_before
        return Outcome(self._stored, copier.refused, copier.expired, self._removed, evicted, endless=copier.endless)

    def missing(self, piece: Piece) -> int:
        """Whose time is not over. Refused items are among them."""
        return self._copier.missing(piece.data)

    def close(self) -> None:
        """Idempotent."""
        self._copier.close()

    def _evictions(self) -> int:
        return self._table.stats()["evictions"]


class RemoteTarget:
    """A table behind a socket, a memcached's too. Raises RemoteError."""

    def __init__(self, table: RemoteTable) -> None:
        self._putter = RemotePutter(table)

    def begin(self, highest_cas: int) -> None:
        """Before the first piece. CAS ids that the server gives out later cannot be raised from here."""

    def put(self, piece: Piece) -> None:
        """Store its items over what is there."""
        for item in unpack(piece.data):
            self._putter.put(item)

    def end(self) -> Outcome:
        """After the last one. What the server evicts meanwhile it does not tell."""
        putter = self._putter
        putter.flush()
        return Outcome(putter.stored, putter.refused, putter.expired, unnamed=putter.unnamed, keeps_cas=putter.sets_cas, raises_cas=False)

    def missing(self, piece: Piece) -> int:
        """Not asked for, since no evictions are told."""
        return 0
