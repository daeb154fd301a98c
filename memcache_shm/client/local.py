"""A table of this host, attached to look at it and to change single items: beside `remote`, with the same methods."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence

from memcache_shm.client.changes import EVERYTHING
from memcache_shm.client.feed import AttachedFeed
from memcache_shm.client.raw import RawTable
from memcache_shm.client.subscription import Subscription
from memcache_shm.storage import registry


class LocalTable(RawTable):
    """An attached table; keys are bytes of any kind. Methods raise what `Cache`'s do; the next call finds a removed table's successor."""

    def can_ask(self, key: bytes) -> bool:
        """Whether `key` can be asked for: always."""
        return True

    def values(self, keys: Sequence[bytes]) -> Iterator[bytes | None]:
        """The value of each of `keys` in turn, None for those that are not there."""
        for key in keys:
            yield self.get(key)

    def watch(self, prefix: bytes) -> Subscription:
        """The changes from now on of keys that begin with `prefix`. Raises as `Cache.subscribe`."""
        return Subscription(AttachedFeed(self, (prefix + EVERYTHING,)))

    def count(self) -> int:
        """The number of items."""
        return len(self)


def attach_local(name: str) -> LocalTable:
    """The table `name`; read-only where its rights allow no more. Raises as `attach` does."""
    with contextlib.suppress(PermissionError):
        return _attach(name, False)
    return _attach(name, True)


def _attach(name: str, readonly: bool) -> LocalTable:
    table, state = registry.attach(name, readonly=readonly)
    return LocalTable(table, name, state.directory)
