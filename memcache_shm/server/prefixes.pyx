# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False, auto_pickle=False
"""Counts by the keys' prefixes, for `stats detail`: what is in front of the first delimiter, where a key has one.

A fixed table in an anonymous mapping made before the fork. A worker names a free place by compare-and-swap; one that dies between the two
steps of it leaves a place that nobody uses until the next `clear`. Two workers that name a prefix at the same moment may take a place
each; their counts are added when they are asked for.
"""

import mmap

from libc.stdint cimport uint8_t, uint32_t
from libc.string cimport memchr, memcmp, memcpy, memset

from memcache_shm.protocol.encoding cimport is_binary
from memcache_shm.server.prefixes cimport PREFIXES, PREFIX_MAX, Prefix
from memcache_shm.storage.atomics cimport cas32, fetch_add64, load_acquire32, store_release32

cdef enum:
    NAMED = 2
    TRIES = 32                  # places looked at for one prefix

assert sizeof(Prefix) == 320


cdef class Prefixes:

    def __init__(self, delimiter):
        cdef unsigned char[::1] view
        self._mapping = mmap.mmap(-1, PREFIXES * sizeof(Prefix))
        view = self._mapping
        self.table = <Prefix *> &view[0]
        self._delimiter = (delimiter.encode() or b":")[0]

    cdef void count(self, const char *key, size_t klen, int gets, int hits, int sets, int deletions) noexcept nogil:
        """Add to the counts of a key's prefix, if it has one that can be told in a line."""
        cdef const char *end = <const char *> memchr(key, self._delimiter, klen)
        cdef Prefix *prefix
        if end == NULL or is_binary(key, end - key):
            return
        prefix = self._find(key, end - key)
        if prefix == NULL:
            return
        if gets:
            fetch_add64(&prefix.gets, gets)
        if hits:
            fetch_add64(&prefix.hits, hits)
        if sets:
            fetch_add64(&prefix.sets, sets)
        if deletions:
            fetch_add64(&prefix.deletions, deletions)

    cdef Prefix *_find(self, const char *name, size_t size) noexcept nogil:
        """The place of a prefix, its own or a new one; NULL when there is none left nearby."""
        cdef Prefix *prefix
        cdef uint32_t hashed = 2166136261
        cdef size_t i
        cdef int _try
        if size > PREFIX_MAX:
            return NULL
        for i in range(size):           # FNV-1a
            hashed = (hashed ^ <uint8_t> name[i]) * 16777619
        for _try in range(TRIES):
            prefix = &self.table[(hashed + _try) & (PREFIXES - 1)]
            if prefix.state == 0 and cas32(&prefix.state, 0, 1):
                memcpy(prefix.name, name, size)
                prefix.size = <uint8_t> size
                store_release32(&prefix.state, NAMED)
                return prefix
            if load_acquire32(&prefix.state) == NAMED and prefix.size == size and memcmp(prefix.name, name, size) == 0:
                return prefix
        return NULL

    def clear(self):
        """Forget all. What is counted at this very moment may be lost."""
        memset(self.table, 0, PREFIXES * sizeof(Prefix))

    def counts(self):
        """Of each prefix: get, hit, set, del."""
        cdef Prefix *prefix
        cdef int at
        found = {}
        for at in range(PREFIXES):
            prefix = &self.table[at]
            if load_acquire32(&prefix.state) == NAMED:
                name = prefix.name[:prefix.size]
                before = found.get(name, (0, 0, 0, 0))
                now = (prefix.gets, prefix.hits, prefix.sets, prefix.deletions)
                found[name] = tuple(one + other for one, other in zip(before, now, strict=True))
        return found
