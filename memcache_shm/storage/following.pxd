"""A table that follows another (see following.pyx)."""

from libc.stdint cimport uint64_t

from memcache_shm.storage.view cimport View

cdef enum:
    CAS_SANE = 0x1fffffffffffffff   # a larger id was chosen by somebody: version counters are not raised above it

cdef int promote(View *v, uint64_t *highest) noexcept nogil
