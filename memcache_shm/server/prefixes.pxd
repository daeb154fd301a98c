"""Counts by the keys' prefixes, for `stats detail` (see prefixes.pyx)."""

from libc.stdint cimport uint8_t, uint32_t, uint64_t

cdef enum:
    PREFIXES = 1024             # counted at most; a power of two
    PREFIX_MAX = 250            # bytes of one


cdef struct Prefix:             # 320 bytes; any worker adds, atomically
    uint32_t state              # 0 free, 1 being named, 2 named
    uint8_t size                # of the name
    char name[251]
    uint64_t gets
    uint64_t hits
    uint64_t sets
    uint64_t deletions
    uint64_t spare[4]


cdef class Prefixes:
    cdef Prefix *table          # open addressing
    cdef char _delimiter
    cdef object _mapping        # keeps the memory
    cdef void count(self, const char *key, size_t klen, int gets, int hits, int sets, int deletions) noexcept nogil
    cdef Prefix *_find(self, const char *name, size_t size) noexcept nogil
