"""A thread that waits for a feed, since epoll cannot: it sleeps in a futex and rings through an eventfd.

It takes nothing from the feed. Once it has rung it waits until it is armed again, so who is slow is not rung for all the time.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time

from memcache_shm.client.feed import AttachedFeed

_SLICE_S = 0.1  # it rings so often in any case: the lease on the feed is renewed by who answers
_PAUSE_S = 0.001  # between two rings at least, however busy the writers are


class Bell:
    """Of one feed, from `arm` to `arm`; `descriptor` is an eventfd, which the owner of the feed waits for and empties."""

    def __init__(self, feed: AttachedFeed, descriptor: int) -> None:
        self._feed = feed
        self._descriptor = descriptor
        self._armed = threading.Event()
        self._over = False
        self._thread = threading.Thread(target=self._run, name="memcache_shm-bell", daemon=True)
        self._thread.start()

    def arm(self) -> None:
        """All was taken from the feed; ring when there may be more."""
        self._armed.set()

    def end(self) -> None:
        """Let the thread end, within a tenth of a second; it is not waited for."""
        self._over = True
        self._armed.set()

    def _run(self) -> None:
        while True:
            self._armed.wait()
            self._armed.clear()
            if self._over:
                return
            self._feed.wait(_SLICE_S)
            ring(self._descriptor)
            time.sleep(_PAUSE_S)


def ring(descriptor: int) -> None:
    """Make the eventfd ready."""
    with contextlib.suppress(BlockingIOError):  # rung for 2^64 times: ready it is
        os.eventfd_write(descriptor, 1)


def silence(descriptor: int) -> None:
    """Make it not ready."""
    with contextlib.suppress(BlockingIOError):  # it was not
        os.eventfd_read(descriptor)
