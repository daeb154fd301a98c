"""Changing items (see writer.pyx)."""

from libc.stdint cimport int64_t, uint32_t, uint64_t

from memcache_shm.storage.view cimport View

cdef enum:
    RELATIVE_MAX_S = 2592000        # 30 days: a larger exptime is unix time, as in memcached
    FAR_S = 4000000000              # 127 years: beyond what the clock's arithmetic is for

cdef int store(View *v, int mode, const char *key, size_t klen, const char *value, size_t vlen,
               uint32_t flags, uint32_t expiry, uint64_t cas, uint64_t *version, int wait) noexcept nogil
cdef int remove(View *v, const char *key, size_t klen, uint64_t cas, int wait) noexcept nogil
cdef int arith(View *v, const char *key, size_t klen, bint decr, uint64_t delta,
               uint64_t *result, uint64_t *version, int wait) noexcept nogil
cdef int touch(View *v, const char *key, size_t klen, uint32_t expiry, int wait) noexcept nogil
cdef uint32_t expiry_from(View *v, int64_t exptime) noexcept nogil
