"""A table that follows another (see following.pyx)."""

from libc.stdint cimport uint64_t

from memcache_shm.storage.view cimport View

cdef int promote(View *v, uint64_t *highest) noexcept nogil
