"""The children that write the backups of jobs: at most so many at a time.

    job thread: a place, or wait for one -> snapshot -> fork -> goes on          main thread: SIGCHLD -> reap -> the place is free

A place is taken before its snapshot, so that the jobs that wait hold no copies of the table. It is given back when its child was reaped.
"""

from __future__ import annotations

import itertools
import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

from memcache_shm.client.filing import write_in_child
from memcache_shm.ops.job_report import Report
from memcache_shm.server.children import Ending

TEMPORARY_PREFIX = ".bck-"
TEMPORARY_SUFFIX = ".part"


class StoppedError(Exception):
    """The run is being stopped, and what was asked for is not done."""


class _Child(NamedTuple):
    path: str
    temporary: str


class BackupWriters:
    """All of a run. `write` is for job threads, the rest for the main thread."""

    def __init__(self, most: int, report: Report) -> None:
        self.written = 0  # files; by the main thread
        self._most = most
        self._report = report
        self._children: dict[int, _Child] = {}  # by pid; not yet reaped
        self._places = most  # free ones
        self._stopped = False
        self._moved = threading.Condition()  # guards the three above, and is notified when they change
        self._numbers = itertools.count(1)

    @property
    def living(self) -> int:
        """How many children are not reaped."""
        return len(self._children)

    def write(self, path: str, content: Callable[[], bytes]) -> None:
        """Start a child that writes to `path` what `content` gives once there is a place for the child.

        Raises StoppedError, OSError when there can be no file or no child, and what `content` raises.
        """
        with self._place():
            data = content()
            temporary = f"{TEMPORARY_PREFIX}{os.getpid()}-{next(self._numbers)}{TEMPORARY_SUFFIX}"
            child = _Child(path, os.path.join(os.path.dirname(path), temporary))
            with self._moved:  # a child that ends at once is reaped when it is known
                pid = write_in_child(os.fsencode(child.temporary), os.fsencode(path), data)
                self._children[pid] = child

    @contextmanager
    def _place(self) -> Iterator[None]:
        """Take a place, and give it back if no child gets it."""
        with self._moved:
            self._moved.wait_for(lambda: self._places > 0 or self._stopped)
            if self._stopped:
                raise StoppedError
            self._places -= 1
        try:
            yield
        except BaseException:
            self._free(1)
            raise

    def _free(self, count: int) -> None:
        with self._moved:
            self._places += count
            self._moved.notify_all()

    def reap(self) -> None:
        """Take note of the children that have ended, and free their places."""
        ended = []
        with self._moved:
            for pid in list(self._children):
                ending = Ending(*os.waitpid(pid, os.WNOHANG))
                if ending.pid:
                    ended.append((self._children.pop(pid), ending))
        for child, ending in ended:
            self._judge(child, ending)
        self._free(len(ended))

    def _judge(self, child: _Child, ending: Ending) -> None:
        if ending.status == 0 or (not self._removed(child.temporary) and ending.by_signal):
            self.written += 1  # if killed: after the whole file got its name
            return
        why = f"its child was {ending.how}" if ending.by_signal else os.strerror(os.WEXITSTATUS(ending.status))
        self._report.failure(f"{child.path}: backup not written: {why}")

    def _removed(self, temporary: str) -> bool:
        """Remove what a child left that did not end well; False: it has left nothing."""
        try:
            os.unlink(temporary)
        except FileNotFoundError:
            return False
        except OSError as problem:
            self._report.failure(f"{temporary}: cannot be removed: {problem.strerror}")
        return True

    def stop(self) -> None:
        """No more children: who waits for a place gets StoppedError."""
        with self._moved:
            self._stopped = True
            self._moved.notify_all()

    def kill_all(self) -> None:
        """They are ours and not yet reaped, so the pids are still theirs."""
        for pid in list(self._children):
            os.kill(pid, signal.SIGKILL)
