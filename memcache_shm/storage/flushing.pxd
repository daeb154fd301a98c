"""flush_all (see flushing.pyx)."""

from libc.stdint cimport int64_t

from memcache_shm.storage.view cimport View

cdef int flush(View *v, int64_t delay_s, int wait) noexcept nogil
