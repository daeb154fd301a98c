"""Hearing of changes as they happen: an iterator over the feed of a table, attached or behind a stream, for threads and for asyncio."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING, Any, Protocol

from memcache_shm.client.changes import Change
from memcache_shm.client.types import Serde
from memcache_shm.errors import ClosedError

if TYPE_CHECKING:  # asyncio and the rest take longer to import than this package; who uses them has them
    from concurrent.futures import ThreadPoolExecutor

_SLICE_S = 0.1  # of waiting; also how long a thread outlives a cancelled wait
_DRAINED = 64  # changes in a row before the event loop's other tasks have their turn


class Feed(Protocol):
    """A place in a table's feed, for any number of threads, and for forked children."""

    closed: bool

    def poll(self) -> Change | None:
        """The next change, None when there is none by now. It never waits. Raises MemcacheError; ClosedError at its end."""

    def wait(self, limit_s: float, /) -> None:
        """Sleep until `poll` may have something, `limit_s` seconds at most. Nothing is lost with a wait that is given up."""

    def close(self) -> None:
        """Stop listening; who waits gets ClosedError from `poll`. It waits for nothing."""


class Subscription:
    """The changes of some keys, from the moment it was made; made by `subscribe` of a cache object.

    Changes of one key come in their order, those of different keys maybe not. Of several changes of a key that come faster than they are
    asked for, earlier ones may be left out, the last never. Who does not ask for five seconds, or falls behind by more than the feed holds,
    is told `lost`, and then everything that is there as `set`; so it is, too, when the table was removed and its name leads to another one.
    Any number of threads may share it: each change goes to one of them. It works on in a forked child, as a subscription of its own.

    Of an attached table it raises TableRemovedError when the table is gone (once there is another under its name, the next call goes on
    there) and BusyError. That of a `RemoteCache` has a connection of its own. When that is lost it connects again by itself, for as long as
    it takes, and tells `lost` and everything that is there; so it does in a forked child. A daemon that lets nobody list its keys (``-X``)
    tells `lost` only.

    Both raise FeedOffError, ClosedError after `close`, and what the cache's serde raises for a value.
    """

    def __init__(self, feed: Feed, serde: Serde | None = None) -> None:
        self._serde = serde
        self._feed = feed
        self._waiter: tuple[int, ThreadPoolExecutor] | None = None  # pid it belongs to, and the thread that waits for a coroutine
        self._drained = 0  # changes that a coroutine got in a row without a wait

    def get(self, timeout: float | None = None) -> Change | None:
        """The next change; None when none came within `timeout` seconds (None: no limit)."""
        end_s = None if timeout is None else time.monotonic() + timeout
        while True:
            change = self._feed.poll()
            if change is not None:
                return self._deserialized(change)
            left_s = _SLICE_S if end_s is None else end_s - time.monotonic()
            if left_s <= 0:
                return None
            self._feed.wait(left_s)

    def close(self) -> None:
        """Stop listening; whoever waits in another thread or task ends, as at the end of the changes."""
        self._feed.close()
        if self._waiter is not None and self._waiter[0] == os.getpid():
            self._waiter[1].shutdown(wait=False)
        self._waiter = None

    def __iter__(self) -> Subscription:
        return self

    def __next__(self) -> Change:
        try:
            change = self.get()
        except ClosedError:
            raise StopIteration from None
        assert change is not None  # without a limit
        return change

    def __aiter__(self) -> Subscription:
        return self

    async def __anext__(self) -> Change:
        """The waiting is done by a thread, which takes nothing from the feed: a wait that is cancelled loses no change."""
        import asyncio

        try:
            if self._drained == _DRAINED:
                self._drained = 0
                await asyncio.sleep(0)
            while (change := self._feed.poll()) is None:
                self._drained = 0
                await asyncio.get_running_loop().run_in_executor(self._executor(), self._feed.wait, _SLICE_S)
        except ClosedError:
            raise StopAsyncIteration from None
        except RuntimeError:
            if not self._feed.closed:  # else closed just before the executor was asked
                raise
            raise StopAsyncIteration from None
        self._drained += 1
        return self._deserialized(change)

    def __enter__(self) -> Subscription:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def _executor(self) -> ThreadPoolExecutor:
        """A thread of its own: waiting all the time, it would take one from everybody else's executor."""
        if self._waiter is None or self._waiter[0] != os.getpid():
            from concurrent.futures import ThreadPoolExecutor

            self._waiter = os.getpid(), ThreadPoolExecutor(1, "memcache_shm-subscription")
        return self._waiter[1]

    def _deserialized(self, change: Change) -> Change:
        if self._serde is None or change.value is None:
            return change
        return change._replace(value=self._serde.deserialize(change.key, change.value, change.flags))


def wait_for(cache: Any, key: str | bytes, timeout: float | None, default: Any, listen: Callable[[], Feed]) -> Any:
    """The value of `key` once it is there, `default` when it does not come within `timeout` seconds. `listen` begins to hear of `key`."""
    missing = object()
    value = cache.get(key, missing)
    if value is not missing:
        return value
    end_s = None if timeout is None else time.monotonic() + timeout
    feed = listen()
    try:
        while (value := cache.get(key, missing)) is missing:
            if not _comes(feed, end_s):
                return default
        return value
    finally:
        feed.close()


def _comes(feed: Feed, end_s: float | None) -> bool:
    """Whether something happened to the key by `end_s` (None: no limit)."""
    while feed.poll() is None:
        left_s = _SLICE_S if end_s is None else end_s - time.monotonic()
        if left_s <= 0:
            return False
        feed.wait(left_s)
    return True
