"""A table wherever it is, attached or behind a socket, as tools for people look at it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Protocol

from memcache_shm.client.addresses import source_address
from memcache_shm.client.changes import Change
from memcache_shm.client.local import attach_local
from memcache_shm.client.remote import DEFAULT_TIMEOUT_S, RemoteTable


class Changes(Protocol):
    """Changes as they happen, one after the other. Raises MemcacheError, also while it goes on."""

    def __iter__(self) -> Iterator[Change]:
        """Itself."""

    def __next__(self) -> Change:
        """The next one, as soon as it comes."""

    def close(self) -> None:
        """Stop listening."""


class AnyTable(Protocol):
    """What `LocalTable` and `RemoteTable` have in common. Keys are bytes of any kind; looking leaves no trace. Methods raise MemcacheError,
    LocalTable's OSError, too."""

    @property
    def name(self) -> str:
        """The table's name, or its address."""

    def get(self, key: bytes, /) -> bytes | None:
        """The value; None when there is none."""

    def values(self, keys: Sequence[bytes], /) -> Iterator[bytes | None]:
        """Each one's value in turn; None for those that are not there or cannot be asked for."""

    def can_ask(self, key: bytes, /) -> bool:
        """Whether a key that `keys` told can be asked for, too; the protocol cannot name every one."""

    def keys(self, prefix: bytes, /) -> Iterator[bytes]:
        """The keys that begin with `prefix`, in no order, one by one: the whole list is nowhere in memory."""

    def count(self) -> int:
        """The number of items."""

    def set(self, key: bytes, value: bytes, /) -> bool:
        """Store; True."""

    def delete(self, key: bytes, /) -> bool:
        """Remove; False when it was not there."""

    def flush_all(self) -> bool:
        """Remove everything; True."""

    def watch(self, prefix: bytes, /) -> Changes:
        """What changes from now on among the keys that begin with `prefix`, which has no blanks and control characters."""

    def close(self) -> None:
        """Let go of it. A remote table's next call connects anew."""


def open_table(source: str, timeout_s: float = DEFAULT_TIMEOUT_S) -> AnyTable:
    """The table at `source`: a NAME of this host, HOST:PORT, or a socket's path. Raises what `attach` does, or RemoteError."""
    address = source_address(source)
    if address is None:
        return attach_local(source)
    return RemoteTable(address, timeout_s)
