"""What a listener is told: helpers for tests of subscriptions and streams."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import memcache_shm
from memcache_shm import Change
from support.waiting import until

LIMIT_S = 20.0


def drained(subscription: memcache_shm.Subscription) -> Iterator[Change]:
    """What there is to be told by now."""
    while (change := subscription.get(0)) is not None:
        yield change


def hear(subscription: memcache_shm.Subscription, count: int) -> list[Change]:
    """The next so many changes."""
    heard = [subscription.get(LIMIT_S) for _ in range(count)]
    assert None not in heard
    return [change for change in heard if change is not None]


def pairs(changes: Any) -> list[tuple[str, bytes | None]]:
    """Kind and key of each."""
    return [(change.kind, change.key) for change in changes]


def hear_until(subscription: memcache_shm.Subscription, wanted: Callable[[Change], bool], what: str) -> list[Change]:
    """All changes up to the first that is `wanted`."""
    heard: list[Change] = []

    def found() -> bool:
        for change in drained(subscription):
            heard.append(change)
            if wanted(change):
                return True
        return False

    until(found, what, LIMIT_S)
    return heard


class Picture:
    """The items that a subscription's changes come to."""

    def __init__(self) -> None:
        self.values: dict[bytes, bytes] = {}
        self.lost = 0

    def take(self, change: Change) -> None:
        if change.kind == "set":
            assert change.key is not None
            self.values[change.key] = change.value
        elif change.kind in ("flush", "lost"):
            self.values.clear()
            self.lost += change.kind == "lost"
        elif change.kind != "touch":
            assert change.key is not None
            self.values.pop(change.key, None)
