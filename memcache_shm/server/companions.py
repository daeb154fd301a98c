"""Companions: children of the supervisor besides the workers, each with one task of its own, which is handed in.

They are started once the workers serve, and again with a delay when they die; one whose exit status is 0 is done and stays away. A
stop ends them by SIGTERM, which raises SystemExit in their task, and by SIGKILL when that takes too long. One that somebody else ends so
dies by that signal, and is not done. They die with their parent.
What goes wrong with one never ends the daemon.
"""

from __future__ import annotations

import logging
import os
import signal
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from types import FrameType
from typing import NoReturn

from memcache_shm.server.children import DELAY_FIRST_S, EARLY_S, EXIT_FAILED, EXIT_OK, Ending, delay_s, fork
from memcache_shm.server.loop import die_with_parent
from memcache_shm.server.outage import Outage

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Companion:
    """A task. ``run`` is called in the child; its result is the exit status: 0 means done, anything else and every death that it is to be
    started again. ``user_signal``: SIGUSR1 to the supervisor is for this one, too; it has to install a handler of its own."""

    name: str
    run: Callable[[], int]
    user_signal: bool = False


@dataclass
class _Place:
    companion: Companion
    pid: int = 0  # 0: nobody
    done: bool = False
    started_s: float = 0.0  # monotonic clock
    failures: int = 0  # deaths in a row that came early, or forks that the kernel refused
    due_s: float = 0.0  # when another may be started


class Companions:
    """All companions of a daemon. ``forget`` is called first in each child: it lets go of what is the supervisor's."""

    def __init__(self, companions: Sequence[Companion], forget: Callable[[], None]) -> None:
        self._places = [_Place(companion) for companion in companions]
        self._forget = forget
        self._outage = Outage()
        self._parent = os.getpid()
        self._ending = False

    @property
    def living(self) -> Iterator[_Place]:
        """Those with a process."""
        return (place for place in self._places if place.pid)

    @property
    def due_s(self) -> float:
        """When the next one is to be started, by the monotonic clock; infinity when none is."""
        return min((place.due_s for place in self._places if not place.pid and not place.done), default=float("inf"))

    def fill(self) -> None:
        """Start those whose time has come."""
        now = time.monotonic()
        for place in self._places:
            if not place.pid and not place.done and place.due_s <= now:
                self._start(place, now)

    def _start(self, place: _Place, now: float) -> None:
        companion = place.companion
        try:
            place.pid = fork(lambda: self._live(companion))
        except OSError as error:
            place.failures += 1
            place.due_s = now + delay_s(place.failures)
            self._outage.goes_on(f"cannot start the {companion.name}: {error.strerror}; trying again and again")
            return
        place.started_s = now
        self._outage.is_over(f"the {companion.name} is started")

    def _live(self, companion: Companion) -> NoReturn:
        """The life of a child, without the interpreter's cleanup at its end."""
        status = EXIT_FAILED
        try:
            die_with_parent(signal.SIGKILL)
            self._forget()
            _take_signals()
            if os.getppid() == self._parent:
                status = companion.run()
        except SystemExit:
            _die_by_sigterm()  # told to end, which is not to be done: only the supervisor knows whether that is for good
        except Exception:
            log.exception("%s (pid %d) failed", companion.name, os.getpid())
        finally:
            os._exit(status)

    def reap(self, endings: Iterable[Ending]) -> list[str]:
        """Take note of those that ended, their places are due again; how to call them in a message."""
        places = {place.pid: place for place in self.living}
        ended = []
        for ending in endings:
            if ending.pid in places:
                place = places[ending.pid]
                ended.append(f"{place.companion.name} (pid {place.pid})")
                self._vacate(place, ending)
        return ended

    def _vacate(self, place: _Place, ending: Ending) -> None:
        now = time.monotonic()
        pid, place.pid = place.pid, 0
        place.done = self._ending or (os.WIFEXITED(ending.status) and os.WEXITSTATUS(ending.status) == EXIT_OK)
        if place.done:
            log.info("%s (pid %d) is done", place.companion.name, pid)
            return
        place.failures = place.failures + 1 if now - place.started_s < EARLY_S else 1
        wait_s = delay_s(place.failures)
        place.due_s = now + wait_s
        later = f" in {wait_s:.1f} s" if wait_s > DELAY_FIRST_S else ""
        log.warning("%s (pid %d) %s; starting another%s", place.companion.name, pid, ending.how, later)

    def pass_on_user_signal(self) -> None:
        """SIGUSR1, to those that are meant by it."""
        for place in self.living:
            if place.companion.user_signal:
                os.kill(place.pid, signal.SIGUSR1)

    def end(self) -> None:
        """Ask all to end, for good."""
        self._ending = True
        for place in self.living:
            os.kill(place.pid, signal.SIGTERM)

    def kill_all(self) -> None:
        """They are ours and not yet reaped, so the pids are still theirs."""
        for place in self.living:
            os.kill(place.pid, signal.SIGKILL)
        for place in self.living:
            os.waitpid(place.pid, 0)
            place.pid = 0


def _take_signals() -> None:
    """SIGINT and SIGHUP of a terminal reach the whole process group, and so may SIGUSR1: the supervisor decides about them."""
    for number in (signal.SIGINT, signal.SIGUSR1, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    signal.signal(signal.SIGTERM, _leave)
    signal.pthread_sigmask(signal.SIG_SETMASK, set())


def _leave(number: int, frame: FrameType | None) -> NoReturn:
    raise SystemExit


def _die_by_sigterm() -> None:
    """As the wait status is to say it."""
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    os.kill(os.getpid(), signal.SIGTERM)
