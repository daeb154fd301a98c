"""One epoll for descriptors and what is to be called when they are ready. It knows nothing of its users."""

from __future__ import annotations

import select
from collections.abc import Callable

READ = select.EPOLLIN
WRITE = select.EPOLLOUT
BROKEN = select.EPOLLERR  # a pipe that has no reader any more; always reported
ENDED = select.EPOLLHUP  # a pipe that has no writer any more; always reported

Ready = Callable[[int], None]  # gets the events, as bits


class DescriptorLoop:
    """All descriptors of a process that it waits for."""

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._ready: dict[int, Ready] = {}

    def watch(self, descriptor: int, events: int, ready: Ready) -> None:
        """Call `ready` whenever some of `events` is so; 0: for what is always reported."""
        if descriptor in self._ready:
            self._epoll.modify(descriptor, events)
        else:
            self._epoll.register(descriptor, events)
        self._ready[descriptor] = ready

    def forget(self, descriptor: int) -> None:
        """Report nothing of it any more. To be called before it is closed; harmless for one that is not watched."""
        if self._ready.pop(descriptor, None) is not None:
            self._epoll.unregister(descriptor)

    def run(self, limit_s: float) -> None:
        """Wait for events, `limit_s` at most, and call once for each descriptor that has some; one that is forgotten by such a call is not
        called any more. What such a call opens may be watched only after this has returned: its number may be one that was closed."""
        for descriptor, events in self._epoll.poll(limit_s):
            ready = self._ready.get(descriptor)
            if ready is not None:
                ready(events)

    def close(self) -> None:
        """Its own descriptor; those that it watched are their owners'."""
        self._epoll.close()
        self._ready.clear()
