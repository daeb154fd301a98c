"""A place in the feed of a table behind a stream: what a `Subscription` polls there, as `AttachedFeed` is for a mapped table.

    connected: whoever comes first receives, for all; LOST -> ask for all that is there (`sync`)
    connection lost: a thread connects, after longer pauses each time -> `lost`, and ask for all that is there -> connected

`poll` never waits, not even for a connection; `wait` does, and what it receives stays here for the next `poll`. As long as there is
something nothing more is received: so no more is held than came at once.
"""

from __future__ import annotations

import logging
import os
import threading
import time
import weakref
from collections import deque
from collections.abc import Iterator, Sequence

from memcache_shm.client.changes import ALIVE, SYNCED, Change
from memcache_shm.client.connections import Connections
from memcache_shm.client.remote_feed import RemoteStream
from memcache_shm.client.retrying import pauses
from memcache_shm.errors import ClosedError, MemcacheError, RemoteError

_SLICE_S = 0.1  # of waiting, between two looks whether it was closed
_log = logging.getLogger(__name__)


class SubscribedFeed:
    """The changes of some keys, from now on, on a connection of its own. Any number of threads may use it; a forked child connects anew.

    After `lost` all that is there is told, as `set`, unless the daemon lets nobody list its keys (``-X``). When it is made it raises
    RemoteError and FeedOffError; later a lost connection is no error.
    """

    def __init__(self, connections: Connections, patterns: Sequence[bytes], prefix_bytes: int) -> None:
        """`prefix_bytes`: of each key, which its user does not see. It is over when `connections` are closed."""
        self.closed = False
        self._connections = connections
        self._patterns = patterns
        self._prefix_bytes = prefix_bytes
        self._begin()
        self._stream: RemoteStream | None = connections.subscribe(patterns)  # None: the connection was lost, a thread makes another

    def _begin(self) -> None:
        """At first, and in a forked child."""
        self._pid = os.getpid()
        self._ready: deque[Change] = deque()  # received, to be told; its methods are atomic
        self._receiving = threading.Lock()  # of who receives
        self._connected = threading.Event()  # by the thread; `close` has no part in it, since a handler may call that amid a wait
        self._problem: MemcacheError | None = None  # why it cannot be listened to, other than that nobody is there
        self._asked = False  # for all that is there, not all of which has come
        self._again = False  # something was lost since
        self._pauses: Iterator[float] = pauses()  # between connections, until all was told once

    def poll(self) -> Change | None:
        """The next change, None when there is none by now. Raises ClosedError; FeedOffError, after which it may be called again."""
        self._own()
        if self.closed or self._connections.closed:
            self.close()
            raise ClosedError("the subscription is closed; subscribe again")
        if not self._ready and self._receiving.acquire(blocking=False):
            try:
                self._receive(0.0)
            finally:
                self._receiving.release()
        try:
            return self._ready.popleft()
        except IndexError:
            if self._problem is not None:
                raise self._problem from None
            return None

    def wait(self, limit_s: float) -> None:
        """Sleep until `poll` may have something, `limit_s` seconds at most, and a tenth of a second at most."""
        self._own()
        limit_s = max(0.0, min(limit_s, _SLICE_S))
        if self._stream is None:
            self._connected.wait(limit_s)
        elif self._receiving.acquire(timeout=limit_s):
            try:
                self._receive(limit_s)
            finally:
                self._receiving.release()

    def close(self) -> None:
        """Stop listening. Whoever waits gets ClosedError from its next `poll`. It waits for nothing; for signal handlers, too."""
        self._own()
        self.closed = True
        if self._stream is not None:
            self._stream.close()

    def resume(self, stream: RemoteStream | None, problem: MemcacheError | None) -> bool:
        """Of the thread that connects: go on with `stream`; None: `problem` is why there is none. False: try again later."""
        if stream is None:
            self._problem = None if isinstance(problem, RemoteError) else problem
            return self.closed or self._connections.closed
        try:
            self._ask(stream)
        except RemoteError:
            stream.close()
            return False
        self._again = False
        self._problem = None
        self._ready.append(Change("lost", None))
        self._stream = stream
        if self.closed:  # by who did not see the stream
            stream.close()
        return True

    # Beneath

    def _receive(self, limit_s: float) -> None:
        """Take what comes within the limit, unless there is something already. Of who receives."""
        stream = self._stream
        if self._ready or stream is None:
            return
        try:
            for change in stream.read(limit_s):
                self._take(change, stream)
        except RemoteError as error:
            stream.close()
            if not self.closed:
                _log.warning("subscription: %s; connecting again", str(error))  # the error itself would keep this object
        except BaseException:  # by a signal's handler, or memory is out: what has come may be lost
            stream.close()
            raise
        if stream.closed and not self.closed:
            self._connect_anew(stream)

    def _take(self, change: Change, stream: RemoteStream) -> None:
        """What the stream tells. RemoteError."""
        if change.kind == SYNCED:
            self._asked = False
            self._pauses = pauses()
        if change.kind == "lost" or (change.kind == SYNCED and self._again):
            self._again = self._asked  # one at a time: losses that come faster than all is told must not pile up
            if not self._asked:
                self._ask(stream)
        if change.kind not in (SYNCED, ALIVE):
            self._ready.append(change if change.key is None else change._replace(key=change.key[self._prefix_bytes :]))

    def _ask(self, stream: RemoteStream) -> None:
        """For all that is there. RemoteError."""
        stream.send(b"sync\r\n")
        self._asked = True

    def _connect_anew(self, stream: RemoteStream | None) -> None:
        """In place of `stream`, which is closed. RuntimeError: there is no thread for it; whoever receives next tries again."""
        self._stream = None
        self._connected.clear()
        words = weakref.ref(self), self._connections, self._patterns, self._pauses, self._connected
        try:
            threading.Thread(target=_reconnect, args=words, name="memcache_shm-reconnect", daemon=True).start()
        except RuntimeError:
            self._stream = stream
            raise

    def _own(self) -> None:
        """In a forked child: connect anew. The parent's connection stays the parent's."""
        if self._pid != os.getpid():
            stream, self._stream = self._stream, None  # at once: none of the child's threads may read it
            self._begin()
            if stream is not None:
                stream.close()
            if not self.closed:
                self._connect_anew(stream)


def _reconnect(
    forgettable: weakref.ref[SubscribedFeed],
    connections: Connections,
    patterns: Sequence[bytes],
    some_pauses: Iterator[float],
    connected: threading.Event,
) -> None:
    """The thread that lives while there is no connection, and no longer than the feed."""
    for pause_s in some_pauses:
        time.sleep(pause_s)
        feed = forgettable()
        if feed is None or feed.closed:
            return
        del feed
        stream = problem = None
        try:
            stream = connections.subscribe(patterns)
        except MemcacheError as error:
            problem = error
        feed = forgettable()
        if feed is None:
            if stream is not None:
                stream.close()
            return
        if feed.resume(stream, problem):
            connected.set()
            return
        del feed
