"""Unix time, which appears on the wire and in files only, and expiries on the table clock.

Whole seconds, as in memcached's protocol. One way rounds up and the other down, so that an item that is copied from table to table
keeps the same exptime.
"""

from libc.stdint cimport INT64_MAX, int64_t, uint32_t, uint64_t

from memcache_shm.storage.atomics cimport CLOCK_BOOTTIME, CLOCK_REALTIME, clock_ns
from memcache_shm.storage.layout cimport EXPIRY_HZ

cdef enum:
    TICK_NS = 125000000         # 1 / EXPIRY_HZ
    FIRST_TICK = 2              # of the clock: see `ticks`
    OVER = 1                    # an expiry before every clock reading


cdef inline int64_t epoch_ns() noexcept nogil:
    """Unix time of the clock's zero. The shift moves the table's wall clock as well, so it does not count."""
    return <int64_t> clock_ns(CLOCK_REALTIME) - <int64_t> clock_ns(CLOCK_BOOTTIME)


cdef inline int64_t exptime_of(uint32_t expiry) noexcept nogil:
    """The second, unix time, in which an item with that expiry is gone; 0 for never."""
    cdef int64_t ns
    if expiry == 0:
        return 0
    ns = (<int64_t> expiry - FIRST_TICK) * TICK_NS + epoch_ns()
    return max((ns + 999999999) // 1000000000, <int64_t> 1)


cdef inline uint32_t expiry_at(int64_t exptime) noexcept nogil:
    """The expiry of which `exptime_of` gives that exptime, as far as the clock reaches: 17 years after the host's start."""
    cdef int64_t at
    if exptime <= 0:
        return 0 if exptime == 0 else <uint32_t> OVER
    if exptime > INT64_MAX // 1000000000:
        return 0
    at = (exptime * 1000000000 - epoch_ns()) // TICK_NS + FIRST_TICK
    if at <= FIRST_TICK:
        return OVER
    return 0 if at > <int64_t> 0xffffffff else <uint32_t> at
