"""Running jobs: so many threads, each with one job at a time, and children that write their backups.

    main thread: signals, SIGCHLD -> reap, progress      thread 1..N: next job -> its commands -> next job
                      ^---------- poke: a job or a thread has ended ------------+        +--- fork ---> backup child

Nothing is left at the end: every thread is joined and every child reaped. SIGINT, SIGTERM and SIGHUP let each job finish its
command and each child its file; a second one kills the children.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from memcache_shm.client.cache import Cache
from memcache_shm.client.snapshot import Snapshot
from memcache_shm.client.steps import Steps
from memcache_shm.errors import MemcacheError
from memcache_shm.ops.job_backups import BackupWriters
from memcache_shm.ops.job_report import Report
from memcache_shm.ops.jobs import Job, Means, sources_of
from memcache_shm.ops.noted_signals import NotedSignals


class Ran(NamedTuple):
    """What came of a run."""

    ended: int  # jobs that were carried out to their end
    jobs: int
    backups: int  # files that were written


class Runner:
    """Runs `jobs` once. `progress` is told by the main thread how many jobs are over, how many there are, and how many backups are being
    written; `on_signal` is called by it between waits, to see to signals that are no concern of the jobs. `remedies`: what is to be
    said behind errors of these kinds."""

    def __init__(
        self,
        cache: Cache,
        jobs: Sequence[str],
        *,
        threads: int,
        backups: int,
        report: Report,
        signals: NotedSignals,
        print_help: Callable[[str], None],
        progress: Callable[[int, int, int], None],
        on_signal: Callable[[], None],
        remedies: Mapping[type[MemcacheError], str],
    ) -> None:
        self._cache = cache
        self._jobs = deque(jobs)  # not yet begun; taken by any thread
        self._all = len(jobs)
        self._over = self._ended = self._working = 0  # jobs, jobs, threads; guarded by _lock
        self._lock = threading.Lock()
        self._threads = min(threads, len(jobs))
        self._report = report
        self._signals = signals
        self._progress = progress
        self._on_signal = on_signal
        self._writers = BackupWriters(backups, report)
        self._stop = threading.Event()
        self._means = Means(
            Steps(cache), self._snapshot, self._writers, report, print_help, self._stop, remedies=remedies, sources=sources_of(jobs)
        )

    def run(self) -> Ran:
        """Returns when every job is over, every backup written and every child reaped. MemcacheError when there is no thread to be had."""
        threads: list[threading.Thread] = []
        try:
            self._start(threads)
            self._look_after()
        finally:
            self._stop_jobs()
            self._look_after()
            for thread in threads:
                thread.join()
        return Ran(self._ended, self._all, self._writers.written)

    def _start(self, threads: list[threading.Thread]) -> None:
        """With fewer threads than wanted the jobs are done all the same."""
        for number in range(self._threads):
            thread = threading.Thread(target=self._work, name=f"jobs-{number}")
            with self._lock:
                self._working += 1
            try:
                thread.start()
            except RuntimeError as problem:
                with self._lock:
                    self._working -= 1
                if not threads:
                    raise MemcacheError(f"MAX_THREADS: {problem}; see 'ulimit -u'") from None
                self._report.remark(f"{number} threads instead of {self._threads}: {problem}")
                return
            threads.append(thread)

    def _look_after(self) -> None:
        """The main loop."""
        while True:
            self._act()
            if not self._working and not self._writers.living:
                return
            self._signals.wait()

    def _act(self) -> None:
        self._writers.reap()
        if self._signals.stops:
            self._stop_jobs()
        if len(self._signals.stops) > 1:
            self._writers.kill_all()
        self._on_signal()
        self._progress(self._over, self._all, self._writers.living)

    def _stop_jobs(self) -> None:
        self._stop.set()
        self._writers.stop()

    def _snapshot(self) -> Snapshot:
        return Snapshot(self._cache)

    # The threads

    def _work(self) -> None:
        try:
            while not self._stop.is_set() and (path := self._next()) is not None:
                self._do(path)
        finally:
            with self._lock:
                self._working -= 1
            self._signals.poke()

    def _next(self) -> str | None:
        try:
            return self._jobs.popleft()
        except IndexError:
            return None

    def _do(self, path: str) -> None:
        ended = False
        try:
            ended = Job(path, self._means).run()
        except Exception as problem:  # noqa: BLE001  # a mistake of ours: said by the job's name, and the others run
            self._report.failure(f"{path}: the job broke off: {problem!r}")
        finally:
            with self._lock:
                self._over += 1
                self._ended += ended
            self._signals.poke()
