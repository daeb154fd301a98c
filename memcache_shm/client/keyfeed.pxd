"""Listening to single keys that may change (see keyfeed.pyx); fields of the listener."""

from libc.stdint cimport uint8_t, uint64_t

from memcache_shm.client.feed cimport AttachedFeed


cdef struct Wanted:
    Wanted *next                # of the same bucket
    uint64_t hash
    uint8_t klen
    char key[1]                 # and more


cdef class KeyFeed(AttachedFeed):
    cdef Wanted **bucket            # the keys that are wanted; NULL before the first
    cdef uint64_t hash_key0         # random, since keys may be hostile
    cdef uint64_t hash_key1

    cdef uint64_t hash_of(self, const char *key, size_t klen) noexcept nogil
    cdef Wanted **find_wanted(self, const char *key, size_t klen) noexcept nogil
    cdef object seen(self, bytes key)
