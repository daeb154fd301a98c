"""The child of a run that serves its pipe sessions: a companion, as the daemon has one.

It is forked while there is one thread, before the jobs; one that dies meanwhile gets its successor after them.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable
from functools import partial

from memcache_shm.ops.noted_signals import NotedSignals
from memcache_shm.ops.pipe_host import serve_pipes
from memcache_shm.server.children import Ending
from memcache_shm.server.companions import Companion, Companions

_GRACE_S = 2.0  # for its sessions to end, before it is killed


class PipeCompanion:
    """Serves the table `name` on the registration pipe at `path`. `forget` is called in the child: it lets go of what is the parent's."""

    def __init__(self, name: str, path: str, sessions: int, *, reclaims: bool, signals: NotedSignals, forget: Callable[[], None]) -> None:
        self.path = path
        self._signals = signals
        self._interrupts = 0  # SIGUSR1 that it was told of
        work = partial(serve_pipes, name, path, sessions, reclaims)
        self._companions = Companions([Companion("server of named pipes", work, user_signal=True)], forget)

    def start(self) -> None:
        """Fork it. For a process with one thread."""
        self._companions.fill()

    def look(self) -> None:
        """Hand SIGUSR1 on, and reap."""
        if self._interrupts != self._signals.interrupts:
            self._interrupts = self._signals.interrupts
            self._companions.pass_on_user_signal()
        endings = [Ending(*os.waitpid(place.pid, os.WNOHANG)) for place in self._companions.living]
        self._companions.reap(ending for ending in endings if ending.pid)

    def serve(self) -> None:
        """Go on until a signal asks to stop. For a process with one thread."""
        while not self._signals.stops:
            self._companions.fill()
            pause_s = max(0.0, self._companions.due_s - time.monotonic())
            self._signals.wait(None if math.isinf(pause_s) else pause_s)
            self.look()

    def end(self) -> None:
        """End it and its sessions; it is reaped."""
        stops = len(self._signals.stops)
        self._companions.end()
        deadline = time.monotonic() + _GRACE_S
        while any(self._companions.living):
            left_s = deadline - time.monotonic()
            if left_s <= 0 or len(self._signals.stops) > max(stops, 1):
                self._companions.kill_all()
            else:
                self._signals.wait(left_s)
                self.look()
