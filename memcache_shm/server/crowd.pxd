"""Who is connected to a worker (see crowd.pyx)."""

from libc.stdint cimport uint64_t

from memcache_shm.server.buffers cimport Buffer, Pool
from memcache_shm.server.connection cimport Connection, Queue
from memcache_shm.server.counters cimport WorkerFigures
from memcache_shm.server.executor cimport Executor
from memcache_shm.server.roster cimport Roster
from memcache_shm.server.transport cimport Transport


cdef class Crowd:
    cdef Executor executor
    cdef Transport transport
    cdef Pool pool
    cdef Roster roster          # the daemon's
    cdef WorkerFigures *figures
    cdef int epoll              # the loop's
    cdef uint64_t idle_ms       # without a byte from or to a client: it is closed; 0: never
    cdef uint64_t now_ms        # monotonic clock at the round's beginning
    cdef uint64_t looked_ms     # when idle ones were looked for last
    cdef Connection *all
    cdef Queue doomed           # DOOMED connections

    cdef Connection *_enter(self, int fd, int listener) noexcept nogil
    cdef bint _watch(self, Connection *c, unsigned int events) noexcept nogil
    cdef void _close_idle(self) noexcept nogil
    cdef bint _keep(self, Connection *c, Buffer *source) noexcept nogil
    cdef bint _reserve(self, Connection *c, Buffer *buffer, size_t size) noexcept nogil
    cdef bint _doom_idlest(self, const Connection *other) noexcept nogil
    cdef void _doom(self, Connection *c) noexcept nogil
    cdef void _close(self, Connection *c) noexcept nogil
