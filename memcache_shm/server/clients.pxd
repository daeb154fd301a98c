"""A worker's connections: bytes in, requests executed, replies out, in bounded turns."""

from libc.stdint cimport uint64_t

from memcache_shm.server.buffers cimport Buffer, Pool
from memcache_shm.server.connection cimport Connection, Queue
from memcache_shm.server.counters cimport WorkerFigures
from memcache_shm.server.executor cimport Executor
from memcache_shm.server.guests cimport Guests
from memcache_shm.server.transport cimport Transport

cdef enum:
    INPUT_SIZE = 64 << 10       # of the buffer that all connections receive into
    DIRECT_NEED = 16 << 10      # a request longer than this is received into the connection's own buffer
    FLUSH_SIZE = 64 << 10       # replies are sent once so many bytes wait
    TURN_SIZE = 1 << 20         # reply bytes after which a connection lets others go first
    RETRY_MS = 1                # between two tries of the WAITING connections


cdef enum Sent:                 # what became of the replies
    ALL = 0
    SOME = 1                    # the client is slow: the connection is BLOCKED
    NONE = 2                    # the connection is broken


cdef class Clients:
    cdef Executor executor
    cdef Transport transport
    cdef Guests guests
    cdef Pool pool
    cdef WorkerFigures *figures
    cdef size_t max_value       # the table's
    cdef int epoll              # the loop's
    cdef bint draining          # no new requests: close whoever has nothing left to get
    cdef Buffer input           # what the running turn received, where the connection needs no buffer of its own
    cdef Connection *all
    cdef Queue turns            # YIELDED and UNREAD connections
    cdef Queue waiters          # WAITING connections
    cdef uint64_t tried_ns      # when these were tried last

    cdef void adopt(self, int fd, int listener, uint64_t serial) noexcept nogil
    cdef void ready(self, Connection *c) noexcept nogil
    cdef int patience_ms(self, int timeout_ms) noexcept nogil
    cdef void take_turns(self) noexcept nogil
    cdef void _take_turns_of(self, Queue *queue) noexcept nogil
    cdef void drain(self) noexcept nogil
    cdef void close_all(self) noexcept nogil
    cdef void _receive(self, Connection *c) noexcept nogil
    cdef Buffer *_input_for(self, Connection *c) noexcept nogil
    cdef void _end_of_input(self, Connection *c) noexcept nogil
    cdef void _run(self, Connection *c, Buffer *source) noexcept nogil
    cdef bint _next(self, Connection *c, Buffer *source) noexcept nogil
    cdef bint _keep(self, Connection *c, Buffer *source) noexcept nogil
    cdef int _send(self, Connection *c) noexcept nogil
    cdef void _send_rest(self, Connection *c) noexcept nogil
    cdef bint _watch(self, Connection *c, unsigned int events) noexcept nogil
    cdef void _queue(self, Connection *c, Queue *queue, int flow) noexcept nogil
    cdef void _close(self, Connection *c) noexcept nogil
