"""Changing items (see writer.pyx)."""

from libc.stdint cimport int64_t, uint32_t

from memcache_shm.storage.results cimport Change
from memcache_shm.storage.view cimport View

cdef enum:
    RELATIVE_MAX_S = 2592000        # 30 days: a larger exptime is unix time, as in memcached
    FAR_S = 4000000000              # 127 years: beyond what the clock's arithmetic is for

cdef int store(View *v, Change *c, int wait) noexcept nogil
cdef int remove(View *v, const Change *c, int wait) noexcept nogil
cdef int invalidate(View *v, Change *c, int wait) noexcept nogil
cdef int arith(View *v, Change *c, int wait) noexcept nogil
cdef int touch(View *v, const char *key, size_t klen, uint32_t expiry, int wait) noexcept nogil
cdef uint32_t expiry_from(View *v, int64_t exptime) noexcept nogil
