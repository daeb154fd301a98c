"""Making room in a shard (see room.pyx)."""

from libc.stdint cimport uint32_t, uint64_t

from memcache_shm.storage.arena cimport Runs
from memcache_shm.storage.view cimport Shard, View

cdef bint allocate(View *v, Shard *s, uint64_t size_bytes, uint32_t head_bytes, uint64_t pinned, Runs *out) noexcept nogil
cdef bint reserve_index(View *v, Shard *s, uint32_t n, uint32_t alignment, uint64_t pinned) noexcept nogil
