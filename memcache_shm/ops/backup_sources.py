"""What a backup is made from: an attached table, whose items are copied while writers wait, or one behind a socket, walked item by item."""

from __future__ import annotations

import time
from collections.abc import Iterator
from itertools import chain
from typing import Protocol

from memcache_shm.client.items import higher_cas, pack
from memcache_shm.client.packed import stretch
from memcache_shm.client.reading import Reading
from memcache_shm.client.remote import RemoteTable
from memcache_shm.client.remote_items import RemoteItems
from memcache_shm.client.snapshot import Snapshot, snapshots
from memcache_shm.ops.backup_parts import INSTANT_A_SHARD, ONE_INSTANT, PIECE_BYTES, WALKED, Piece


class Source(Protocol):
    """All items of a table, once. What is told beside them is complete when all pieces were taken."""

    name: str  # as users write it
    consistency: str
    began_s: float  # time.monotonic, before the first item was copied
    expected: int  # items, as far as can be told before
    highest_cas: int
    instants: int  # at which they were copied; 0: walked
    held_ns: int  # for which a writer waited at most
    held_sum_ns: int  # ... and all instants together
    unnamed: int  # items left out, because the protocol cannot name their keys
    gone: int  # in a walk: items that were listed, and no more there when their turn came, though it was not their time

    def pieces(self) -> Iterator[Piece]: ...


class AttachedSource:
    """An attached table. Raises as `Snapshot`."""

    def __init__(self, cache: Reading) -> None:
        """Copies it, or its first shard, at once."""
        self.name = cache.name
        self.highest_cas = self.instants = self.held_ns = self.held_sum_ns = self.unnamed = self.gone = 0
        self.began_s = time.monotonic()
        self.expected = len(cache)
        parts = snapshots(cache)
        first = next(parts)
        self.consistency = ONE_INSTANT if first.whole else INSTANT_A_SHARD
        self._parts = chain([first], parts)

    def pieces(self) -> Iterator[Piece]:
        """Cut from the copies, without another one."""
        for part in self._parts:
            self._count(part)
            data, at, size = part.data, 0, part.bytes
            while at < size:
                end, items = stretch(data, at, PIECE_BYTES)
                yield Piece(data[at:end], items)
                at = end

    def _count(self, part: Snapshot) -> None:
        self.instants += 1
        self.held_ns = max(self.held_ns, part.held_ns)
        self.held_sum_ns += part.held_ns
        self.highest_cas = max(self.highest_cas, part.highest_cas)


class RemoteSource:
    """A table behind a socket, a memcached's too. Raises RemoteError."""

    def __init__(self, table: RemoteTable) -> None:
        self.name = table.name
        self.consistency = WALKED
        self.highest_cas = self.instants = self.held_ns = self.held_sum_ns = self.unnamed = self.gone = 0
        self.began_s = time.monotonic()
        self.expected = table.count()
        self._items = RemoteItems(table)

    def pieces(self) -> Iterator[Piece]:
        """Put together as they come."""
        packed = bytearray()
        items = 0
        for item in self._items:
            packed += pack(item)
            items += 1
            self.highest_cas = higher_cas(self.highest_cas, item.cas)
            if len(packed) >= PIECE_BYTES:
                yield Piece(bytes(packed), items)
                packed.clear()
                items = 0
        if items:
            yield Piece(bytes(packed), items)
        self.unnamed, self.gone = self._items.unnamed, self._items.gone
