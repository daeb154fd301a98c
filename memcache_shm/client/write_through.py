"""A table that is mapped for reading and changed through its daemon: read directly, write through.

    get, gets, get_many ... -----------------------------------> mapping, read-only
    set, delete, incr, gat ... --> channel --> worker ---------> the same table
    subscribe, wait_for <--------- channel <-- worker              (who listens to the feed of a mapped table has to write there)

A change has been done when its reply has come, so what was written is read. One without a reply (`noreply`) is waited for by the next read.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable
from typing import Any

from memcache_shm.client.addresses import ChannelAddress
from memcache_shm.client.cache import Cache
from memcache_shm.client.connections import Connections
from memcache_shm.client.handling import Handling
from memcache_shm.client.remote_changes import RemoteChanges
from memcache_shm.client.remote_figures import served_uuid
from memcache_shm.client.remote_listening import RemoteListening
from memcache_shm.client.types import Key
from memcache_shm.client.wire import Connection
from memcache_shm.errors import RemoteError
from memcache_shm.storage import registry
from memcache_shm.storage.statefile import State
from memcache_shm.storage.table import Table


class WriteThroughCache(RemoteChanges, RemoteListening, Cache):
    """Made by `memcache_shm.attach` with `writes`. Reads raise what `Cache`'s do, changes what `RemoteCache`'s do.

    What the object's own calls wrote it reads, in every thread, once they have returned: with noreply, too.
    """

    def __init__(self, table: Table, state: State, path: str, timeout_s: float, handling: Handling) -> None:
        """`path` is the socket of the daemon that serves `table`; else RemoteError. `timeout_s` is the limit of each wait for it."""
        Cache.__init__(self, table, state.name, state.directory, **handling.options)
        self.path = path
        self._timeout_s = timeout_s
        self._handling = handling
        self._connections = Connections(ChannelAddress(path), timeout_s, _verifier(self))

    def get(self, key: Key, default: Any = None) -> Any:
        """The value of `key`, or `default` when there is none."""
        if self._connections.unsettled and not self._is_settled():
            return default
        return Cache.get(self, key, default)

    def gets(self, key: Key, default: Any = None, cas_default: Any = None) -> tuple[Any, Any]:
        """(value, CAS id) of `key`, or (`default`, `cas_default`)."""
        if self._connections.unsettled and not self._is_settled():
            return default, cas_default
        return Cache.gets(self, key, default, cas_default)

    def get_many(self, keys: Iterable[Key]) -> dict[Key, Any]:
        """The values of those of `keys` that are there."""
        return Cache.get_many(self, keys) if self._is_settled() else {}

    get_multi = get_many

    def gets_many(self, keys: Iterable[Key]) -> dict[Key, tuple[Any, Any]]:
        """(value, CAS id) of those of `keys` that are there."""
        return Cache.gets_many(self, keys) if self._is_settled() else {}

    gets_multi = gets_many

    def stats(self, *args: str) -> dict[bytes, Any]:
        """The table's figures, as `Cache.stats`."""
        self._connections.settle()
        return Cache.stats(self, *args)

    def close(self) -> None:
        """Detach and disconnect; further calls raise ClosedError. The table stays."""
        self._connections.close()
        Cache.close(self)

    def __contains__(self, key: Key) -> bool:
        return self._is_settled() and Cache.__contains__(self, key)

    def __len__(self) -> int:
        self._connections.settle()
        return Cache.__len__(self)

    def __reduce__(self) -> tuple[Any, ...]:
        return _attach_again, (self.name, self.directory, self.path, self._timeout_s, self.options)

    def __repr__(self) -> str:
        return f"<memcache_shm.Cache {self.name!r} read-only, writes through {self.path!r}>"

    def _is_settled(self) -> bool:
        """Wait for what was sent with noreply, which a get is to find. False: it may be lost; with ignore_exc, else RemoteError."""
        try:
            self._connections.settle()
        except RemoteError:
            if not self._handling.ignore_exc:
                raise
            return False
        return True


def _verifier(cache: WriteThroughCache) -> Callable[[Connection], None]:
    """What refuses connections to who serves another table. Without a reference to `cache`, so that one that is forgotten goes at once."""
    forgettable = weakref.ref(cache)

    def verify(connection: Connection) -> None:
        owner = forgettable()
        if owner is None:
            return
        if served_uuid(connection) != owner.attached_table.uuid:
            raise RemoteError(f"writes: the daemon at {owner.path} serves another table than {owner.name!r}; give the socket of that one's")

    return verify


def _attach_again(name: str, directory: str, path: str, timeout_s: float, options: dict[str, Any]) -> WriteThroughCache:
    """What unpickling calls, in another process as a rule."""
    table, state = registry.attach(name, readonly=True, directory=directory)
    return WriteThroughCache(table, state, path, timeout_s, Handling(**options))
