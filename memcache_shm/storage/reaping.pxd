"""Dropping dead records (see reaping.pyx)."""

from libc.stdint cimport uint32_t, uint64_t

from memcache_shm.storage.view cimport Shard, View

cdef bint reap(View *v, Shard *s, uint64_t pinned) noexcept nogil
cdef uint32_t reclaim(View *v, Shard *s, uint32_t chunks) noexcept nogil
cdef bint may_have_dead(View *v, Shard *s, uint32_t *now) noexcept nogil
cdef bint is_dead(View *v, Shard *s, uint64_t word, uint32_t now, uint32_t *expiry) noexcept nogil
