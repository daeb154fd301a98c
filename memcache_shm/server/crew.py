"""The workers' places: who sits there, who died, and when the next one is due.

A worker that had served for a while is replaced at once. When young ones die in a row, or the kernel refuses a fork or a
descriptor, the next try waits longer each time: the others serve meanwhile. Three in a row that end before they serve end the daemon,
unless it has served before and they were killed from outside or short of something: then time may help.
"""

from __future__ import annotations

import logging
import os
import signal
import socket
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import NoReturn

from memcache_shm.server.acceptor import Acceptor
from memcache_shm.server.children import DELAY_FIRST_S, EARLY_S, Ending, delay_s, fork
from memcache_shm.server.counters import Counters
from memcache_shm.server.outage import Outage
from memcache_shm.server.worker import EXIT_TRY_LATER

log = logging.getLogger(__name__)

_BOOT_DEATHS_MAX = 3


class WorkerBootError(Exception):
    """Workers die before they serve, or cannot be started."""


@dataclass
class Place:
    """One of the daemon's workers, by its number."""

    which: int
    pid: int = 0  # 0: nobody
    link: socket.socket | None = None  # the supervisor's end
    started_s: float = 0.0  # monotonic clock
    early_deaths: int = 0  # in a row
    due_s: float = 0.0  # when another worker may be started


@dataclass(frozen=True)
class Death:
    """A worker that ended, reaped."""

    which: int
    ending: Ending
    served: bool

    @property
    def pid(self) -> int:
        return self.ending.pid

    @property
    def by_circumstance(self) -> bool:
        """Not the worker's own fault: somebody killed it, or something was short."""
        status = self.ending.status
        if self.ending.by_signal:
            return os.WTERMSIG(status) in (signal.SIGKILL, signal.SIGTERM)
        return os.WEXITSTATUS(status) == EXIT_TRY_LATER


class Crew:
    """All places of a daemon. ``work`` is what a child does: it gets its number and its end of the link, and never returns."""

    def __init__(self, counters: Counters, acceptor: Acceptor, work: Callable[[int, socket.socket], NoReturn]) -> None:
        self._counters = counters
        self._acceptor = acceptor
        self._work = work
        self._places = [Place(which) for which in range(counters.workers)]
        self._boot_deaths = 0
        self._start_failures = 0
        self._outage = Outage()
        self._served = False

    @property
    def living(self) -> Iterator[Place]:
        """The places with a worker."""
        return (place for place in self._places if place.pid)

    @property
    def links(self) -> Iterator[socket.socket]:
        """The supervisor's ends."""
        return (place.link for place in self._places if place.link is not None)

    @property
    def is_complete(self) -> bool:
        """Whether every place has a worker that serves."""
        return all(place.pid and self._counters.is_up(place.which) for place in self._places)

    @property
    def due_s(self) -> float:
        """When the next empty place is to be filled; infinity when there is none."""
        return min((place.due_s for place in self._places if not place.pid), default=float("inf"))

    def has_served(self) -> None:
        """All workers came up once: troubles are no longer those of a start."""
        self._served = True

    # Filling

    def fill(self) -> None:
        """Start a worker in each empty place whose time has come. Raises WorkerBootError when a start is hopeless."""
        now = time.monotonic()
        for place in self._places:
            if not place.pid and place.due_s <= now:
                try:
                    self._start(place)
                except OSError as error:
                    self._put_off(error, now)
                    return
                self._start_failures = 0
        if all(place.pid for place in self._places):
            self._outage.is_over("all workers are started again")

    def _start(self, place: Place) -> None:
        """Raises OSError when the kernel refuses the link or the child."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            place.pid = self._fork(place, ours, theirs)
        except OSError:
            ours.close()
            raise
        finally:
            theirs.close()
        place.link = ours
        place.started_s = time.monotonic()
        self._counters.set_pid(place.which, place.pid)
        self._acceptor.set_link(place.which, place.link.fileno())

    def _fork(self, place: Place, ours: socket.socket, theirs: socket.socket) -> int:
        """The child's pid; the child itself never returns."""

        def work() -> NoReturn:
            ours.close()
            self._work(place.which, theirs)

        self._counters.begin(place.which)
        return fork(work)

    def _put_off(self, error: OSError, now: float) -> None:
        self._start_failures += 1
        self._counters.note("shm_start_failures")
        if not self._served and self._start_failures >= _BOOT_DEATHS_MAX:
            raise WorkerBootError(f"cannot start a worker: {error.strerror}; see the limits of processes and descriptors (ulimit -u, -n)")
        due_s = now + delay_s(self._start_failures)
        for place in self._places:
            place.due_s = max(place.due_s, due_s)
        self._outage.goes_on(f"cannot start a worker: {error.strerror}; trying again and again, the others serve meanwhile")

    # Emptying

    def reap(self, endings: Iterable[Ending]) -> list[Death]:
        """Those of the children who ended that were workers; their places are due again, sooner or later."""
        places = {place.pid: place for place in self.living}
        return [self._vacate(places[ending.pid], ending) for ending in endings if ending.pid in places]

    def _vacate(self, place: Place, ending: Ending) -> Death:
        assert place.link is not None
        death = Death(place.which, ending, self._counters.is_up(place.which))
        now = time.monotonic()
        early = not death.served or now - place.started_s < EARLY_S
        place.early_deaths = place.early_deaths + 1 if early else 0
        place.due_s = now + delay_s(place.early_deaths - 1)
        place.pid = 0
        self._acceptor.set_link(place.which, -1)
        place.link.close()
        place.link = None
        return death

    def judge(self, death: Death) -> None:
        """Log and count it. Raises WorkerBootError at the third death in a row before a worker served."""
        self._counters.note("shm_workers_killed" if death.ending.by_signal else "shm_workers_exited")
        if death.served:
            self._boot_deaths = 0
        elif not (self._served and death.by_circumstance):
            self._boot_deaths += 1
        if self._boot_deaths >= _BOOT_DEATHS_MAX:
            raise WorkerBootError(f"{self._boot_deaths} workers in a row ended before they served, the last {death.ending.how}")
        wait_s = self._places[death.which].due_s - time.monotonic()
        log.warning(
            "worker %d (pid %d) %s; starting another%s",
            death.which,
            death.pid,
            death.ending.how,
            f" in {wait_s:.1f} s" if wait_s >= DELAY_FIRST_S else "",
        )

    def poke(self, place: Place) -> None:
        """Wake a worker that waits, by a message without descriptors. Never blocks: one whose link is full has enough to wake for."""
        assert place.link is not None
        try:
            place.link.send(b"\0", socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)
        except OSError:
            return  # full, or its worker is dying: SIGCHLD will tell

    def end_links(self) -> None:
        """Tell all workers to finish."""
        for link in self.links:
            link.shutdown(socket.SHUT_WR)

    def kill_all(self) -> None:
        """They are ours and not yet reaped, so the pids are still theirs."""
        for place in self.living:
            os.kill(place.pid, signal.SIGKILL)
        for place in self.living:
            self._vacate(place, Ending(*os.waitpid(place.pid, 0)))
