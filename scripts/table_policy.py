"""Our table's eviction as a model in Python: no bytes, no shards, no locks, but its classes, counters, ghost words and two hands."""

from __future__ import annotations

from hashlib import blake2b

from policies import MAX_USES, Policy

ITEMS_PER_BUCKET = 7.5  # of a full table
GHOSTS = 5  # a bucket: 12 bits each, 60 of a word of 64
FINGERPRINT_BITS = 11  # of the hash, and one bit for the class

# The share of the new items. It moves as in ARC: by what comes back soon after it was evicted.
FIRST_SHARE = 0.1
LEAST_SHARE = 0.02
MOST_SHARE = 0.6
STEP = 4.0  # items, for each that comes back


class Table(Policy):
    """Buckets of items, each new or proven, with a counter of uses; two hands visit the buckets in turn and evict.

    The idea is S3-FIFO's, that most new items are not asked for again and should go soon, without its queues: what the hand finds in
    a bucket is as good as the end of a queue when it takes the oldest there. A bucket remembers fingerprints of what it last lost.
    """

    def __init__(self, capacity: int, *, max_uses: int = MAX_USES, ghosts: int = GHOSTS, adaptive: bool = True) -> None:
        super().__init__(capacity)
        self.share = FIRST_SHARE  # of the new items
        self.proven_part = 0.5  # of the evictions that the ghosts go back
        self._max_uses = max_uses
        self._ghosts_kept = ghosts
        self._adaptive = adaptive
        self._items: dict[int, _Item] = {}
        self._buckets: list[list[_Item]] = [[] for _ in range(max(1, int(capacity / ITEMS_PER_BUCKET)))]  # oldest first
        self._ghosts: list[list[tuple[int, bool]]] = [[] for _ in self._buckets]  # fingerprint, was proven; newest first
        self._hands = [_Hand(), _Hand()]  # of the new, of the proven
        self._new = 0
        self._memory = max(1, ghosts * len(self._buckets))  # how many evictions these are

    def touch(self, key: int) -> bool:
        item = self._items.get(key)
        if item is None:
            return False
        if item.uses < self._max_uses:
            item.uses += 1
        return True

    def add(self, key: int) -> None:
        if len(self._items) >= self.capacity and not self._evict_new():
            self._evict_proven()
        digest = int.from_bytes(blake2b(b"%d" % key, digest_size=8).digest(), "little")
        home = digest % len(self._buckets)
        item = _Item(key, digest >> (64 - FINGERPRINT_BITS))
        item.proven = self._was_here(home, item.fingerprint)
        self._new += not item.proven
        self._items[key] = item
        self._buckets[home].append(item)

    def held(self) -> set[int]:
        return set(self._items)

    # Eviction

    def _evict_new(self) -> bool:
        """The bucket's oldest new item without uses goes; those with uses become proven. False: the new ones keep to their share."""
        hand = self._hands[0]
        while self._new >= self.share * self.capacity:
            home = hand.bucket
            new = [item for item in self._buckets[home] if not item.proven]
            unused = [item for item in new if not item.uses]
            for item in new:
                if item.uses:
                    item.proven, item.uses = True, 1
            self._new -= len(new) - len(unused)
            hand.move(len(unused), len(self._buckets))
            if unused:
                self._evict(home, unused[0])
                return True
        return False

    def _evict_proven(self) -> None:
        """The bucket's oldest proven item without uses goes; in a bucket that has none of them (left) each loses a use."""
        hand = self._hands[1]
        while True:
            home = hand.bucket
            used = [item for item in self._buckets[home] if item.proven and item.uses]
            unused = [item for item in self._buckets[home] if item.proven and not item.uses]
            if len(unused) <= 1:
                for item in used:
                    item.uses -= 1
            hand.move(len(unused), len(self._buckets))
            if unused:
                self._evict(home, unused[0])
                return

    def _evict(self, home: int, item: _Item) -> None:
        self._buckets[home].remove(item)
        del self._items[item.key]
        self._new -= not item.proven
        self._ghosts[home].insert(0, (item.fingerprint, item.proven))
        del self._ghosts[home][self._ghosts_kept :]
        self.proven_part += (item.proven - self.proven_part) / self._memory

    # Ghosts

    def _was_here(self, home: int, fingerprint: int) -> bool:
        """Whether the bucket lost such an item lately; if so, it is forgotten, and the share learns from it."""
        for ghost in self._ghosts[home]:
            if ghost[0] == fingerprint:
                self._ghosts[home].remove(ghost)
                if self._adaptive:
                    self._adapt(ghost[1])
                return True
        return False

    def _adapt(self, was_proven: bool) -> None:
        """A class that comes back gets room; one back of the class that has fewer ghosts counts for more.

        The average of what was evicted has to go back as far as the ghosts do, thus with the number of items. The hands take turns of
        many evictions each, and an average over one turn swings from one class to the other, and the share from end to end.
        """
        proven = min(max(self.proven_part, 1 / self._memory), 1 - 1 / self._memory)
        step = STEP / self.capacity
        if was_proven:
            self.share -= step * max(1, (1 - proven) / proven)
        else:
            self.share += step * max(1, proven / (1 - proven))
        self.share = min(max(self.share, LEAST_SHARE), MOST_SHARE)


class _Hand:
    """Stays with a bucket until the older half of what it may evict there has gone, so that a fuller bucket loses more."""

    def __init__(self) -> None:
        self.bucket = 0
        self._left = 0

    def move(self, unused: int, buckets: int) -> None:
        """One of so many evictable items of its bucket goes (none of none)."""
        self._left = max(0, (self._left or unused // 2) - 1) if unused else 0
        if not self._left:
            self.bucket = (self.bucket + 1) % buckets


class _Item:
    __slots__ = ("fingerprint", "key", "proven", "uses")

    def __init__(self, key: int, fingerprint: int) -> None:
        self.key = key
        self.fingerprint = fingerprint
        self.proven = False
        self.uses = 0
