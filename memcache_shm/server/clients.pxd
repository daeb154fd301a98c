"""A worker's connections: bytes in, requests executed, replies out, in bounded turns."""

from libc.stdint cimport uint32_t, uint64_t

from memcache_shm.server.buffers cimport Buffer
from memcache_shm.server.channels cimport Channels
from memcache_shm.server.connection cimport Connection, Queue
from memcache_shm.server.crowd cimport Crowd
from memcache_shm.server.guests cimport Guests
from memcache_shm.server.subscribers cimport Subscribers

cdef enum:
    INPUT_SIZE = 64 << 10       # of the buffer that all connections receive into
    DIRECT_NEED = 16 << 10      # a request longer than this is received into the connection's own buffer
    FLUSH_SIZE = 64 << 10       # replies are sent once so many bytes wait
    TURN_SIZE = 256 << 10       # reply bytes after which a connection lets others go first
    REQUEST_COST = 128          # what a request costs besides its bytes and its reply's, as if it were so many more
    HEAVY_COST = 60000          # of a turn that was a long one
    ROUND_COST = 256 << 10      # of turns between two looks at what the others have sent
    RETRY_MS = 1                # between two tries of the WAITING connections
    LOOK_MS = 1000              # between two looks for idle ones


cdef enum Sent:                 # what became of the replies
    ALL = 0
    SOME = 1                    # the client is slow: the connection is BLOCKED
    NONE = 2                    # the connection is broken


cdef class Clients(Crowd):
    cdef Guests guests
    cdef Subscribers subscribers
    cdef Channels channels
    cdef size_t max_value       # the table's
    cdef uint32_t turn_requests  # requests after which a connection lets others go first (-R)
    cdef size_t spent           # cost of the running round's turns
    cdef bint draining          # no new requests: close whoever has nothing left to get
    cdef Buffer input           # what the running turn received, where the connection needs no buffer of its own
    cdef Queue turns            # YIELDED and UNREAD connections
    cdef Queue waiters          # WAITING connections
    cdef Queue listeners        # LISTENING connections
    cdef uint64_t tried_ms      # when these were tried last

    cdef void adopt(self, int fd, int listener) noexcept nogil
    cdef void ready(self, Connection *c) noexcept nogil
    cdef void hear_channels(self) noexcept nogil
    cdef int patience_ms(self, int timeout_ms) noexcept nogil
    cdef void take_turns(self) noexcept nogil
    cdef void hear_bell(self) noexcept nogil
    cdef void hear_news(self) noexcept nogil
    cdef void _tell_subscribers(self) noexcept nogil
    cdef void _tell(self, Connection *c) noexcept nogil
    cdef void _add_news(self, Connection *c) noexcept nogil
    cdef void _take_turn(self, Connection *c) noexcept nogil
    cdef void drain(self) noexcept nogil
    cdef void close_all(self) noexcept nogil
    cdef void _receive(self, Connection *c) noexcept nogil
    cdef Buffer *_input_for(self, Connection *c) noexcept nogil
    cdef void _end_of_input(self, Connection *c) noexcept nogil
    cdef void _run(self, Connection *c, Buffer *source) noexcept nogil
    cdef void _await_more(self, Connection *c, bint more) noexcept nogil
    cdef bint _next(self, Connection *c, Buffer *source) noexcept nogil
    cdef int _send(self, Connection *c) noexcept nogil
    cdef void _send_rest(self, Connection *c) noexcept nogil
    cdef bint _pour(self, Connection *c, Buffer *source, size_t *turn_size) noexcept nogil
    cdef void _listen(self, Connection *c) noexcept nogil
    cdef void _drop_input(self, Connection *c) noexcept nogil
