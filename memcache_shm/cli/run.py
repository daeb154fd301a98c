"""`memcache-shm run`: job files, carried out by many threads on one table."""

from __future__ import annotations

import argparse
import contextlib
import logging
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

from memcache_shm.cli import flags
from memcache_shm.cli.arguments import Parser, size, table_name, whole
from memcache_shm.cli.attaching import attach_named
from memcache_shm.cli.messages import EXIT_FAILURE, EXIT_OK, PROGRAM, UsageError, plural
from memcache_shm.cli.options import fifo_path, table_geometry
from memcache_shm.cli.run_screen import Screen, ScreenHandler
from memcache_shm.client.cache import Cache
from memcache_shm.errors import FeedOffError, MemcacheError, NoSpaceError, TooLargeError
from memcache_shm.ops import job_lines
from memcache_shm.ops.job_directory import JobDirectory
from memcache_shm.ops.job_report import Report
from memcache_shm.ops.noted_signals import NotedSignals
from memcache_shm.ops.run_table import run_table
from memcache_shm.ops.runner import Ran, Runner
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

With --fifo the table is served over named pipes meanwhile, and after the jobs until
SIGINT or SIGTERM.

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
#: Where the table is the run's own: what helps when an item has no place in it.
_REMEDIES: dict[type[MemcacheError], str] = {
    NoSpaceError: "; -m or NUM_ELEMENTS for a larger one",
    TooLargeError: "; -I or ELEMENT_SIZE for larger ones",
}


def main(words: Sequence[str]) -> int:
    """Run all jobs of a directory. 0 when everything was done, else 1."""
    space = _parser().parse_intermixed_args(words)
    screen = Screen(sys.stdout, sys.stderr)
    logging.basicConfig(format="%(message)s", handlers=[ScreenHandler(screen)])
    with (
        NotedSignals() as signals,
        JobDirectory(space.jobs_dir) as directory,
        _table(space) as cache,
        _pipes(space, signals, directory, cache) as pipes,
    ):
        status = _run(space, signals, screen, directory, cache, pipes.look if pipes is not None else lambda: None)
        if pipes is not None and not signals.stops:
            screen.note(f"serving pipe sessions on {pipes.path}; SIGINT ends")
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


def _table(space: argparse.Namespace) -> contextlib.AbstractContextManager[Cache]:
    """The table of the run, attached; one of its own is removed at the end."""
    if space.name is None:
        return run_table(table_geometry(space))
    if space.shape or space.memory_bytes is not None or space.max_item_bytes is not None:
        raise UsageError("--name: that table has its size already; leave NUM_ELEMENTS ELEMENT_SIZE, -m and -I out")
    return attach_named(space.name, False, f"no right to write to table {space.name!r}, as jobs do")


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


def _run(
    space: argparse.Namespace, signals: NotedSignals, screen: Screen, directory: JobDirectory, cache: Cache, look: Callable[[], None]
) -> int:
    """The jobs, to their end."""
    report = Report(screen.say)
    jobs = directory.jobs()
    if not jobs:
        screen.note(f"no files *.job in {directory.path}: nothing to do")
    runner = Runner(
        cache,
        jobs,
        threads=space.max_threads,
        backups=space.max_backups,
        report=report,
        signals=signals,
        print_help=screen.print,
        progress=screen.show,
        on_signal=look,
        remedies={} if space.name is not None else _REMEDIES,
    )
    started_s = time.monotonic()
    ran = runner.run()
    directory.close()
    screen.end(f"{_of(ran)}, {plural(ran.backups, 'backup')} in {time.monotonic() - started_s:.2f} s" if jobs else "")
    if signals.stops and ran.ended < ran.jobs:
        report.failure(f"{PROGRAM}: stopped by {signal.Signals(signals.stops[0]).name}: {_of(ran)} done")
    return EXIT_FAILURE if report.failed else EXIT_OK


def _of(ran: Ran) -> str:
    return f"{ran.ended} of {plural(ran.jobs, 'job')}"
