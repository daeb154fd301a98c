"""Taking items out of a shard (see evict.pyx)."""

from libc.stdint cimport uint32_t, uint64_t

from memcache_shm.storage.index cimport Path
from memcache_shm.storage.view cimport Shard, View

cdef uint64_t *next_victim(View *v, Shard *s, uint64_t pinned, uint32_t *bucket) noexcept nogil
cdef bint evict_one(View *v, Shard *s, uint64_t pinned) noexcept nogil
cdef void drop_victim(View *v, Shard *s, uint64_t *slot, uint32_t bucket) noexcept nogil
cdef void drop(View *v, Shard *s, uint64_t *slot, uint32_t bucket, int operation) noexcept nogil
cdef void free_record(View *v, Shard *s, uint64_t word) noexcept nogil
cdef bint seek(Shard *s, uint32_t bucket, uint32_t position, Path *p, uint32_t *i) noexcept nogil
