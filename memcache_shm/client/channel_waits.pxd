"""How a client waits for its rings: it looks for a while, then sleeps on its futex, and sees when the worker is gone."""

from libc.errno cimport EINTR, errno
from libc.stdint cimport int64_t, uint32_t, uint64_t

from memcache_shm.storage.atomics cimport CLOCK_MONOTONIC, clock_ns, futex_wait_ns
from memcache_shm.storage.patience cimport Patience, looked_in_vain, looked_long_enough, may_look, pass_time
from memcache_shm.storage.rings cimport (
    WAITS_BYTES, WAITS_ROOM, End, arrived, go_to_sleep, is_over, room, shares_processor, stay_awake,
)

cdef extern from "<poll.h>" nogil:
    enum:
        POLLRDHUP
    struct pollfd:
        int fd
        short events
        short revents
    int poll(pollfd *fds, unsigned long count, int timeout_ms)

cdef enum:
    LOOK_NS = 200000000         # between two looks, while asleep, whether the worker is still there

cdef enum Outcome:              # of a wait
    READY = 0
    LATE = 1
    GONE = 2                    # the worker's process is
    INTERRUPTED = 3             # by a signal


cdef inline bint is_ready(End *end, uint32_t bits) noexcept nogil:
    if bits & WAITS_BYTES and (is_over(end) or arrived(end)):
        return True
    return bits & WAITS_ROOM and room(end) or end.broken


cdef inline bint has_hung_up(int fd) noexcept nogil:
    cdef pollfd asked
    asked.fd = fd
    asked.events = POLLRDHUP
    return poll(&asked, 1, 0) > 0


cdef inline int look(End *end, uint32_t bits, Patience *patience, uint64_t begun_ns, int64_t limit_ns) noexcept nogil:
    """Before a sleep, which is dearer. READY or LATE."""
    cdef uint64_t now_ns = begun_ns
    cdef bint shared
    while True:
        if is_ready(end, bits):
            looked_long_enough(patience, now_ns - begun_ns)
            return READY
        now_ns = clock_ns(CLOCK_MONOTONIC)
        shared = shares_processor(end)
        if not may_look(patience, now_ns, shared):
            return LATE
        if <int64_t> (now_ns - begun_ns) >= min(patience.look_ns, limit_ns):
            looked_in_vain(patience)
            return LATE
        pass_time(patience, begun_ns, now_ns, shared)


cdef inline int sleep(End *end, uint32_t bits, int fd, const bint *closed, uint64_t begun_ns, int64_t limit_ns) noexcept nogil:
    """Until one of the bits is so, or something else happens, as another thread's `close`; an Outcome."""
    cdef int64_t left_ns
    cdef bint hung_up = False
    cdef bint interrupted = False
    while True:
        go_to_sleep(end, bits)
        if is_ready(end, bits):
            break
        left_ns = limit_ns - <int64_t> (clock_ns(CLOCK_MONOTONIC) - begun_ns)
        if hung_up or interrupted or left_ns <= 0 or closed[0]:
            stay_awake(end)
            return GONE if hung_up or closed[0] else INTERRUPTED if interrupted else LATE
        if futex_wait_ns(end.my_waits, bits, min(left_ns, <int64_t> LOOK_NS)) < 0:
            interrupted = errno == EINTR
            hung_up = has_hung_up(fd)      # then one more look: it may have sent something before
    stay_awake(end)
    return READY
