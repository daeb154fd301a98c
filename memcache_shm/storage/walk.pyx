# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""Walking through all items of a table while others read and write it.

A walk goes shard by shard, and within one by the reversed hash: the low half of an item's hash, its bits in reverse order. In that order
a bucket of linear hashing is one stretch without gaps, however many buckets there are: when one splits its stretch is cut in two, when
two merge their stretches join. So a walk remembers only up to which reversed hash it has come. It asks which bucket that one lies in now,
takes the items of this bucket that are not behind it already, and goes on where the bucket's stretch ends.

What it promises: a key that is in the table from the walk's beginning to its end is met exactly once, whatever grows, shrinks or is
overwritten meanwhile; one that comes or goes meanwhile is met once or not. Expired and flushed items are left out.

No lock is taken as a rule. A bucket is read as any reader does it: each item is checked by its slot and version after it was copied, the
whole bucket by the split word (whatever moves publishes a new one). A bucket that changes under the reader time and again is read under
the shard's lock; a read-only walk gives up with BUSY instead. Nothing is stored: to be walked by is no use, and counts as none.
"""

from libc.stdint cimport int64_t, uint32_t, uint64_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcpy

from memcache_shm.storage.atomics cimport (
    __builtin_clz, CLOCK_REALTIME, clock_ns, cpu_pause, fence_acquire, load_acquire64, load_relaxed32, load_relaxed64,
)
from memcache_shm.storage.index cimport Path, fetch_records, follow, walk as walk_bucket
from memcache_shm.storage.layout cimport (
    ACCESS_AT, ACCESS_MASK, ACCESS_SHIFT, EXPIRY_HZ, FETCHED_AT, KIND_ENTRY, Record, bucket_of, hit_mask, split_buckets, word_granule,
    word_kind,
)
from memcache_shm.storage.locks cimport LOCKED, give, look_around, take
from memcache_shm.storage.records cimport Sizes, are_sane, cas_id, key_of, key_offset, record_at, sizes_of, value_length, word_matches
from memcache_shm.storage.results cimport BUSY, NOT_FOUND, OK, RETIRED, TRY
from memcache_shm.storage.table cimport Table
from memcache_shm.storage.view cimport Shard, View, flush_pending, hash_key, is_retired, table_ns, ticks
from memcache_shm.storage.walk cimport Batch, Walk, Walked

cdef enum:
    FREE_TRIES = 64             # of a bucket before the lock is taken
    READ_ONLY_TRIES = 1000000
    SLOT_TRIES = 16             # of a slot whose item is replaced while it is read, before the bucket is read anew
    END = 0x100000000           # of the reversed hashes


cdef struct Moment:             # what all items of a bucket are judged by
    uint64_t since              # reversed hashes: those before are behind the walk
    uint64_t until              # ... and those from here on belong to another bucket, to which they are just being moved
    uint64_t cutoff
    uint32_t now                # ticks
    uint32_t now_s


cdef inline uint32_t reversed_bits(uint32_t n) noexcept nogil:
    n = (n >> 1 & 0x55555555) | (n & 0x55555555) << 1
    n = (n >> 2 & 0x33333333) | (n & 0x33333333) << 2
    n = (n >> 4 & 0x0f0f0f0f) | (n & 0x0f0f0f0f) << 4
    n = (n >> 8 & 0x00ff00ff) | (n & 0x00ff00ff) << 8
    return n >> 16 | n << 16


cdef inline uint64_t stretch_end(uint32_t bucket, uint32_t n_buckets) noexcept nogil:
    """The first reversed hash behind a bucket's stretch."""
    cdef uint32_t bits = 31 - __builtin_clz(n_buckets)
    if bucket >= <uint32_t> 1 << bits or bucket + (<uint32_t> 1 << bits) < n_buckets:
        bits += 1                       # it was split already in this round
    return <uint64_t> reversed_bits(bucket) + (<uint64_t> 1 << (32 - bits))


cdef uint32_t idle_s(View *v, uint64_t word, uint32_t now_s) noexcept nogil:
    """Seconds since an item's last access by its slot word: whole units of 64 s, and no more than 255 of them."""
    return (((now_s >> ACCESS_SHIFT) - <uint32_t> (word >> ACCESS_AT)) & ACCESS_MASK) << ACCESS_SHIFT


cdef int64_t unix_expiry(View *v, uint32_t expiry) noexcept nogil:
    """When an item expires, unix time in seconds; -1 for never."""
    cdef int64_t left = <int64_t> expiry - <int64_t> ticks(table_ns(v))
    if expiry == 0:
        return -1
    return (<int64_t> clock_ns(CLOCK_REALTIME) + left * (1000000000 // EXPIRY_HZ)) // 1000000000


cdef int read_item(View *v, Shard *s, uint64_t *slot, uint64_t w, Moment *m, Walked *out) noexcept nogil:
    """Copy what slot word `w` leads to: 1 an item, 0 nothing to tell of, -1 it changed meanwhile."""
    cdef Record *r = record_at(&s.records, word_granule(w))
    cdef uint64_t version
    cdef uint32_t expiry
    cdef Sizes sizes
    cdef bint good
    if r == NULL:
        return 0
    version = load_acquire64(&r.version)
    sizes = sizes_of(r)
    expiry = load_relaxed32(&r.expiry)
    good = word_matches(v, w, version) and are_sane(v, &s.records, r, sizes)
    if good:
        out.version = version
        out.cas = cas_id(r, sizes, version)
        out.vlen = value_length(sizes)
        out.bytes = key_offset(sizes) + sizes.key_length + <uint64_t> out.vlen
        out.flags = r.flags
        out.expiry = expiry
        out.klen = sizes.key_length
        out.fetched = (w >> FETCHED_AT) & 1
        out.idle_s = idle_s(v, w, m.now_s)
        memcpy(out.key, key_of(r, sizes), sizes.key_length)
    fence_acquire()
    if (load_acquire64(slot) ^ w) & ~hit_mask() or load_relaxed64(&r.version) != version:
        return -1
    return good and version > m.cutoff and (expiry == 0 or expiry > m.now)


cdef bint is_new(View *v, Walked *item, Moment *m, Batch *batch) noexcept nogil:
    """Whether an item belongs to the bucket and to what is to come, and is not in the batch: a compaction has some twice for a moment."""
    cdef uint64_t at = reversed_bits(<uint32_t> hash_key(v, item.key, item.klen))
    cdef uint32_t i
    if not m.since <= at < m.until:
        return False
    for i in range(batch.n):
        if batch.item[i].version == item.version:
            return False
    return True


cdef bint read_slot(View *v, Shard *s, uint64_t *slot, uint64_t *last, Moment *m, Batch *batch) noexcept nogil:
    """Add the item of a slot, if there is one to tell of; `last` gets the word that was read. False: read the bucket anew."""
    cdef Walked *out
    cdef int _try, what = 0
    for _try in range(SLOT_TRIES):
        last[0] = load_acquire64(slot)
        if word_kind(last[0]) != KIND_ENTRY:
            return True
        if batch.n == sizeof(batch.item) // sizeof(batch.item[0]):
            return False                # damaged links
        out = &batch.item[batch.n]
        what = read_item(v, s, slot, last[0], m, out)
        if what >= 0:
            break
        cpu_pause()
    if what > 0 and is_new(v, out, m, batch):
        batch.n += 1
    return what >= 0


cdef bint read_bucket(View *v, Shard *s, uint32_t bucket, uint64_t split, Moment *m, Batch *batch) noexcept nogil:
    """All items of a bucket that are due. False: something moved meanwhile."""
    cdef uint64_t now_ns = table_ns(v), w = 0
    cdef uint32_t i
    cdef Path p
    cdef bint void = flush_pending(v, s)            # before the cut-off: see "Memory order"
    m.cutoff = load_acquire64(&s.control.cutoff)
    m.now = ticks(now_ns)
    m.now_s = <uint32_t> (now_ns // 1000000000)
    batch.n = 0
    walk_bucket(s, bucket, &p)
    while p.slots != NULL and not void:
        for i in range(p.n):
            if not read_slot(v, s, p.slots + i, &w, m, batch):
                return False
        if not follow(s, &p, w):
            break
    fence_acquire()
    return load_relaxed64(&s.control.split) == split


cdef int read_next(View *v, Shard *s, Walk *walk, Batch *batch, Moment *m, uint32_t *n, int wait) noexcept nogil:
    """Read the bucket that comes next, under the lock after many tries; `n` is the number of buckets then, `m.until` where it ends."""
    cdef uint64_t split
    cdef uint32_t bucket
    cdef bint read = False, locked = False
    cdef int result
    while not read:
        if walk.tries > FREE_TRIES and not v.readonly and not locked:
            result = take(v, s, wait)
            if result != LOCKED:
                return result
            locked = True
        split = load_acquire64(&s.control.split)
        n[0] = min(max(split_buckets(split), <uint32_t> 1), v.max_buckets)
        bucket = bucket_of(reversed_bits(<uint32_t> walk.at), n[0])
        m.since = walk.at
        m.until = stretch_end(bucket, n[0])
        read = read_bucket(v, s, bucket, split, m, batch) or locked
        walk.tries += 1
        if not read and walk.tries > READ_ONLY_TRIES:
            walk.tries = 0
            return BUSY
    walk.tries = 0
    if locked:
        give(v, s)
    return OK


cdef int next_batch(View *v, Walk *walk, Batch *batch, int wait) noexcept nogil:
    """The items of the next bucket, maybe none. OK; NOT_FOUND at the end; else a failure, after which the same call may be made again."""
    cdef Shard *s
    cdef Moment m
    cdef uint32_t n = 0
    cdef int result
    batch.n = 0
    look_around(v)
    if is_retired(v):
        return RETIRED
    if walk.shard >= v.shards:
        return NOT_FOUND
    s = v.shard + walk.shard
    result = read_next(v, s, walk, batch, &m, &n, wait)
    if result != OK:
        batch.n = 0
        return result
    walk.at = m.until
    if walk.at >= END:
        walk.at = 0
        walk.shard += 1
    else:
        fetch_records(s, bucket_of(reversed_bits(<uint32_t> walk.at), n))
    return OK


def oldest_idle_s(Table table not None, double start, uint32_t most):
    """Seconds since the last access of the longest unused among about `most` items, those that a walk meets from the point `start` (0 to 1)
    of the table on; 0 without items. Takes about 100 ns an item. ValueError: a closed table. MemoryError."""
    cdef View *v = &table.view
    cdef Walk walk
    cdef Batch *batch
    cdef uint32_t i, seen = 0, most_s = 0, buckets = 0
    table.check_open()
    walk.shard = min(<uint32_t> (start * v.shards), v.shards - 1)
    walk.at = <uint64_t> ((start * v.shards - walk.shard) * (END - 1))
    walk.tries = 0
    batch = <Batch *> malloc(sizeof(Batch))
    if batch == NULL:
        raise MemoryError("no room for a batch of items")
    with nogil:
        while seen < most and buckets < most and next_batch(v, &walk, batch, TRY) == OK:
            buckets += 1
            seen += batch.n
            for i in range(batch.n):
                most_s = max(most_s, batch.item[i].idle_s)
    free(batch)
    return most_s
