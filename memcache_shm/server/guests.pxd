"""Clients that have not said who they are, where the daemon asks for that (``-Y``)."""

from memcache_shm.protocol.request cimport Request
from memcache_shm.server.buffers cimport Buffer
from memcache_shm.server.connection cimport Connection
from memcache_shm.server.counters cimport WorkerFigures
from memcache_shm.server.executor cimport Executor

cdef enum:
    GUEST_BYTES_MAX = 4096      # of requests that were refused, before a guest is cut off
    REFUSALS_MAX = 8            # the last one ends the connection


cdef class Guests:
    cdef Executor executor      # its out buffer takes the replies
    cdef WorkerFigures *figures
    cdef bint asks              # whether clients begin as guests
    cdef object admits          # Callable[[bytes], bool], of "user password"
    cdef bint hear(self, Connection *c, Buffer *source) noexcept nogil
    cdef void _refused(self, Connection *c, size_t size) noexcept nogil
    cdef bint _admits(self, const Request *request) noexcept with gil
