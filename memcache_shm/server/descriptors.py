"""Descriptors: as many as the connections need, and what is told when they are out."""

from __future__ import annotations

import logging
import os
import resource

from memcache_shm.server.counters import Counters
from memcache_shm.server.outage import Outage

log = logging.getLogger(__name__)

#: Descriptors of a process besides its connections: listeners, links, pipes, standard streams, the interpreter's own.
_OTHERS = 128


def raise_limit(connections: int, channels: int) -> None:
    """Any worker may come to hold every connection, and a bell for each that has a channel, when the others die. For whoever is still
    root, before ``serve``."""
    wanted = connections + channels + _OTHERS
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft >= wanted or soft == resource.RLIM_INFINITY:
        return
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, max(wanted, hard) if hard != resource.RLIM_INFINITY else hard))
    except (ValueError, PermissionError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        wishes = f"{wanted} wanted for {connections} connections and {channels} channels"
        log.warning("only %d descriptors allowed, %s; raise ulimit -n, or lower -c or --channels", hard, wishes)


class DescriptorWatch:
    """Tells when accepting pauses or workers lose connections for want of descriptors, and when that is over."""

    def __init__(self, counters: Counters) -> None:
        self._counters = counters
        self._pauses = 0
        self._lost = 0
        self._accepting = Outage()
        self._taking = Outage()

    def look(self) -> None:
        """Compare with the last look."""
        pauses, code = self._counters.pauses()
        if pauses != self._pauses:
            self._accepting.goes_on(f"accepting pauses: {os.strerror(code)}; clients wait (see ulimit -n, -c)")
        else:
            self._accepting.is_over("accepting goes on")
        lost = self._counters.lost()
        if lost != self._lost:
            reason = "a worker is out of descriptors (see ulimit -n, -c)"
            self._taking.goes_on(f"{lost - self._lost} connections lost: {reason}", reason)
        else:
            self._taking.is_over("no more connections lost")
        self._pauses, self._lost = pauses, lost
