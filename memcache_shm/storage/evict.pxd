"""Taking items out of a shard (see evict.pyx)."""

from libc.stdint cimport uint32_t, uint64_t

from memcache_shm.storage.index cimport Path
from memcache_shm.storage.view cimport Shard, View


cdef enum:
    EVERYTHING = 0xffffffff     # buckets for a reap

cdef bint reap(View *v, Shard *s, uint64_t pinned) noexcept nogil
cdef uint32_t reclaim(View *v, Shard *s, uint32_t budget, uint32_t *seen) noexcept nogil
cdef bint may_have_dead(View *v, Shard *s, uint32_t *now) noexcept nogil
cdef bint is_dead(View *v, Shard *s, uint64_t word, uint32_t now, uint32_t *expiry) noexcept nogil
cdef uint64_t *next_victim(View *v, Shard *s, uint64_t pinned, uint32_t *bucket) noexcept nogil
cdef bint evict_one(View *v, Shard *s, uint64_t pinned) noexcept nogil
cdef void drop_victim(View *v, Shard *s, uint64_t *slot, uint32_t bucket) noexcept nogil
cdef void drop(View *v, Shard *s, uint64_t *slot, uint32_t bucket, int operation) noexcept nogil
cdef void free_record(View *v, Shard *s, uint64_t word) noexcept nogil
cdef bint seek(Shard *s, uint32_t bucket, uint32_t position, Path *p, uint32_t *i) noexcept nogil
