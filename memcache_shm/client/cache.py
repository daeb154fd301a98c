"""The cache object: pymemcache's client interface on a table that this process has mapped.

What is the same as in `pymemcache.Client`: names, arguments, defaults, return values, what input is refused. What is not:

- `default_noreply` is False: there is no round trip to save, so `add`, `delete` and the others tell what really happened.
  With noreply=True they return True as pymemcache's do.
- Errors of storing (TooLargeError, NoSpaceError, BusyError) are raised with noreply, too.
- `set_many` returns the keys that did not fit, and stores the others.
- After `close` a call raises ClosedError; pymemcache would connect anew.
- `stats` knows no arguments but "shm" and "settings"; `cache_memlimit`, `shutdown` and `raw_command` belong to a daemon.

One object serves any number of threads, works on in forked children, and can be pickled to spawned ones, which attach anew.
"""

from __future__ import annotations

import os
import struct
import time
from collections.abc import Iterable, Mapping
from types import TracebackType
from typing import Any

from memcache_shm.client.attached import Attached
from memcache_shm.client.feed import AttachedFeed
from memcache_shm.client.subscription import Subscription, wait_for
from memcache_shm.client.types import Key
from memcache_shm.errors import IllegalInputError, NoSpaceError, TooLargeError
from memcache_shm.storage import following, registry
from memcache_shm.version import WIRE_VERSION

_MISSING = object()


class Cache(Attached):
    """A table, attached. Made by `memcache_shm.open` and `memcache_shm.attach`."""

    __slots__ = ("__weakref__",)

    # Several keys

    def get_many(self, keys: Iterable[Key]) -> dict[Key, Any]:
        """The values of those of `keys` that are there."""
        found = {}
        for key in keys:
            value = self.get(key, _MISSING)
            if value is not _MISSING:
                found[key] = value
        return found

    get_multi = get_many

    def gets_many(self, keys: Iterable[Key]) -> dict[Key, tuple[Any, Any]]:
        """(value, CAS id) of those of `keys` that are there."""
        found = {}
        for key in keys:
            value, cas = self.gets(key, _MISSING)
            if value is not _MISSING:
                found[key] = value, cas
        return found

    gets_multi = gets_many

    def set_many(self, values: Mapping[Key, Any], expire: int = 0, noreply: bool | None = None, flags: int | None = None) -> list[Key]:
        """Store every pair; returns the keys whose values did not fit (too large, or full with eviction off)."""
        failed = []
        for key, value in values.items():
            try:
                self.set(key, value, expire, noreply, flags)
            except (TooLargeError, NoSpaceError):
                failed.append(key)
        return failed

    set_multi = set_many

    def delete_many(self, keys: Iterable[Key], noreply: bool | None = None) -> bool:
        """Remove every one of `keys`, there or not. True."""
        for key in keys:
            self.delete(key, noreply)
        return True

    delete_multi = delete_many

    # Changes

    def subscribe(self, *patterns: Key) -> Subscription:
        """What changes from now on: iterate over it (`for` or `async for`), or `get` the next `Change`.

        `patterns` are keys, or prefixes with ``*`` at their end; none: every key. (A key that itself ends in ``*`` is told to who asks for
        the prefix.) Changes by every door are told, of this process, too. Keys come as bytes without `key_prefix`, values through `serde`.
        Raises ReadOnlyError (listen through a daemon: `connect`, or `attach` with `writes`), FeedOffError, IllegalInputError.
        """
        return Subscription(AttachedFeed(self, patterns), self.options["serde"])

    def wait_for(self, key: Key, timeout: float | None = None, default: Any = None) -> Any:
        """The value of `key`, as soon as it is there; `default` when it does not come within `timeout` seconds. Raises as `subscribe`."""
        return wait_for(self, key, timeout, default, lambda: AttachedFeed(self, (key,)))

    # The table as a whole

    def stats(self, *args: str) -> dict[bytes, Any]:
        """The table's figures under memcached's names; with "shm" its own, with "settings" how it was made."""
        table = self.attached_table
        if args == ("settings",):
            return {
                b"maxbytes": table.geometry.segment_bytes,
                b"item_size_max": table.max_value,
                b"evictions": b"on" if table.evicts else b"off",
            }
        if args not in ((), ("shm",)):
            raise IllegalInputError(f'stats: {" ".join(map(str, args))!r} is for a daemon; here "shm" and "settings" are known')
        figures = {name.encode("ascii"): figure for name, figure in table.stats().items()}
        if args:
            own = {name[len(b"shm_") :]: figure for name, figure in figures.items() if name.startswith(b"shm_")}
            return own | {name.encode("ascii"): figure for name, figure in following.figures(table).items()}
        general = {
            b"pid": os.getpid(),
            b"time": int(time.time()),
            b"version": self.version(),
            b"pointer_size": struct.calcsize("P") * 8,
        }
        return general | {name: figure for name, figure in figures.items() if not name.startswith(b"shm_")}

    def version(self) -> bytes:
        """The version that a daemon of this package would tell."""
        return WIRE_VERSION.encode("ascii")

    def quit(self) -> None:
        """As `close`."""
        self.close()

    disconnect_all = quit

    # Python's own interfaces

    def __enter__(self) -> Cache:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def __reduce__(self) -> tuple[Any, ...]:
        return _attach_again, (self.name, self.directory, self.readonly, self.options)

    def __repr__(self) -> str:
        return f"<memcache_shm.Cache {self.name!r}{' read-only' if self.readonly else ''}>"


def _attach_again(name: str, directory: str, readonly: bool, options: dict[str, Any]) -> Cache:
    """What unpickling calls, in another process as a rule."""
    table, state = registry.attach(name, readonly=readonly, directory=directory)
    return Cache(table, name, state.directory, **options)
