"""``-d``: the daemon leaves the process that was started, which ends only when the daemon serves or has failed.

    starter ---- fork ----> daemon: setsid, cd /
       |                       |
       waits on a pipe <-------+ one byte when it serves; the end of the pipe when it ended before
       exit status 0, or the daemon's own

Until it serves the daemon has the starter's standard error, so that whoever starts it reads why it failed.
"""

from __future__ import annotations

import os
import sys

from memcache_shm.cli.messages import EXIT_FAILURE, EXIT_OK, error
from memcache_shm.storage.statefile import DIRECTORY_VARIABLE

_SERVES = b"S"


class Background:
    """The daemon's end of the pipe."""

    def __init__(self, writer: int) -> None:
        self._writer = writer

    def serves(self) -> None:
        """Let the starter end. Called once."""
        try:
            os.write(self._writer, _SERVES)
        except BrokenPipeError:  # it was killed, while the daemon came up: that is no reason to go
            return
        finally:
            os.close(self._writer)


def leave(*, stay: bool) -> Background:
    """Returns in the daemon only; `stay`: in this directory, where cores are to be written.

    Called before anything is made: POSIX locks, and whom a child tells of its end, belong to one process.
    """
    reader, writer = os.pipe()
    sys.stdout.flush()
    sys.stderr.flush()
    daemon = os.fork()
    if daemon:
        os.close(writer)
        raise SystemExit(_wait(daemon, reader))
    os.close(reader)
    os.setsid()
    if os.environ.get(DIRECTORY_VARIABLE):
        os.environ[DIRECTORY_VARIABLE] = os.path.abspath(os.environ[DIRECTORY_VARIABLE])
    if not stay:
        os.chdir("/")
    return Background(writer)


def _wait(daemon: int, reader: int) -> int:
    """The starter's exit status."""
    if os.read(reader, 1) == _SERVES:
        return EXIT_OK
    status = os.waitstatus_to_exitcode(os.waitpid(daemon, 0)[1])
    if status < 0:
        error(f"the daemon was killed by signal {-status} before it served")
    return status if status > 0 else EXIT_FAILURE
