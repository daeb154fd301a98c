"""What a process of the daemon has besides connections and the table: its standard streams, its memory in RAM."""

from __future__ import annotations

import logging
import os
import resource

from memcache_shm.server.process import lock_memory

log = logging.getLogger(__name__)


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
