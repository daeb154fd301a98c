"""Version counters, where CAS ids come from elsewhere.

Items that were copied (a follower's, restored ones) have foreign CAS ids; whatever is written afterwards gets its shard's next version. So
that no id ever comes twice, and later ones are higher, the counters are raised above all foreign ones.
"""

from libc.stdint cimport uint32_t, uint64_t

from memcache_shm.storage.atomics cimport load_relaxed64, store_release64
from memcache_shm.storage.locks cimport LOCKED, give, take
from memcache_shm.storage.results cimport OK, READ_ONLY, WAIT
from memcache_shm.storage.view cimport View, refuses

cdef enum:
    CAS_SANE = 0x0fffffffffffffff       # an item's larger id was chosen by somebody: version counters are not raised above it
    COUNTER_MOST = 0x1fffffffffffffff   # what is given out stays below it by far, raised above a sane id or not


cdef inline void raise_version(View *v, uint32_t shard, uint64_t above) noexcept nogil:
    """The shard is held: its next version is above that one, and still congruent to the shard's number."""
    cdef uint64_t version = (above | (v.shards - 1)) + 1 + shard
    if load_relaxed64(&v.shard[shard].control.version) < version:
        store_release64(&v.shard[shard].control.version, version)


cdef inline int raise_versions(View *v, uint64_t above) noexcept nogil:
    """All of them, one after the other. OK, READ_ONLY, or why a lock was not to be had."""
    cdef uint32_t i
    cdef int r
    for i in range(v.shards):
        if refuses(v):
            return READ_ONLY
        r = take(v, v.shard + i, WAIT)
        if r != LOCKED:
            return r
        raise_version(v, i, above)
        give(v, v.shard + i)
    return OK
