"""How long to look at a ring before a sleep, and what to do between two looks: learnt by each process for itself.

A look costs nanoseconds, a sleep and its end some microseconds, so it pays to look for a while where the other side is at work on another
processor. Between two looks the processor is offered to others (sched_yield): at once where the other side runs on this very one, and has
to have it before there is anything to see, else after a moment. Who gets it may be a stranger, though, that keeps it for a whole slice of
time: then nothing is offered for a while, and where that leaves nothing to hope for one sleeps at once.
"""

from libc.stdint cimport int64_t, uint64_t

from memcache_shm.storage.atomics cimport CLOCK_MONOTONIC, clock_ns, cpu_pause

cdef extern from "<sched.h>" nogil:
    int sched_yield()

cdef enum:
    LOOK_LEAST_NS = 1000
    LOOK_FIRST_NS = 16000
    LOOK_MOST_NS = 80000        # a processor that idles takes nearly as long to wake, in a virtual machine
    KEEP_NS = 2000              # of a look, before the processor is offered
    PAUSES = 8                  # where it is not
    STRANGER_NS = 1000000       # that an offer may cost: the kernel's slices are longer
    SHY_LEAST_NS = 100000000    # without an offer after one that cost more
    SHY_MOST_NS = 3200000000


cdef struct Patience:           # nanoseconds; times of the monotonic clock
    int64_t look_ns             # how long to look
    uint64_t offer_from_ns      # when the processor may be offered again
    int64_t shy_ns              # how long not, the last time


cdef inline void init_patience(Patience *p) noexcept nogil:
    p.look_ns = LOOK_FIRST_NS
    p.offer_from_ns = 0
    p.shy_ns = 0


cdef inline bint may_look(const Patience *p, uint64_t now_ns, bint shared) noexcept nogil:
    """Whether there may be something to see; `shared`: the other side runs on this processor."""
    return not shared or now_ns >= p.offer_from_ns


cdef inline void pass_time(Patience *p, uint64_t begun_ns, uint64_t now_ns, bint shared) noexcept nogil:
    """Between two looks of a series that has begun then."""
    cdef int _pause
    cdef uint64_t back_ns
    if now_ns < p.offer_from_ns or not shared and now_ns - begun_ns < KEEP_NS:
        for _pause in range(PAUSES):
            cpu_pause()
        return
    sched_yield()
    back_ns = clock_ns(CLOCK_MONOTONIC)
    if back_ns - now_ns < STRANGER_NS:
        p.shy_ns = 0
        return
    p.shy_ns = min(max(2 * p.shy_ns, <int64_t> SHY_LEAST_NS), <int64_t> SHY_MOST_NS)
    p.offer_from_ns = back_ns + p.shy_ns


cdef inline void looked_long_enough(Patience *p, int64_t took_ns) noexcept nogil:
    """Something was there before a sleep. It may come later the next time."""
    if took_ns > p.look_ns // 2:
        p.look_ns = min(p.look_ns * 2, <int64_t> LOOK_MOST_NS)


cdef inline void looked_in_vain(Patience *p) noexcept nogil:
    p.look_ns = max(p.look_ns // 2, <int64_t> LOOK_LEAST_NS)


cdef inline void slept_too_early(Patience *p, int64_t slept_ns) noexcept nogil:
    """Something came from another processor so soon after a sleep had begun: a longer look may have seen it."""
    if slept_ns < LOOK_MOST_NS:
        p.look_ns = min(p.look_ns * 2, <int64_t> LOOK_MOST_NS)
