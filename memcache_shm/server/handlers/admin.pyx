# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False, auto_pickle=False
"""Commands about the daemon rather than its items."""

import logging

from libc.string cimport memcmp
from posix.unistd cimport getppid

from memcache_shm.protocol.request cimport (
    OP_DEBUGTIME, OP_MEMLIMIT, OP_REFRESH, OP_SHUTDOWN, OP_STATS, OP_VERBOSITY, OP_VERSION, Parser, Request,
)
from memcache_shm.server.executor cimport Executor, handle
from memcache_shm.server.linux cimport SIGHUP, SIGTERM, kill

from memcache_shm import version

cdef enum:
    MEMLIMIT_LEAST_MIB = 8

cdef bytes version_line = f"VERSION {version.WIRE_VERSION}\r\n".encode()
cdef const char *VERSION = version_line

cdef object log = logging.getLogger(__name__)


cdef void _version(Executor self, Parser *parser, const Request *request) noexcept nogil:
    self.say(request, VERSION)


cdef void _verbosity(Executor self, Parser *parser, const Request *request) noexcept nogil:
    self.counters.daemon.verbosity = request.number
    self.say(request, b"OK\r\n")


cdef void _memlimit(Executor self, Parser *parser, const Request *request) noexcept nogil:
    """Accepted without effect, since a segment's size is fixed when it is made; refused where memcached refuses it."""
    if request.number < MEMLIMIT_LEAST_MIB:
        self.say(request, b"MEMLIMIT_TOO_SMALL cannot set maxbytes to less than 8m\r\n")
    else:
        self.say(request, b"OK\r\n")


cdef void _shutdown(Executor self, Parser *parser, const Request *request) noexcept nogil:
    """As if the supervisor had been sent SIGTERM. memcached leaves at once or, with `graceful`, after a while; here every stop answers
    what was read and takes a while only for slow clients."""
    cdef bint graceful = request.klen == 8 and memcmp(request.key, b"graceful", 8) == 0
    if not self.allows_shutdown:
        self.say(request, b"ERROR: shutdown not enabled\r\n")
    elif request.klen != 0 and not graceful:
        self.say(request, b"CLIENT_ERROR invalid shutdown mode\r\n")
    else:
        self.client.closing = True
        _signal_supervisor(self, SIGTERM)


cdef void _refresh(Executor self, Parser *parser, const Request *request) noexcept nogil:
    """As if the supervisor had been sent SIGHUP; whether the new certificates are good is told by the log."""
    if not self.has_certificates:
        self.say(request, b"Error TLS not enabled\r\n")
    else:
        _signal_supervisor(self, SIGHUP)
        self.say(request, b"OK\r\n")


cdef inline void _signal_supervisor(Executor self, int number) noexcept nogil:
    """Never another process: a worker whose parent is gone is about to go, too."""
    if getppid() == self.counters.daemon.pid:
        kill(<int> self.counters.daemon.pid, number)


cdef void _debugtime(Executor self, Parser *parser, const Request *request) noexcept nogil:
    if not self.allows_debugtime or not self.table.shift_clock(request.exptime):
        self.say(request, b"ERROR\r\n")
    else:
        self.say(request, b"OK\r\n")


cdef void _stats(Executor self, Parser *parser, const Request *request) noexcept nogil:
    with gil:
        _stats_with_gil(self, request)


cdef int _stats_with_gil(Executor self, const Request *request) except -1:
    """The figures are Python's; what goes wrong there is logged, and the client told."""
    cdef bytes text
    try:
        text = self.stats_text(request.key[:request.klen] if request.klen else b"")
    except Exception:
        log.exception("stats failed")
        text = b"SERVER_ERROR stats failed, see the log\r\n"
    self.put(text, len(text))
    return 0


handle(OP_VERSION, _version)
handle(OP_VERBOSITY, _verbosity)
handle(OP_STATS, _stats)
handle(OP_SHUTDOWN, _shutdown)
handle(OP_REFRESH, _refresh)
handle(OP_DEBUGTIME, _debugtime)
handle(OP_MEMLIMIT, _memlimit)
