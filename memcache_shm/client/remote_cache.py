"""The cache object of a program that has not mapped the table: pymemcache's client interface over a channel, a UNIX socket or TCP.

What is not as in `pymemcache.Client`: errors are those of `memcache_shm.Cache`; `default_noreply` is False; `set_many` returns the keys
that did not fit, and stores the others; an object serves any number of threads, works on in forked children, can be pickled; after `close`
a call raises ClosedError. What is not as in `Cache`: with noreply nothing is waited for, so errors of storing are not told; append and
prepend return False also where old and new together would be too large, as memcached's reply does not tell (NOT_STORED); `stats` tells of
the daemon; `subscribe` and `wait_for` need a daemon of this package.
"""

from __future__ import annotations

from collections.abc import Iterable
from types import TracebackType
from typing import Any

from memcache_shm.client.addresses import Address, written
from memcache_shm.client.connections import Connections, batches, pipeline
from memcache_shm.client.handling import Handling
from memcache_shm.client.refusals import failure
from memcache_shm.client.remote_changes import RemoteChanges
from memcache_shm.client.remote_figures import read_figures
from memcache_shm.client.remote_listening import RemoteListening
from memcache_shm.client.remote_values import Value, read_values
from memcache_shm.client.texts import key_word
from memcache_shm.client.types import Key
from memcache_shm.client.wire import Connection
from memcache_shm.errors import ClosedError, MemcacheError

_LINE_BYTES = 2000  # of a request for several keys: every memcached takes as much
_BATCH_BYTES = 1 << 13  # of requests whose replies may be of any length: less than any socket's buffer takes
_MISSING = object()


class RemoteCache(RemoteChanges, RemoteListening):
    """A table behind a stream. Made by `memcache_shm.connect`.

    Calls raise RemoteError when the server cannot be reached, does not answer in time, or the connection is lost amid a change; the next
    call connects anew. With `ignore_exc` a get that fails is a miss.
    """

    def __init__(self, address: Address, timeout_s: float, handling: Handling) -> None:
        self.address = address
        self._timeout_s = timeout_s
        self._handling = handling
        self._connections = Connections(address, timeout_s)

    # Reading

    def get(self, key: Key, default: Any = None) -> Any:
        """The value of `key`, or `default` when there is none."""
        found = self._fetch(b"get ", key)
        return default if found is None else self._handling.loaded(key, found[0], found[1])

    def gets(self, key: Key, default: Any = None, cas_default: Any = None) -> tuple[Any, Any]:
        """(value, CAS id) of `key`, or (`default`, `cas_default`)."""
        found = self._fetch(b"gets ", key)
        return (default, cas_default) if found is None else (self._handling.loaded(key, found[0], found[1]), found[2])

    def get_many(self, keys: Iterable[Key]) -> dict[Key, Any]:
        """The values of those of `keys` that are there."""
        return {key: self._handling.loaded(key, value, flags) for key, (value, flags, _) in self._fetch_many(b"get", keys)}

    get_multi = get_many

    def gets_many(self, keys: Iterable[Key]) -> dict[Key, tuple[Any, Any]]:
        """(value, CAS id) of those of `keys` that are there."""
        return {key: (self._handling.loaded(key, value, flags), cas) for key, (value, flags, cas) in self._fetch_many(b"gets", keys)}

    gets_multi = gets_many

    # The table as a whole

    def stats(self, *args: str) -> dict[bytes, Any]:
        """What the daemon tells, numbers as such; of a group such as "settings" or "shm"."""
        words = [key_word(word, b"", self._handling.allow_unicode_keys) for word in args]
        return self._connections.read(read_figures, b" ".join([b"stats", *words]) + b"\r\n")

    def version(self) -> bytes:
        """The version that the server tells."""
        line = self._connections.read(Connection.ask_line, b"version\r\n")
        if not line.startswith(b"VERSION "):
            raise failure(self._connections.where, line)
        return line[len(b"VERSION ") :]

    def close(self) -> None:
        """Disconnect; further calls raise ClosedError. The table stays."""
        self._connections.close()

    def quit(self) -> None:
        """As `close`."""
        self.close()

    disconnect_all = quit

    # Python's own interfaces

    def __getitem__(self, key: Key) -> Any:
        value = self.get(key)
        if value is None:
            raise KeyError(key)
        return value

    def __contains__(self, key: Key) -> bool:
        return self._fetch(b"get ", key) is not None

    def __len__(self) -> int:
        items = self.stats().get(b"curr_items")
        if not isinstance(items, int):
            raise MemcacheError(f"{self._connections.where}: the server does not tell how many items it has")
        return items

    def __bool__(self) -> bool:
        return True  # an empty cache is still a cache: `if cache:` asks whether there is one

    def __enter__(self) -> RemoteCache:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def __reduce__(self) -> tuple[Any, ...]:
        return _connect_again, (self.address, self._timeout_s, self._handling.options)

    def __repr__(self) -> str:
        return f"<memcache_shm.RemoteCache {written(self.address)!r}>"

    # Beneath

    def _fetch_many(self, command: bytes, keys: Iterable[Key]) -> Iterable[tuple[Key, Value]]:
        """Those of `keys` that are there, in their order; none when it failed, with ignore_exc."""
        words = {key: self._handling.word(key) for key in keys}
        requests = [b"%b %b\r\n" % (command, b" ".join(some)) for some in batches(words.values(), _LINE_BYTES)]
        try:
            found = self._connections.read(_fetch_values, requests)
        except ClosedError:
            raise
        except MemcacheError:
            if not self._handling.ignore_exc:
                raise
            found = {}
        return [(key, found[word]) for key, word in words.items() if word in found]


def _fetch_values(connection: Connection, requests: list[bytes]) -> dict[bytes, Value]:
    found: dict[bytes, Value] = {}
    pipeline(connection, batches(requests, _BATCH_BYTES), lambda connection: read_values(connection, found))
    return found


def _connect_again(address: Address, timeout_s: float, options: dict[str, Any]) -> RemoteCache:
    """What unpickling calls, in another process as a rule."""
    return RemoteCache(address, timeout_s, Handling(**options))
