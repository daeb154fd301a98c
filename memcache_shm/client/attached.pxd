"""Changing one key straight in the table."""

from libc.stdint cimport int64_t, uint32_t, uint64_t

from memcache_shm.client.reading cimport Key, Reading


cdef class Attached(Reading):
    cdef object store(self, int mode, object key, object value, object expire, object noreply, object flags, uint64_t cas)
    cdef int put(self, int mode, Key *key, bytes value, uint32_t flags, int64_t exptime, uint64_t cas) except -1
    cdef object arith(self, bint decr, object key, object value, object noreply)
    cdef bint quiet(self, object noreply) except -1
