"""Holding several shards at a time (see holding.pyx)."""

from libc.stdint cimport uint8_t, uint32_t

from memcache_shm.storage.view cimport View

cdef int take_shards(View *v, const uint8_t *wanted) noexcept nogil
cdef void give_shards(View *v, const uint8_t *wanted) noexcept nogil
cdef void show_progress(View *v, uint32_t first, uint32_t end, const uint8_t *wanted) noexcept nogil
