"""Hearing of changes through a daemon: the half of `RemoteCache` that `WriteThroughCache` has, too, since who listens has to write."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from memcache_shm.client.changes import check_patterns, encode_pattern
from memcache_shm.client.connections import Connections
from memcache_shm.client.handling import Handling
from memcache_shm.client.subscribed import SubscribedFeed
from memcache_shm.client.subscription import Subscription, wait_for
from memcache_shm.client.types import Key


class RemoteListening:
    """`subscribe` and `wait_for`."""

    _connections: Connections
    _handling: Handling

    def subscribe(self, *patterns: Key) -> Subscription:
        """What changes from now on: iterate over it (`for` or `async for`), or `get` the next `Change`.

        `patterns` are keys, or prefixes with ``*`` at their end; none: every key. As `Cache.subscribe`, on a connection of its own, made
        anew when it is lost. Raises IllegalInputError, FeedOffError, and RemoteError: nobody answers, or a memcached, or it refuses
        (``-W``).
        """
        return Subscription(self._listen(patterns), self._handling.serde)

    def wait_for(self, key: Key, timeout: float | None = None, default: Any = None) -> Any:
        """The value of `key`, as soon as it is there; `default` when it does not come within `timeout` seconds. Raises as `subscribe`."""
        return wait_for(self, key, timeout, default, lambda: self._listen((key,)))

    def _listen(self, patterns: tuple[Key, ...]) -> SubscribedFeed:
        encoded: Sequence[bytes] = [
            encode_pattern(pattern, self._handling.allow_unicode_keys, self._handling.key_prefix) for pattern in check_patterns(patterns)
        ]
        return SubscribedFeed(self._connections, encoded, len(self._handling.key_prefix))
