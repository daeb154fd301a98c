"""Finding workers that are stuck: stopped, frozen, or in an endless loop.

Every worker advances a word of the shared figures, its beats, with each request and each round of its loop. A worker that has
not done so since the last look is poked: an idle one then goes once round its loop. Who shows nothing from there on for

    1 x stuck_s     is reported and gets no new connections; when it beats again, that is told and all is as before
    2 x stuck_s     gets SIGABRT, so that a core tells where it was
    3 x stuck_s     gets SIGKILL, which a stopped process takes as well

Nothing here can block: a look is a load, a poke a send that does not wait. A wait for a shard's lock ends after 1 s, so it never counts.
"""

from __future__ import annotations

import logging
import os
import signal
import time
from dataclasses import dataclass

from memcache_shm.server.acceptor import Acceptor
from memcache_shm.server.counters import Counters
from memcache_shm.server.crew import Crew, Place

log = logging.getLogger(__name__)

#: Looks per `stuck_s`.
_LOOKS = 4


@dataclass
class _Watch:
    """What is known of one worker."""

    pid: int = 0
    beats: int = 0
    silent_s: float = -1.0  # since it was poked; negative: it was not
    stage: int = 0  # 1 reported, 2 aborted, 3 killed


class Watchdog:
    """Looks at a crew's workers every now and then."""

    def __init__(self, counters: Counters, acceptor: Acceptor, crew: Crew, stuck_s: float) -> None:
        self._counters = counters
        self._acceptor = acceptor
        self._crew = crew
        self._stuck_s = stuck_s
        self._period_s = stuck_s / _LOOKS
        self._watches = [_Watch() for _ in range(counters.workers)]
        self._looked_s = time.monotonic()

    @property
    def due_s(self) -> float:
        """When to look next, by the monotonic clock; infinity when watching is off."""
        return self._looked_s + self._period_s if self._stuck_s else float("inf")

    def look(self, now: float) -> None:
        """Look at every worker."""
        # A longer time means that this process itself did not run (stopped together with its workers, say): it proves nothing.
        step_s = min(now - self._looked_s, 2 * self._period_s)
        self._looked_s = now
        for place in self._crew.living:
            self._look_at(place, step_s)

    def _look_at(self, place: Place, step_s: float) -> None:
        watch = self._watches[place.which]
        beats = self._counters.beats(place.which)
        if watch.pid != place.pid:
            self._watches[place.which] = _Watch(place.pid, beats)
        elif beats != watch.beats:
            self._lives(place, watch, beats)
        elif watch.silent_s < 0:
            watch.silent_s = 0.0
            self._crew.poke(place)
        else:
            watch.silent_s += step_s
            if watch.stage < 3 and watch.silent_s >= (watch.stage + 1) * self._stuck_s:
                watch.stage += 1
                (self._report, self._abort, self._kill)[watch.stage - 1](place, watch)

    def _lives(self, place: Place, watch: _Watch, beats: int) -> None:
        watch.beats = beats
        if watch.stage == 1:
            log.warning("worker %d (pid %d) goes on after %.0f s", place.which, place.pid, watch.silent_s)
            self._acceptor.avoid(place.which, False)
        if watch.stage <= 1:  # who was aborted is not pardoned
            watch.stage = 0
            watch.silent_s = -1.0

    def _report(self, place: Place, watch: _Watch) -> None:
        self._counters.note("shm_workers_stuck")
        self._acceptor.avoid(place.which, True)
        log.warning(
            "worker %d (pid %d) shows no sign of life for %.0f s; it gets SIGABRT in %.0f s unless it does",
            place.which,
            place.pid,
            watch.silent_s,
            self._stuck_s,
        )

    def _abort(self, place: Place, watch: _Watch) -> None:
        log.warning("worker %d (pid %d) is stuck for %.0f s; sending SIGABRT", place.which, place.pid, watch.silent_s)
        os.kill(place.pid, signal.SIGABRT)

    def _kill(self, place: Place, watch: _Watch) -> None:
        log.warning("worker %d (pid %d) is stuck for %.0f s; sending SIGKILL", place.which, place.pid, watch.silent_s)
        os.kill(place.pid, signal.SIGKILL)
