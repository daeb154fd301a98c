"""Children of the supervisor, whatever they do: how they are forked, how they ended, how long to wait before the next one."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Iterator
from typing import NamedTuple, NoReturn

#: Held back around a fork: the child must not write into the supervisor's wake pipe.
HANDLED = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP, signal.SIGCHLD)
EXIT_OK = 0
EXIT_FAILED = 1
#: A child that dies at a younger age than this died early.
EARLY_S = 1.0
DELAY_FIRST_S = 0.05
_DELAY_MOST_S = 2.0


class Ending(NamedTuple):
    """A child that ended, reaped."""

    pid: int
    status: int  # of waitpid

    @property
    def by_signal(self) -> bool:
        return os.WIFSIGNALED(self.status)

    @property
    def how(self) -> str:
        """The wait status in words."""
        if not self.by_signal:
            return f"ended with exit status {os.waitstatus_to_exitcode(self.status)}"
        dumped = ", core dumped" if os.WCOREDUMP(self.status) else ""
        return f"killed by {_signal_name(os.WTERMSIG(self.status))}{dumped}"


def fork(work: Callable[[], NoReturn]) -> int:
    """The pid of a child that does ``work``, with the supervisor's signals still held back. Raises OSError when the kernel refuses one."""
    if sys.stderr is not None:  # closed before the start
        sys.stderr.flush()
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, HANDLED)
    try:
        pid = os.fork()
    except OSError:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        raise
    if pid == 0:
        try:
            work()
        finally:
            os._exit(EXIT_FAILED)
    signal.pthread_sigmask(signal.SIG_SETMASK, mask)
    return pid


def reap() -> Iterator[Ending]:
    """The children that ended since the last call, those that nobody here knows of included: as process 1 of a container one gets them."""
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return  # there are none
        if pid == 0:
            return
        yield Ending(pid, status)


def delay_s(failures: int) -> float:
    """How long to wait after so many failures in a row."""
    return min(DELAY_FIRST_S * 2.0 ** min(failures - 1, 10), _DELAY_MOST_S) if failures > 0 else 0.0


def _signal_name(number: int) -> str:
    """Not every real-time signal has a name."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
