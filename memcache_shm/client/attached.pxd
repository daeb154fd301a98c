"""Changing one key straight in the table."""

from libc.stdint cimport int64_t, uint64_t

from memcache_shm.client.reading cimport Reading
from memcache_shm.storage.results cimport Change


cdef class Attached(Reading):
    cdef object store(self, int mode, object key, object value, object expire, object noreply, object flags, uint64_t cas)
    cdef int put(self, Change *change, int64_t exptime) except -1
    cdef object arith(self, bint decr, object key, object value, object noreply)
    cdef bint quiet(self, object noreply) except -1
