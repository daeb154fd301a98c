"""A worker's channels: connections whose bytes go through rings in shared memory (see channels.pyx)."""

from libc.stdint cimport uint8_t, uint32_t, uint64_t

from memcache_shm.server.connection cimport Connection
from memcache_shm.server.counters cimport Counters, WorkerFigures
from memcache_shm.server.handover cimport LISTENERS_MAX
from memcache_shm.storage.patience cimport Patience
from memcache_shm.storage.rings cimport End


cdef enum Opened:               # what became of a request for a channel
    OPENED = 0
    NOT_LOCAL = 1               # the connection is none of a UNIX socket, or it speaks TLS
    TOO_MANY_CHANNELS = 2
    NO_MEANS = 3                # no descriptor or no memory


cdef struct Channel:
    End end
    Connection *client
    int bell                    # an eventfd, rung by the client when the worker sleeps. Never read: the client may have made that block
    uint32_t place              # in the list of those that are looked at, or NOWHERE
    bint gone                   # the client closed its socket, or died
    uint64_t heard_ns           # when it was ready last, or watched first; monotonic clock, as of the round


cdef class Channels:
    cdef Counters counters
    cdef WorkerFigures *figures     # this worker's
    cdef int epoll              # the loop's
    cdef uint64_t most          # of the daemon (--channels)
    cdef uint8_t local[LISTENERS_MAX]   # by a listener's place: connections that came through it may have a channel
    cdef Connection **watched   # those that are looked at; what comes on the others rings
    cdef uint32_t watched_count
    cdef Patience patience      # how long to look before a sleep
    cdef uint64_t busy_ns       # when somebody was ready last, or went to sleep; monotonic clock
    cdef bint slept             # nothing has come since the sleep
    cdef uint64_t weeded_ns     # when those that are silent were asked for their bells last
    cdef bint leaving           # the worker is: what was not taken by then stays where it is

    cdef int open(self, Connection *c, uint64_t request_bytes, uint64_t reply_bytes) noexcept nogil
    cdef ssize_t receive(self, Connection *c, char *dst, size_t size) noexcept nogil
    cdef ssize_t transmit(self, Connection *c, const char *src, size_t size) noexcept nogil
    cdef void end(self, Connection *c) noexcept nogil
    cdef void watch(self, Connection *c) noexcept nogil
    cdef void hear_bell(self, Connection *c) noexcept nogil
    cdef void hear_end(self, Connection *c) noexcept nogil
    cdef bint is_ready(self, const Connection *c) noexcept nogil
    cdef bint any_ready(self) noexcept nogil
    cdef bint all_share_processor(self) noexcept nogil
    cdef bint is_patient(self, uint64_t now_ns, bint shared) noexcept nogil
    cdef void note_ready(self, uint64_t now_ns) noexcept nogil
    cdef void weed(self) noexcept nogil
    cdef bint _fell_asleep(self, Connection *c) noexcept nogil
    cdef bint sleep(self, uint64_t now_ns) noexcept nogil
    cdef void _show(self, Connection *c, bint opened) noexcept nogil
    cdef bint _admit(self) noexcept nogil
    cdef bint _make(self, Channel *channel, uint64_t request_bytes, uint64_t reply_bytes) noexcept nogil
    cdef void _release(self, Channel *channel) noexcept nogil
    cdef void _forget(self, Channel *channel) noexcept nogil


cdef inline void *bell_tag(Connection *c) noexcept nogil:
    """epoll's tag of a channel's bell: the connection's own is even."""
    return <void *> (<size_t> c | 1)


cdef inline bint is_bell_tag(const void *tag) noexcept nogil:
    return <size_t> tag & 1 != 0


cdef inline Connection *of_bell_tag(void *tag) noexcept nogil:
    return <Connection *> (<size_t> tag & ~<size_t> 1)
