"""Threads and forked children that use cache objects without a pause while somebody removes and restarts things under them."""

from __future__ import annotations

import multiprocessing
import threading
from types import TracebackType
from typing import Any

import memcache_shm
from support.waiting import until

PATIENCE_S = 20.0
REMOVED = "removed"


class Users:
    """They run inside a `with`; whatever they meet but TableRemovedError fails the test."""

    def __init__(self, threads: dict[str, memcache_shm.Cache], children: dict[str, memcache_shm.Cache]) -> None:
        fork = multiprocessing.get_context("fork")
        self.names = {*threads, *children}
        self._over = fork.Event()
        self._round = fork.Value("i", 0)
        self._outcomes = fork.SimpleQueue()  # (name, number of a round it went on in, REMOVED, or what must not be)
        self._children: list[Any] = [fork.Process(target=self._use, args=item) for item in children.items()]
        self._threads = [threading.Thread(target=self._use, args=item) for item in threads.items()]

    def __enter__(self) -> Users:
        for each in (*self._children, *self._threads):  # children first: they are forked without threads
            each.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._over.set()
        for each in (*self._threads, *self._children):
            each.join()
        if kind is None:
            assert [child.exitcode for child in self._children] == [0] * len(self._children)

    def go_on(self) -> set[str]:
        """Wait until each has come through calls that began after now; the names of those that met TableRemovedError before."""
        self._round.value += 1
        through: set[str] = set()
        met: set[str] = set()
        while through != self.names:
            name, outcome = self._outcome()
            if outcome == REMOVED:
                met.add(name)
            elif outcome == self._round.value:
                through.add(name)
        return met

    def notice(self) -> None:
        """Wait until each has met TableRemovedError once."""
        met: set[str] = set()
        while met != self.names:
            name, outcome = self._outcome()
            if outcome == REMOVED:
                met.add(name)

    def _outcome(self) -> tuple[str, int | str]:
        until(lambda: not self._outcomes.empty(), "a user to go on", PATIENCE_S)
        name, outcome = self._outcomes.get()
        assert isinstance(outcome, int) or outcome == REMOVED, (name, outcome)
        return name, outcome

    def _use(self, name: str, cache: memcache_shm.Cache) -> None:
        """Go on and on with a key of one's own; tell each new round, each first TableRemovedError, and what must not be."""
        told: object = None
        number = 0
        while not self._over.is_set():
            number += 1
            began_in = self._round.value
            try:
                problem = _work(cache, name, number)
                outcome: object = problem or began_in
            except memcache_shm.TableRemovedError:
                outcome = REMOVED
            except Exception as error:  # noqa: BLE001  # told, and a failure there
                outcome = repr(error)
            if outcome != told:
                self._outcomes.put((name, outcome))
            told = outcome


def _work(cache: memcache_shm.Cache, name: str, number: int) -> str | None:
    """Write and read; what was wrong with that. A value that was evicted or lost with its table is a miss."""
    value = b"%s %d " % (name.encode(), number) * (number % 100 + 1)
    if not cache.readonly:
        cache.set(name, value)
    found = cache.get(name)
    if found not in (None, value):
        return f"{found[:50]!r} instead of {value[:50]!r}"
    cache.get_many([name, "none"])
    cache.gets(name)
    return None
