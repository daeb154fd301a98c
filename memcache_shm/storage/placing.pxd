"""One key under its shard's lock: finding it, making room, writing a record in its place (see placing.pyx)."""

from libc.stdint cimport uint32_t, uint64_t

from memcache_shm.storage.index cimport Place
from memcache_shm.storage.layout cimport ACCESS_AT, ACCESS_MASK, FETCHED_AT, Record
from memcache_shm.storage.records cimport Fields
from memcache_shm.storage.view cimport Shard, View


cdef struct Target:                 # the key an operation works on
    const char *key
    size_t klen
    uint64_t hash
    Shard *shard
    Place place
    Record *record                  # its live record or NULL
    uint64_t keeps                  # bits of its slot word that a new record takes over, besides class and uses
    uint64_t gains                  # bits that the slot word of a new record has
    uint64_t cas                    # the CAS id of the record just stored
    uint64_t stored                 # bytes of that record
    uint64_t fresh                  # its granule: it must not be evicted for the index; or NO_GRANULE
    bint held                       # the shard's lock is the caller's, and stays so


cdef inline uint64_t fetched_bit() noexcept nogil:
    return <uint64_t> 1 << FETCHED_AT


cdef inline uint64_t access_bits() noexcept nogil:
    return <uint64_t> ACCESS_MASK << ACCESS_AT


cdef int aim(View *v, Target *t, const char *key, size_t klen, int operation, int wait) noexcept nogil
cdef void search(View *v, Target *t) noexcept nogil
cdef int leave(View *v, Target *t, int result) noexcept nogil
cdef int write_record(View *v, Target *t, Fields *f, uint32_t length) noexcept nogil
cdef void renew(View *v, Target *t, uint32_t expiry) noexcept nogil
