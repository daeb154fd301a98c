"""The thread that keeps a mirror in step with its source: connects, copies, follows, and begins anew when the source went away.

    connect -> all items, then "synced" -> changes ... -> the source is gone -> wait, longer each time -> connect

While there is no source the items stay as they were. When it comes again they are told anew; what is not among them is gone.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import Protocol

from memcache_shm.client.addresses import lasting_address, source_address
from memcache_shm.client.api import attach
from memcache_shm.client.changes import SYNCED, Change
from memcache_shm.client.feed import AttachedFeed
from memcache_shm.client.mirrored import MirroredItems
from memcache_shm.client.remote_feed import SILENCE_S, RemoteFeed
from memcache_shm.client.retrying import pauses
from memcache_shm.errors import MemcacheError, ReadOnlyError

_READ_S = 0.1  # between two looks at the clock, and whether it is to end
_log = logging.getLogger(__name__)


class Stream(Protocol):
    """A source's changes: all items first, then "synced", then what changes."""

    def read(self, limit_s: float, /) -> list[Change]:
        """The next changes; none if none came within the limit. Raises MemcacheError."""

    def __enter__(self) -> Stream: ...

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None, /) -> None: ...


class AttachedStream:
    """That of a table of this host. Raises as `attach` and `AttachedFeed`, and ReadOnlyError without the right to write."""

    def __init__(self, name: str) -> None:
        try:
            self._cache = attach(name)
        except PermissionError as error:
            raise ReadOnlyError(f"{error}; or listen through its daemon: give HOST:PORT or a socket's path in place of the name") from None
        try:
            self._feed = AttachedFeed(self._cache, (), True)
        except BaseException:
            self._cache.close()
            raise

    def read(self, limit_s: float) -> list[Change]:
        """As `AttachedFeed.read`."""
        return self._feed.read(limit_s)

    def __enter__(self) -> AttachedStream:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._feed.close()
        self._cache.close()


def opener(source: str) -> Callable[[], Stream]:
    """What connects to `source`: a table's NAME, HOST:PORT, a socket's path or a channel; from any directory later. IllegalInputError."""
    address = source_address(source)
    if address is None:
        return lambda: AttachedStream(source)
    return RemoteFeed(lasting_address(address), SILENCE_S).sync


class Keeper:
    """The thread's side of a mirror. It has no reference to the mirror, so that one that is forgotten ends."""

    def __init__(self, connect: Callable[[], Stream], on_change: Callable[[Change], object] | None, initial: bool) -> None:
        self.mirrored = MirroredItems()
        self.in_step = threading.Event()  # the copy is complete, and its source is there
        self.settled = threading.Event()  # it was `complete` once, or `problem` is why it could not be
        self.complete = False  # it was, at least once
        self.problem: Exception | None = None  # of the last attempt
        self._connect = connect
        self._on_change = on_change
        self._tells = initial  # whether changes are told; those of the first copy only if that is wanted
        self._ending = threading.Event()
        self._pid = os.getpid()
        self._thread = threading.Thread(target=self._run, name="memcache_shm-mirror", daemon=True)
        self._thread.start()

    def end(self) -> None:
        """Let the thread end, within a tenth of a second unless it is amid a callback or a connect. Idempotent.

        A forked child has no such thread, and touches nothing that it may have held.
        """
        if os.getpid() == self._pid:
            self._ending.set()

    def join(self, limit_s: float) -> None:
        """Wait for the thread's end, unless this is it."""
        if threading.current_thread() is not self._thread:
            self._thread.join(limit_s)

    def _run(self) -> None:
        """The thread. However it ends, nobody may believe that it still follows."""
        try:
            self._keep()
        except BaseException as error:
            self.problem = MemcacheError(f"the thread that kept the mirror in step ended with {error!r}; make another mirror")
            self.settled.set()
            raise
        finally:
            self.in_step.clear()

    def _keep(self) -> None:
        to_wait = pauses()
        while not self._ending.is_set():
            try:
                with self._connect() as stream:
                    self._follow(stream)
            except Exception as problem:  # noqa: BLE001  # whatever it is, the thread must not end with it: nobody would notice
                known = isinstance(problem, MemcacheError | OSError)
                if self.in_step.is_set() or not known:
                    to_wait = pauses()
                    _log.log(logging.WARNING if known else logging.ERROR, "mirror: %s; trying again", problem, exc_info=not known)
                self.in_step.clear()
                self.problem = problem
                self.settled.set()
            self._ending.wait(next(to_wait))

    def _follow(self, stream: Stream) -> None:
        """Apply and tell what comes."""
        self.mirrored.begin()
        while not self._ending.is_set():
            for change in stream.read(_READ_S):
                if change.kind == "lost":
                    self.in_step.clear()
                for outcome in self.mirrored.apply(change):
                    self._tell(outcome)
                if change.kind == SYNCED:
                    self._tells = True
                    self.problem = None
                    self.complete = True
                    self.in_step.set()
                    self.settled.set()
            for outcome in self.mirrored.expire(time.time()):
                self._tell(outcome)

    def _tell(self, change: Change) -> None:
        if self._on_change is None or not self._tells:
            return
        try:
            self._on_change(change)
        except BaseException:  # noqa: BLE001  # a user's mistake, of any kind, sys.exit() too; the mirror goes on
            _log.exception("mirror: on_change failed at %s of %r", change.kind, change.key)
