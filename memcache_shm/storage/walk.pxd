"""Walking through all items of a table, a bucket at a time (see walk.pyx)."""

from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t

from memcache_shm.storage.layout cimport BUCKET_SLOTS, KEY_MAX, MAX_NODES, NODE_SLOTS
from memcache_shm.storage.view cimport View

cdef enum:
    BATCH_ITEMS = BUCKET_SLOTS + MAX_NODES * NODE_SLOTS     # what a bucket and its overflow nodes can hold


cdef struct Walk:               # where it stands; all zero is the beginning. Valid for any table with as many shards
    uint32_t shard
    uint64_t at                 # items of that shard whose reversed hash is less were there already; 2 ** 32 at the end
    uint32_t tries              # of the bucket that comes next


cdef struct Walked:             # one item, without its value
    uint64_t version            # unique in the table; the CAS id unless somebody else's was stored
    uint64_t cas
    uint64_t bytes              # header, key and value
    uint32_t vlen               # value bytes
    uint32_t flags
    uint32_t expiry             # table clock (1/8 s), 0 = never
    uint32_t idle_s             # since the last access, as far as it is known: in units of 64 s, up to 4.5 hours
    uint8_t klen
    bint fetched
    char key[KEY_MAX]


cdef struct Batch:              # the items of one bucket
    uint32_t n
    Walked item[BATCH_ITEMS]

cdef int next_batch(View *v, Walk *walk, Batch *batch, int wait) noexcept nogil
cdef uint32_t idle_s(View *v, uint64_t word, uint32_t now_s) noexcept nogil
cdef int64_t unix_expiry(View *v, uint32_t expiry) noexcept nogil
