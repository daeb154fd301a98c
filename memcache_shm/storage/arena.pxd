"""Runs of granules in a shard's arena (see arena.pyx)."""

from libc.stdint cimport int64_t, uint32_t, uint64_t

from memcache_shm.storage.layout cimport MAX_RUNS
from memcache_shm.storage.view cimport Arena


cdef struct Runs:               # where one record lies or is to lie
    uint32_t n
    uint32_t start[MAX_RUNS]
    uint32_t granules[MAX_RUNS]


cdef int64_t find_run(Arena *a, uint32_t low, uint32_t high, uint32_t n, bint whole) noexcept nogil
cdef int64_t find_aligned(Arena *a, uint32_t low, uint32_t high, uint32_t n, uint32_t alignment) noexcept nogil
cdef int64_t run_around(Arena *a, uint32_t granule, uint32_t high, uint32_t n) noexcept nogil
cdef bint gather_runs(Arena *a, uint32_t high, uint64_t payload, uint32_t overhead_first, Runs *out) noexcept nogil
cdef void mark(Arena *a, uint32_t start, uint32_t n) noexcept nogil
cdef void clear(Arena *a, uint32_t start, uint32_t n) noexcept nogil
cdef bint all_free(Arena *a, uint32_t start, uint32_t n) noexcept nogil
cdef uint32_t next_used(Arena *a, uint32_t at, uint32_t end) noexcept nogil
cdef uint32_t next_free(Arena *a, uint32_t at, uint32_t end) noexcept nogil
cdef uint32_t free_start(Arena *a, uint32_t at, uint32_t low) noexcept nogil
cdef uint32_t longest_in(Arena *a, uint32_t block) noexcept nogil
cdef void forget_longest(Arena *a) noexcept nogil
cdef void raise_longest(Arena *a, uint32_t start, uint32_t n) noexcept nogil

cdef inline bint is_used(Arena *a, uint32_t granule) noexcept nogil:
    return (a.bitmap[granule >> 6] >> (granule & 63)) & 1

cdef inline uint32_t granules_for(Arena *a, uint64_t size_bytes) noexcept nogil:
    return <uint32_t> ((size_bytes + a.granule_bytes - 1) // a.granule_bytes)

cdef inline uint32_t blocks(Arena *a, uint32_t granules) noexcept nogil:
    """How many blocks hold the first `granules`."""
    return (granules + BLOCK_MASK) >> BLOCK_LOG2

cdef enum:
    BLOCK_LOG2 = 9              # of layout.BLOCK
    BLOCK_MASK = 511
