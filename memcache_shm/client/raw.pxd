"""A table as its keeper looks at it."""

from libc.stdint cimport uint32_t

from memcache_shm.client.attached cimport Attached
from memcache_shm.client.reading cimport Key
from memcache_shm.storage.table cimport Table
from memcache_shm.storage.walk cimport Batch, Walk


cdef class RawTable(Attached):
    cdef object view(self, object key, Key *view)


cdef class KeyWalk:
    cdef RawTable source    # for its errors
    cdef Table table        # the one that is walked, whatever becomes of its name
    cdef Walk walk
    cdef Batch *batch       # of the bucket that was read last
    cdef uint32_t at        # the next item in it
    cdef bytes prefix       # of the keys that are wanted; its bytes:
    cdef const char *wanted
    cdef size_t wanted_size

    cdef bint scan(self) noexcept nogil
