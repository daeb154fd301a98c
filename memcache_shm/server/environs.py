"""What a process of the daemon has besides connections and the table: its standard streams, its memory in RAM."""

from __future__ import annotations

import logging
import os
import resource
import sys

from memcache_shm.server.process import lock_memory

log = logging.getLogger(__name__)


def fill_streams() -> None:
    """Standard streams that were closed before the start (`2>&-`) are nobody's; else the next file or socket would take their place, and
    get what is written there."""
    for stream in range(3):
        try:
            os.fstat(stream)
        except OSError:
            os.dup2(os.open(os.devnull, os.O_RDWR), stream)  # the lowest number that is free: this one
    if sys.stdout is None:
        sys.stdout = open(1, "w", closefd=False)  # noqa: SIM115
    if sys.stderr is None:
        sys.stderr = open(2, "w", closefd=False)  # noqa: SIM115


def leave_streams() -> None:
    """From now on standard input, output and error are nobody's: whoever started the daemon need not wait for their end."""
    null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
    for stream in range(3):
        os.dup2(null, stream)
    os.close(null)


def stay_in_memory(level: int = logging.INFO) -> None:
    """Lock all memory, ``-k``, or log at `level` why not; children need their own call.

    Where there is a limit, what comes later is left out: it would be refused.
    """
    limit = resource.getrlimit(resource.RLIMIT_MEMLOCK)[0]
    try:
        lock_memory(limit == resource.RLIM_INFINITY)
    except OSError as error:
        log.log(level, "-k: memory is not locked: %s (see ulimit -l, LimitMEMLOCK)", os.strerror(error.errno or 0))
