"""`memcache-shm run`: job files, carried out by many threads on one table."""

from __future__ import annotations

import argparse
import contextlib
import logging
import os
import secrets
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, TextIO

from memcache_shm.cli import flags
from memcache_shm.cli.arguments import Parser, size, table_name, whole
from memcache_shm.cli.attaching import attach_named
from memcache_shm.cli.messages import EXIT_FAILURE, EXIT_OK, PROGRAM, UsageError, note, plural
from memcache_shm.cli.options import fifo_path, table_geometry
from memcache_shm.client.cache import Cache
from memcache_shm.errors import FeedOffError, TableNotFoundError
from memcache_shm.ops import job_lines
from memcache_shm.ops.job_directory import JobDirectory
from memcache_shm.ops.job_report import Report
from memcache_shm.ops.noted_signals import NotedSignals
from memcache_shm.ops.runner import Ran, Runner
from memcache_shm.storage import registry
from memcache_shm.storage.namelock import daemon_pid
from memcache_shm.storage.units import DEFAULT_MEMORY_BYTES, MIB

if TYPE_CHECKING:
    from memcache_shm.ops.pipe_companion import PipeCompanion

_HELP = """\
Carry out every *.job file in a directory, MAX_THREADS of them at a time, on one table.
What X.job prints goes to X.out beside it, its backups to X-1.bck, X-2.bck and so on; at
most MAX_BACKUPS processes write backups while the jobs go on.
"""
_EXAMPLES = f"""\
A job file has one command a line:

{job_lines.HELP}
The keys of one command are handled in one step: nobody's change falls in between. SHOW
and BACKUP are the state of one instant. A line that is no command is told on standard
error, with file and line, and the job goes on.

Without --name the jobs have a table of their own, which does not outlive them; it
evicts nothing: what does not fit is refused and told.

exit status: 0 all done; 1 something was not: a job or its output could not be read or
written, a command or a backup failed, a signal stopped the run; 2 wrong usage

examples:
  mkdir jobs
  echo 'WRITE [(fruit,apple)(root,carrot)]
  READ [fruit,nut]' > jobs/first.job
  {PROGRAM} run jobs 4 2; cat jobs/first.out
                                  [(fruit,apple)(nut,KVSERROR)]
  {PROGRAM} run jobs 16 4 -m 1g   with 1 GiB for the table
  {PROGRAM} run jobs 4 2 --name memcache_shm-11211
                                  on the table of a daemon
"""
_MOST_THREADS = 1024
_MOST_BACKUPS = 1024
_MOST = 2**48  # the geometry has its own limits, and tells them
_BAR_WIDTH = 30


def main(words: Sequence[str]) -> int:
    """Run all jobs of a directory. 0 when everything was done, else 1."""
    space = _parser().parse_intermixed_args(words)
    logging.basicConfig(format=f"{PROGRAM}: %(message)s")
    with (
        NotedSignals() as signals,
        JobDirectory(space.jobs_dir) as directory,
        _table(space) as cache,
        _pipes(space, signals, directory, cache) as pipes,
    ):
        status = _run(space, signals, directory, cache, pipes)
        if pipes is not None and not signals.stops:
            pipes.serve()
    return status


def _parser() -> Parser:
    parser = Parser(f"{PROGRAM} run", _HELP, _EXAMPLES)
    parser.add_argument("jobs_dir", metavar="JOBS_DIR", help="the directory with the files *.job")
    parser.add_argument("max_threads", metavar="MAX_THREADS", type=whole(1, _MOST_THREADS), help="jobs at a time")
    parser.add_argument("max_backups", metavar="MAX_BACKUPS", type=whole(1, _MOST_BACKUPS), help="processes that write backups at a time")
    shape = parser.add_argument("shape", nargs="*", default=[], type=whole(1, _MOST), help="the table: this many items up to this size")
    shape.metavar = "NUM_ELEMENTS ELEMENT_SIZE"
    parser.add_argument("--name", type=table_name, metavar="NAME", help=f"use this table, as '{PROGRAM} ls' shows it")
    memory_help = f"size of the table in MiB, or with k, m, g (default {DEFAULT_MEMORY_BYTES // MIB})"
    parser.add_argument("-m", "--memory-limit", dest="memory_bytes", type=size(MIB), metavar="MIB", help=memory_help)
    item_help = "largest value in bytes, or with k, m, g (default 1m)"
    parser.add_argument("-I", "--max-item-size", dest="max_item_bytes", type=size(1), metavar="SIZE", help=item_help)
    flags.add_pipes(parser)
    parser.set_defaults(feed_bytes=None, daemon=False)  # that of the daemon which the options' meaning is asked of
    return parser


@contextlib.contextmanager
def _table(space: argparse.Namespace) -> Iterator[Cache]:
    """The table of the run, attached; one of its own is removed at the end."""
    if space.name is not None:
        if space.shape or space.memory_bytes is not None or space.max_item_bytes is not None:
            raise UsageError("--name: that table has its size already; leave NUM_ELEMENTS ELEMENT_SIZE, -m and -I out")
        with attach_named(space.name, False, f"no right to write to table {space.name!r}, as jobs do") as cache:
            yield cache
        return
    geometry = table_geometry(space)
    name = f"run-{os.getpid()}-{secrets.token_hex(4)}"  # a pid alone may be that of one that was killed
    table, state = registry.open_or_create(name, geometry, evict=False)
    try:
        with Cache(table, name, state.directory) as cache:
            yield cache
    finally:
        with contextlib.suppress(TableNotFoundError):  # somebody else was faster
            registry.remove(name)


@contextlib.contextmanager
def _pipes(space: argparse.Namespace, signals: NotedSignals, directory: JobDirectory, cache: Cache) -> Iterator[PipeCompanion | None]:
    """The child that serves pipe sessions, forked before there are threads."""
    path = fifo_path(space)
    if path is None:
        yield None
        return
    if not cache.attached_table.geometry.feed_bytes:
        raise FeedOffError(f"--fifo: its clients are told of changes, and the feed of table {cache.name!r} is off; use another table")
    from memcache_shm.ops.fifo import hold_fifo, make_fifo, remove_fifo
    from memcache_shm.ops.pipe_companion import PipeCompanion

    def forget() -> None:
        signals.forget()
        directory.close()
        cache.close()

    swept = daemon_pid(cache.directory, cache.name) is not None
    with contextlib.ExitStack() as remains:
        make_fifo(path)
        remains.callback(remove_fifo, path)
        remains.callback(os.close, hold_fifo(path))  # who has registered waits while the child is started again
        sessions = space.fifo_sessions or flags.FIFO_SESSIONS
        pipes = PipeCompanion(cache.name, path, sessions, reclaims=not swept, signals=signals, forget=forget)
        remains.callback(pipes.end)
        pipes.start()
        yield pipes


def _run(space: argparse.Namespace, signals: NotedSignals, directory: JobDirectory, cache: Cache, pipes: PipeCompanion | None) -> int:
    """The jobs, to their end."""
    progress = Progress(sys.stderr)
    report = Report(progress.say)
    jobs = directory.jobs()
    if not jobs:
        note(f"no files *.job in {directory.path}: nothing to do")
    runner = Runner(
        cache,
        jobs,
        threads=space.max_threads,
        backups=space.max_backups,
        report=report,
        signals=signals,
        print_help=_printer(sys.stdout),
        progress=progress.show,
        on_signal=(lambda: None) if pipes is None else pipes.look,
    )
    started_s = time.monotonic()
    ran = runner.run()
    directory.close()
    progress.end(f"{_of(ran)}, {plural(ran.backups, 'backup')} in {time.monotonic() - started_s:.2f} s" if jobs else "")
    if signals.stops and ran.ended < ran.jobs:
        report.failure(f"{PROGRAM}: stopped by {signal.Signals(signals.stops[0]).name}: {_of(ran)} done")
    return EXIT_FAILURE if report.failed else EXIT_OK


def _of(ran: Ran) -> str:
    return f"{ran.ended} of {plural(ran.jobs, 'job')}"


def _printer(stream: TextIO | None) -> Callable[[str], None]:
    """What prints a text whole, whichever threads print at the same time. A closed standard output is none."""
    lock = threading.Lock()

    def write(text: str) -> None:
        if stream is not None:
            with lock:
                stream.write(text)
                stream.flush()

    return write


class Progress:
    """A line on the terminal that tells how far the jobs are, and the lines that are said meanwhile. Without a terminal only these."""

    def __init__(self, stream: TextIO | None) -> None:
        self._stream = stream  # None: standard error is closed
        self._shows = stream is not None and stream.isatty()
        self._line = ""  # on the terminal now
        self._lock = threading.Lock()  # any thread says something

    def say(self, text: str) -> None:
        """Print a line."""
        with self._lock:
            self._write(f"{self._wiped()}{text}\n{self._line}")

    def show(self, over: int, jobs: int, backups: int) -> None:
        """Draw anew: so many jobs are over, so many backups are being written."""
        if not self._shows or not jobs:
            return
        filled = over * _BAR_WIDTH // jobs
        line = f"[{'#' * filled}{'.' * (_BAR_WIDTH - filled)}] {over}/{jobs} jobs" + (f", {plural(backups, 'backup')}" if backups else "")
        with self._lock:
            self._write(f"{self._wiped()}{line}")
            self._line = line

    def end(self, summary: str) -> None:
        """The line goes; on a terminal the summary takes its place."""
        with self._lock:
            self._write(self._wiped())
            self._line = ""
        if self._shows and summary:
            note(summary)

    def _wiped(self) -> str:
        return f"\r{' ' * len(self._line)}\r" if self._line else ""

    def _write(self, text: str) -> None:
        if self._stream is not None and text:
            with contextlib.suppress(BrokenPipeError):  # nobody reads it: the exit status tells all the same
                self._stream.write(text)
                self._stream.flush()
