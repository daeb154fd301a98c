"""The sharded index: linear hashing over one-cache-line buckets (see index.pyx)."""

from libc.stdint cimport uint32_t, uint64_t

from memcache_shm.storage.atomics cimport load_acquire32, load_acquire64, load_relaxed64
from memcache_shm.storage.layout cimport (
    BUCKET_BYTES, BUCKET_SLOTS, CHUNK_BUCKETS, CHUNK_BYTES, GHOSTS_AT, GRANULE_MASK, KIND_LINK, NODE_BYTES, NODE_SLOTS, Record,
    split_buckets, word_granule, word_kind,
)
from memcache_shm.storage.view cimport Arena, Shard, View


cdef struct Path:               # where a walk along a bucket and its overflow nodes stands
    uint64_t *slots             # the 7 slots of the bucket or the 4 of a node; NULL at the end
    uint32_t n
    uint32_t nodes              # nodes entered so far
    uint64_t *link              # the slot whose link word led here, NULL in the bucket itself


cdef struct Place:              # what a search under the lock found
    uint64_t *slot              # the key's slot or NULL
    Record *record              # where that one leads
    uint64_t granule            # of that record
    uint64_t *empty             # first empty slot on the path or NULL
    uint64_t *tail              # last slot of the path: where a link to a further node would go
    uint32_t bucket
    uint32_t nodes


cdef inline uint32_t bucket_count(View *v, Shard *s) noexcept nogil:
    """The number of buckets; at least 1 and what the directory has room for (scribbled memory)."""
    cdef uint32_t n = split_buckets(load_relaxed64(&s.control.split))
    return 1 if n == 0 else n if n <= v.max_buckets else v.max_buckets


cdef inline uint64_t *bucket_at(Shard *s, uint32_t bucket) noexcept nogil:
    """The slots of a bucket, or NULL when the directory makes no sense (scribbled memory)."""
    cdef uint32_t chunk = bucket // CHUNK_BUCKETS
    cdef uint64_t at
    if chunk >= s.directory_entries:
        return NULL
    at = <uint64_t> load_acquire32(&s.directory[chunk]) * s.index.granule_bytes
    if at + CHUNK_BYTES > <uint64_t> s.index.granules * s.index.granule_bytes:
        return NULL
    return <uint64_t *> (s.index.base + at + (bucket % CHUNK_BUCKETS) * BUCKET_BYTES)


cdef inline uint64_t *ghosts_of(Shard *s, uint32_t bucket) noexcept nogil:
    """The word behind the slots of a bucket, or NULL like `bucket_at`."""
    cdef uint64_t *slots = bucket_at(s, bucket)
    return NULL if slots == NULL else slots + GHOSTS_AT


cdef inline uint64_t *node_at(Shard *s, uint64_t link) noexcept nogil:
    """The slots of the overflow node that a link word names, or NULL when out of bounds."""
    cdef uint64_t at = word_granule(link) * s.index.granule_bytes
    if at + NODE_BYTES > <uint64_t> s.index.granules * s.index.granule_bytes:
        return NULL
    return <uint64_t *> (s.index.base + at)


cdef inline void walk(Shard *s, uint32_t bucket, Path *p) noexcept nogil:
    p.slots = bucket_at(s, bucket)
    p.n = BUCKET_SLOTS
    p.nodes = 0
    p.link = NULL


cdef bint follow(Shard *s, Path *p, uint64_t w) noexcept nogil
cdef bint walk_on(Shard *s, Path *p) noexcept nogil
cdef bint same_key(View *v, Shard *s, Record *r, const char *key, size_t klen) noexcept nogil
cdef void locate(View *v, Shard *s, const char *key, size_t klen, uint64_t h, Place *out) noexcept nogil
cdef bint extend(View *v, Shard *s, Place *place) noexcept nogil
cdef void compact(View *v, Shard *s, uint32_t bucket) noexcept nogil
cdef void grow(View *v, Shard *s) noexcept nogil
cdef void shrink(View *v, Shard *s) noexcept nogil
cdef uint64_t record_hash(View *v, Shard *s, uint64_t word) noexcept nogil
cdef void bump(Shard *s) noexcept nogil
cdef void trim_zone(Shard *s) noexcept nogil
cdef void fetch_records(Shard *s, uint32_t bucket) noexcept nogil
