"""Eviction policies that `simulate.py` compares: caches that hold up to `capacity` keys, without values.

Published ones follow their papers; `Fixed` and `Min` know the requests beforehand and show what there is to gain. Our own table's
is in `table_policy.py`.
"""

from __future__ import annotations

import heapq
from abc import ABC, abstractmethod
from collections import Counter, OrderedDict, defaultdict, deque
from collections.abc import Iterable, MutableMapping, Sequence
from itertools import chain
from typing import Protocol

MAX_USES = 3  # what a counter of two bits holds

Batches = Sequence[Sequence[int]]


class Cache(Protocol):
    """What a client needs of a cache: policies have it, and so has the real table."""

    def missing(self, keys: Sequence[int]) -> list[int]:
        """Those of the keys that are not there; the others are hits."""

    def store(self, keys: Iterable[int]) -> None:
        """Take in keys that were missing."""


def batches_of(requests: Sequence[int], size: int) -> list[list[int]]:
    """The requests of a client that asks for `size` keys at a time, each key once."""
    return [list(dict.fromkeys(requests[start : start + size])) for start in range(0, len(requests), size)]


def hit_ratio(cache: Cache, batches: Batches) -> float:
    """Of the second half of the batches, after the first has filled the cache: each is asked for, then what was missing is set."""
    hits = asked = 0
    for number, batch in enumerate(batches):
        missing = cache.missing(batch)
        cache.store(missing)
        if 2 * number >= len(batches):
            hits += len(batch) - len(missing)
            asked += len(batch)
    return hits / asked


class Policy(ABC):
    """A cache of at most `capacity` keys that decides which of them goes when another one comes."""

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity

    @abstractmethod
    def touch(self, key: int) -> bool:
        """Whether the key is there, noted as a use if so."""

    @abstractmethod
    def add(self, key: int) -> None:
        """Take in a key that is not there, and evict another when that is one too many."""

    @abstractmethod
    def held(self) -> set[int]:
        """The keys that are there."""

    def missing(self, keys: Sequence[int]) -> list[int]:
        return [key for key in keys if not self.touch(key)]

    def store(self, keys: Iterable[int]) -> None:
        for key in keys:
            self.add(key)


class Fifo(Policy):
    """First in, first out: a hit changes nothing."""

    def __init__(self, capacity: int) -> None:
        super().__init__(capacity)
        self._queue: OrderedDict[int, None] = OrderedDict()  # the next to go first

    def touch(self, key: int) -> bool:
        return key in self._queue

    def add(self, key: int) -> None:
        if len(self._queue) >= self.capacity:
            _pop_first(self._queue)
        self._queue[key] = None

    def held(self) -> set[int]:
        return set(self._queue)


class Lru(Fifo):
    """Least recently used goes first."""

    def touch(self, key: int) -> bool:
        if key not in self._queue:
            return False
        self._queue.move_to_end(key)
        return True


class Clock(Policy):
    """Second chance with two bits: a hit counts up, a hand counts down what it passes and evicts the first without uses.

    Corbató, "A Paging Experiment with the Multics System", 1969, with a counter in place of its one bit.
    """

    def __init__(self, capacity: int) -> None:
        super().__init__(capacity)
        self._uses: dict[int, int] = {}
        self._queue: deque[int] = deque()  # the hand is at its left end

    def touch(self, key: int) -> bool:
        return _count_use(self._uses, key)

    def add(self, key: int) -> None:
        if len(self._uses) >= self.capacity:
            del self._uses[_pop_unused(self._queue, self._uses)]
        self._queue.append(key)
        self._uses[key] = 0

    def held(self) -> set[int]:
        return set(self._uses)


class Sieve(Policy):
    """A queue in the order of insertion; a hand goes from old to new, spares and unmarks what was hit, evicts the first unmarked.

    In contrast to a clock's, what is spared keeps its place, and so the hand is soon among the new ones. Zhang, Yang, Yue, Vigfusson,
    Rashmi, "SIEVE is Simpler than LRU", NSDI 2024, algorithm 1.
    """

    _END = -1  # stands in both chains before the oldest and after the newest key

    def __init__(self, capacity: int) -> None:
        super().__init__(capacity)
        self._visited: dict[int, bool] = {}
        self._newer = {self._END: self._END}
        self._older = {self._END: self._END}
        self._hand = self._END

    def touch(self, key: int) -> bool:
        if key not in self._visited:
            return False
        self._visited[key] = True
        return True

    def add(self, key: int) -> None:
        if len(self._visited) >= self.capacity:
            self._evict()
        newest = self._older[self._END]
        self._newer[newest], self._newer[key] = key, self._END
        self._older[key], self._older[self._END] = newest, key
        self._visited[key] = False

    def _evict(self) -> None:
        key = self._hand
        while key == self._END or self._visited[key]:
            if key != self._END:
                self._visited[key] = False
            key = self._newer[key]
        older, newer = self._older.pop(key), self._newer.pop(key)
        self._newer[older], self._older[newer] = newer, older
        self._hand = newer
        del self._visited[key]

    def held(self) -> set[int]:
        return set(self._visited)


class S3Fifo(Policy):
    """Three queues: a small one for new keys, a main one for those hit there, a ghost of those evicted from the small one.

    A key that the ghost remembers goes straight to the main queue, which is a clock with two bits. Yang, Zhang, Qiu, Yue, Rashmi,
    "FIFO queues are all you need for cache eviction", SOSP 2023. One hit promotes, as in the authors' later code: the paper's algorithm
    asks for two, which does worse on the moving hot set and with one-hit wonders.
    """

    SMALL_SHARE = 0.1

    def __init__(self, capacity: int) -> None:
        super().__init__(capacity)
        self._small_capacity = max(1, int(capacity * self.SMALL_SHARE))
        self._uses: dict[int, int] = {}
        self._small: deque[int] = deque()
        self._main: deque[int] = deque()
        self._ghosts: OrderedDict[int, None] = OrderedDict()

    def touch(self, key: int) -> bool:
        return _count_use(self._uses, key)

    def add(self, key: int) -> None:
        while len(self._uses) >= self.capacity:
            self._advance()
        if key in self._ghosts:
            del self._ghosts[key]
            self._main.append(key)
        else:
            self._small.append(key)
        self._uses[key] = 0

    def _advance(self) -> None:
        """Evict one key, or promote one, after which the small queue may be short enough for the main queue's turn."""
        if len(self._small) < self._small_capacity:
            del self._uses[_pop_unused(self._main, self._uses)]
            return
        key = self._small.popleft()
        if self._uses[key]:
            self._uses[key] = 0
            self._main.append(key)
        else:
            del self._uses[key]
            self._remember(key)

    def _remember(self, key: int) -> None:
        self._ghosts[key] = None
        if len(self._ghosts) > self.capacity - self._small_capacity:
            _pop_first(self._ghosts)

    def held(self) -> set[int]:
        return set(self._uses)


class Arc(Policy):
    """Two LRU lists, of keys seen once and more than once, each with a ghost; hits in the ghosts shift room between them.

    Megiddo, Modha, "ARC: A Self-Tuning, Low Overhead Replacement Cache", FAST 2003, figure 4.
    """

    def __init__(self, capacity: int) -> None:
        super().__init__(capacity)
        self._once: OrderedDict[int, None] = OrderedDict()  # T1 of the paper, least recent first; then B1, T2, B2
        self._once_ghosts: OrderedDict[int, None] = OrderedDict()
        self._often: OrderedDict[int, None] = OrderedDict()
        self._often_ghosts: OrderedDict[int, None] = OrderedDict()
        self._once_target = 0.0  # p of the paper

    def touch(self, key: int) -> bool:
        if key in self._once:
            del self._once[key]
            self._often[key] = None
            return True
        if key in self._often:
            self._often.move_to_end(key)
            return True
        return False

    def add(self, key: int) -> None:
        if key in self._once_ghosts:
            step = max(1, len(self._often_ghosts) / len(self._once_ghosts))
            self._once_target = min(self.capacity, self._once_target + step)
            self._replace(False)
            del self._once_ghosts[key]
            self._often[key] = None
        elif key in self._often_ghosts:
            step = max(1, len(self._once_ghosts) / len(self._often_ghosts))
            self._once_target = max(0, self._once_target - step)
            self._replace(True)
            del self._often_ghosts[key]
            self._often[key] = None
        else:
            self._make_room()
            self._once[key] = None

    def _make_room(self) -> None:
        """For a key that no list knows; once and its ghosts are at most `capacity`, all four lists at most twice that."""
        if len(self._once) + len(self._once_ghosts) == self.capacity:
            if self._once_ghosts:
                _pop_first(self._once_ghosts)
                self._replace(False)
            else:
                _pop_first(self._once)
        elif len(self._once) + len(self._often) == self.capacity:
            if len(self._once_ghosts) + len(self._often_ghosts) == self.capacity:
                _pop_first(self._often_ghosts)
            self._replace(False)

    def _replace(self, was_often: bool) -> None:
        """Evict from the list that is above its target, into its ghosts."""
        once = len(self._once)
        if once > self._once_target or (once and was_often and once == self._once_target):
            self._once_ghosts[_pop_first(self._once)] = None
        else:
            self._often_ghosts[_pop_first(self._often)] = None

    def held(self) -> set[int]:
        return self._once.keys() | self._often.keys()


class Fixed(Policy):
    """The keys that the counted half of the batches asks for most, all the time: the best that popularity alone can tell."""

    def __init__(self, capacity: int, batches: Batches) -> None:
        super().__init__(capacity)
        counts = Counter(chain.from_iterable(batches[len(batches) // 2 :]))
        self._held = {key for key, _ in counts.most_common(capacity)}

    def touch(self, key: int) -> bool:
        return key in self._held

    def add(self, key: int) -> None:
        pass

    def held(self) -> set[int]:
        return self._held


class Min(Policy):
    """What is needed last goes first, even before it comes in: no policy has more hits, none that cannot see the future has as many.

    Belady, "A study of replacement algorithms for a virtual-storage computer", 1966. It must be asked for all the keys of `batches`,
    in their order; all of a batch count as needed at the same time.
    """

    def __init__(self, capacity: int, batches: Batches) -> None:
        super().__init__(capacity)
        self._next_uses = iter(_next_uses(batches))
        self._next_use: dict[int, int] = {}  # of the keys that are there: the number of the batch
        self._missed: dict[int, int] = {}  # the same of those that the batch did not find
        self._needed_in: defaultdict[int, set[int]] = defaultdict(set)  # the other way round
        self._latest: list[int] = []  # a heap of the numbers in it, negative, some of them of empty sets

    def touch(self, key: int) -> bool:
        next_use = next(self._next_uses)
        if key not in self._next_use:
            self._missed[key] = next_use
            return False
        self._needed_in[self._next_use[key]].discard(key)
        self._note(key, next_use)
        return True

    def add(self, key: int) -> None:
        self._note(key, self._missed.pop(key))
        if len(self._next_use) > self.capacity:
            del self._next_use[self._pop_latest()]

    def _note(self, key: int, next_use: int) -> None:
        self._next_use[key] = next_use
        needed = self._needed_in[next_use]
        if not needed:
            heapq.heappush(self._latest, -next_use)
        needed.add(key)

    def _pop_latest(self) -> int:
        while not (needed := self._needed_in[-self._latest[0]]):
            del self._needed_in[-heapq.heappop(self._latest)]
        return needed.pop()

    def held(self) -> set[int]:
        return set(self._next_use)


def _next_uses(batches: Batches) -> list[int]:
    """For each request in turn the number of the next batch with its key; for the last one of a key a number past the end."""
    numbers: list[int] = []
    coming: dict[int, int] = {}
    for number in range(len(batches) - 1, -1, -1):
        numbers += [coming.get(key, len(batches)) for key in reversed(batches[number])]
        coming.update(dict.fromkeys(batches[number], number))
    numbers.reverse()
    return numbers


def _count_use(uses: MutableMapping[int, int], key: int) -> bool:
    """Whether the key is there; counts the use, up to MAX_USES."""
    count = uses.get(key)
    if count is None:
        return False
    if count < MAX_USES:
        uses[key] = count + 1
    return True


def _pop_unused(queue: deque[int], uses: MutableMapping[int, int]) -> int:
    """Take out the first key without uses; those before it lose one each and go to the end."""
    while uses[key := queue.popleft()]:
        uses[key] -= 1
        queue.append(key)
    return key


def _pop_first(queue: OrderedDict[int, None]) -> int:
    return queue.popitem(last=False)[0]
