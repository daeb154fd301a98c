"""Reading without a lock (see reader.pyx)."""

from libc.stdint cimport uint32_t, uint64_t

from memcache_shm.storage.layout cimport ACCESS_AT, ACCESS_MASK, ACCESS_SHIFT, FETCHED_AT
from memcache_shm.storage.results cimport Found
from memcache_shm.storage.view cimport View, table_ns

cdef int find(View *v, Found *f, const char *key, size_t klen, int wait) noexcept nogil
cdef void copy(View *v, Found *f, char *dst) noexcept nogil
cdef bint confirm(View *v, Found *f) noexcept nogil
cdef void abandon(View *v, Found *f) noexcept nogil


cdef inline bint was_fetched(const Found *f) noexcept nogil:
    """Whether the item was read before this find."""
    return (f.word >> FETCHED_AT) & 1


cdef inline uint32_t idle_s(View *v, const Found *f) noexcept nogil:
    """Seconds since the last use before this find, at least: the item's word tells it in units of 64 s, and for 4.5 hours. 0 within the
    unit of that use."""
    cdef uint32_t now_s = <uint32_t> (table_ns(v) // 1000000000)
    cdef uint32_t units = ((now_s >> ACCESS_SHIFT) - <uint32_t> (f.word >> ACCESS_AT)) & ACCESS_MASK
    cdef uint32_t unit_s = 1 << ACCESS_SHIFT
    if f.record == NULL or units == 0:
        return 0
    return (units - 1) * unit_s + (now_s & (unit_s - 1)) + 1
