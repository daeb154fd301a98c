"""The items of a mirror: what a stream of changes comes to.

One thread applies changes; any number of others read `items`, each step of which is one operation on a dict.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable
from typing import NamedTuple

from memcache_shm.client.changes import SYNCED, Change

_DUE_SPARE = 1024  # entries of `_due` that are of no use any more, before all are made anew


class Item(NamedTuple):
    """An item of a mirror. `exptime` is unix time in whole seconds, 0 for never."""

    value: bytes
    flags: int
    exptime: int
    cas: int

    def is_over(self, now_s: float) -> bool:
        """Whether its time is over."""
        return 0 < self.exptime <= now_s


class MirroredItems:
    """A copy that is made, and made anew, by `begin`, the source's changes and "synced". Methods return the changes that came of it: none
    where nothing is other than before."""

    def __init__(self) -> None:
        self.items: dict[bytes, Item] = {}
        self._over: dict[bytes, Item] = {}  # expired by this host's clock; the source, whose clock counts, may still give them more time
        self._judged_s = 0.0  # the time by which all of `_over` is over
        self._due: list[tuple[int, bytes]] = []  # heap of (exptime, key); entries may be out of date
        self._again: set[bytes] | None = set()  # keys told since the copy began; None: it is complete

    def begin(self) -> None:
        """All items are going to come, again: what has not by the next "synced" is gone."""
        self._again = set()

    def apply(self, change: Change) -> Iterable[Change]:
        """What the source has told."""
        if change.kind == "set":
            return self._set(change)
        if change.kind == "touch":
            return self._touch(change)
        if change.kind == "flush":
            self.items, self._over, self._due = {}, {}, []
            if self._again is not None:
                self._again = set()
            return (change,)
        if change.kind == "lost":
            self.begin()
            return (change,)
        if change.kind == SYNCED:
            return self._synced()
        return self._remove(change) if change.key is not None else ()

    def expire(self, now_s: float) -> Iterable[Change]:
        """Put aside what is over, and back what is not over any more, since the clock was ahead of time."""
        back = self._back(now_s) if now_s < self._judged_s else []
        self._judged_s = now_s
        gone = []
        while self._due and self._due[0][0] <= now_s:
            _, key = heapq.heappop(self._due)
            item = self.items.get(key)
            if item is not None and item.is_over(now_s):
                self._over[key] = item
                del self.items[key]
                gone.append(Change("expire", key, cas=item.cas))
        return back + gone

    def count(self, now_s: float) -> int:
        """How many items are not over. For any thread."""
        due = self._due[:1]
        if not due or due[0][0] > now_s:
            return len(self.items)
        return sum(not item.is_over(now_s) for item in self.items.copy().values())

    def _set(self, change: Change) -> Iterable[Change]:
        assert change.key is not None
        item = Item(change.value, change.flags, change.exptime, change.cas)
        if self._again is not None:
            self._again.add(change.key)
        if self._over and self._over.get(change.key) == item:
            return ()
        self._over.pop(change.key, None)
        old = self.items.get(change.key)
        if old == item:
            return ()
        self._store(change.key, item)
        if old is not None and old.cas == item.cas and old._replace(exptime=item.exptime) == item:
            return (change._replace(kind="touch", value=None),)  # told with the value, as it might not have been here any more
        return (change,)

    def _touch(self, change: Change) -> Iterable[Change]:
        """One of a key that is not there is followed by its item, since the copy is under way."""
        assert change.key is not None
        old = self.items.get(change.key) or self._over.get(change.key)
        if old is None:
            return ()
        item = Item(old.value, change.flags, change.exptime, change.cas)
        if item == old:
            return ()
        back = self._over.pop(change.key, None) is not None
        self._store(change.key, item)
        return (change._replace(kind="set", value=item.value) if back else change,)

    def _remove(self, change: Change) -> Iterable[Change]:
        assert change.key is not None
        if self._again is not None:
            self._again.discard(change.key)
        self._over.pop(change.key, None)
        return () if self.items.pop(change.key, None) is None else (change,)

    def _synced(self) -> Iterable[Change]:
        again, self._again = self._again, None
        if again is None:
            return ()
        for key in self._over.keys() - again:
            del self._over[key]
        return [Change("delete", key, cas=self.items.pop(key).cas) for key in self.items.keys() - again]

    def _back(self, now_s: float) -> list[Change]:
        """Put back what is not over at an earlier time than the last."""
        back = [(key, item) for key, item in self._over.items() if not item.is_over(now_s)]
        for key, item in back:
            del self._over[key]
            self._store(key, item)
        return [Change("set", key, *item) for key, item in back]

    def _store(self, key: bytes, item: Item) -> None:
        self.items[key] = item
        if item.exptime:
            heapq.heappush(self._due, (item.exptime, key))
            if len(self._due) > 2 * len(self.items) + _DUE_SPARE:
                self._due = [(item.exptime, key) for key, item in self.items.items() if item.exptime]
                heapq.heapify(self._due)
