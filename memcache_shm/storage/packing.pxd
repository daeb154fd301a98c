"""A packed item: how snapshots and backups have it, and the bytes of a backup file (`memcache_shm.client.items` is the same in Python).

    0 value bytes (4) | 4 flags (4) | 8 expires_ms (8) | 16 CAS id (8) | 24 key bytes (1) | 25 state (1) | 26 zero (2) | 28 key, value

Little-endian, as all hosts are that this runs on. `expires_ms` is unix time in ms, 0 for never.
"""

from libc.stdint cimport INT64_MAX, int64_t, uint8_t, uint16_t, uint32_t, uint64_t

from memcache_shm.storage.unixtime cimport FIRST_TICK, OVER, TICK_NS

cdef enum:
    PACKED_HEAD = 28


cdef packed struct Packed:
    uint32_t value_length
    uint32_t flags
    int64_t expires_ms
    uint64_t cas
    uint8_t key_length
    uint8_t state               # STATE_STALE, STATE_TOKEN_SENT
    uint16_t zero


cdef inline int64_t expires_ms_of(uint32_t expiry, int64_t epoch_ns) noexcept nogil:
    """`epoch_ns`: of unixtime."""
    if expiry == 0:
        return 0
    return max(((<int64_t> expiry - FIRST_TICK) * TICK_NS + epoch_ns + 500000) // 1000000, <int64_t> 1)


cdef inline uint32_t expiry_of(int64_t expires_ms, int64_t epoch_ns) noexcept nogil:
    """The nearest expiry, so that what was packed on this host gets its own again; 0 (never) beyond the clock's reach."""
    cdef int64_t at
    if expires_ms <= 0:
        return 0 if expires_ms == 0 else <uint32_t> OVER
    if expires_ms > INT64_MAX // 1000000 - TICK_NS:
        return 0
    at = (expires_ms * 1000000 - epoch_ns + TICK_NS // 2) // TICK_NS + FIRST_TICK
    if at <= FIRST_TICK:
        return OVER
    return 0 if at > <int64_t> 0xffffffff else <uint32_t> at
