"""Signals for a main loop: a handler only notes them, and a pipe wakes the loop, which acts. Other threads wake it by the same pipe."""

from __future__ import annotations

import os
import select
import signal
from types import FrameType, TracebackType
from typing import Any

_STOPS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class NotedSignals:
    """A context of the main thread; the handlers from before come back at its end."""

    def __init__(self) -> None:
        self.stops: list[int] = []  # each SIGINT, SIGTERM and SIGHUP so far
        self.interrupts = 0  # each SIGUSR1 so far
        self._wake, self._writer = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._previous: dict[int, Any] = {}
        self._previous_wake = -1

    def __enter__(self) -> NotedSignals:
        self._previous_wake = signal.set_wakeup_fd(self._writer, warn_on_full_buffer=False)
        noted = [*_STOPS, signal.SIGUSR1, signal.SIGCHLD]
        if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
            noted.remove(signal.SIGHUP)  # nohup: it goes on when its terminal goes
        self._previous = {number: signal.signal(number, self._note) for number in noted}
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(self._previous_wake)
        self._close()

    def _note(self, number: int, frame: FrameType | None) -> None:
        if number == signal.SIGUSR1:
            self.interrupts += 1
        elif number in _STOPS:
            self.stops.append(number)

    def poke(self) -> None:
        """Wake the loop, from any thread."""
        try:
            os.write(self._writer, b"\0")
        except BlockingIOError:
            return  # full: it will wake

    def wait(self, limit_s: float | None = None) -> None:
        """Until a signal or a poke comes that was not waited for yet, or the limit is over."""
        select.select([self._wake], [], [], limit_s)
        try:
            while os.read(self._wake, 512):
                continue
        except BlockingIOError:
            return

    def forget(self) -> None:
        """In a forked child: the pipe is the parent's. The child sets its own handlers."""
        signal.set_wakeup_fd(-1)
        self._close()

    def _close(self) -> None:
        os.close(self._wake)
        os.close(self._writer)
