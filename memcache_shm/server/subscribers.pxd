"""A worker's subscribers (see subscribers.pyx)."""

from libc.stdint cimport uint32_t, uint64_t

from memcache_shm.protocol.request cimport IN_KEYS, IN_PATTERNS, OP_SUBSCRIBE
from memcache_shm.server.buffers cimport Buffer, Pool
from memcache_shm.server.connection cimport Connection
from memcache_shm.server.counters cimport WorkerFigures
from memcache_shm.server.patterns cimport Patterns
from memcache_shm.server.ringer cimport Ringer
from memcache_shm.server.subscriber cimport Subscriber
from memcache_shm.storage.listening cimport Event, Listener
from memcache_shm.storage.table cimport Table

cdef enum:
    PATTERNS_MAX = 1000         # of a connection
    SLOW_BYTES = 256 << 10      # that wait for a subscriber; beyond that it is told of nothing but its loss
    TELL_COST = 256 << 10       # of what is told between two looks at what the clients have sent
    SENDS_A_ROUND = 256         # subscribers that are sent something between two such looks
    LISTEN_MS = 100             # between two tries to listen where that may take long to become possible
    EVENT_COST = 128            # of an event, and of a copy of its text besides its bytes


cdef inline bint takes_news(const Connection *c) noexcept nogil:
    """Whether nothing of its own keeps news from a client: neither a stream, nor a line of gets or of subscriptions in the midst of which
    it is."""
    return c.outflow == NULL and c.parser.mode != IN_KEYS and not (c.parser.mode == IN_PATTERNS and c.parser.op == OP_SUBSCRIBE)


cdef class Subscribers:
    cdef Table table
    cdef Pool pool              # of the connections' buffers
    cdef Pool own               # of the worker's
    cdef WorkerFigures *figures
    cdef Patterns patterns
    cdef Ringer ringer
    cdef bint uses_cas
    cdef uint32_t users         # subscribers and copies (syncing.pyx); 0: nobody listens
    cdef Listener *listener     # NULL while nobody does
    cdef bint started           # it has begun to listen
    cdef bint fresh             # the bell has rung, or a look ended early
    cdef bint later             # a shard's lock is taken: look again in a moment
    cdef bint barred            # there is no listening for now, by want of a table or a thread: `later` means LISTEN_MS
    cdef uint64_t barred_ms     # since when
    cdef uint64_t renewed_ms    # when the lease was renewed last
    cdef Subscriber *all
    cdef uint32_t count         # of them
    cdef uint64_t match         # number of the last look who is to be told
    cdef bint held              # `event` is not told yet
    cdef Event event
    cdef Subscriber **matched   # who is to be told of it
    cdef size_t room            # in there
    cdef size_t found           # in use, of which
    cdef size_t at              # so many were told already
    cdef Buffer text            # the event's
    cdef Subscriber *owed_first     # who is to be sent something, oldest first
    cdef Subscriber *owed_last
    cdef uint32_t owed_count

    cdef int begin(self) noexcept nogil
    cdef void finish(self) noexcept nogil
    cdef int admit(self, Connection *c) noexcept nogil
    cdef int subscribe(self, Subscriber *s, const char *key, size_t klen, int kind) noexcept nogil
    cdef void unsubscribe(self, Subscriber *s, const char *key, size_t klen, int kind) noexcept nogil
    cdef void settle(self, Subscriber *s) noexcept nogil
    cdef void undo(self, Subscriber *s) noexcept nogil
    cdef void leave(self, Connection *c) noexcept nogil
    cdef void set_table(self, Table table) noexcept
    cdef void hear(self) noexcept nogil
    cdef void tell(self, uint64_t now_ms) noexcept nogil
    cdef Subscriber *next_owed(self) noexcept nogil
    cdef void owe(self, Subscriber *s) noexcept nogil
    cdef bint hand_over(self, Subscriber *s, Buffer *out) noexcept nogil
    cdef int _listen(self) noexcept nogil
    cdef int _take_event(self) noexcept nogil
    cdef size_t _all_of_them(self) noexcept nogil
    cdef bint _pass_on(self, size_t *cost) noexcept nogil
    cdef bint _append(self, Subscriber *s) noexcept nogil
    cdef void _lose(self, Subscriber *s, uint64_t position) noexcept nogil
    cdef void _lose_all(self, uint64_t position) noexcept nogil
    cdef void _forget(self, Subscriber *s) noexcept nogil
    cdef void _unmatch(self, const Subscriber *s) noexcept nogil
    cdef int _try_to_listen(self, uint64_t now_ms) noexcept nogil

    cdef inline int patience_ms(self, int timeout_ms, int retry_ms) noexcept nogil:
        """How long the loop may sleep; -1 for ever."""
        if self.fresh or self.owed_first != NULL:
            return 0
        if self.later:
            retry_ms = LISTEN_MS if self.barred else retry_ms
            return retry_ms if timeout_ms < 0 else min(timeout_ms, retry_ms)
        return timeout_ms
