# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""One key under its shard's lock: finding it, making room, writing a record in its place. What to write is for writer.pyx and claims.pyx.

Every change is made out of place: allocate, fill, publish by one store into the slot, then free the old record. Order of events in a
shard: lock, intent, version counter, record, slot, free map and counts, intent cleared, unlock.
"""

from libc.stdint cimport uint32_t, uint64_t

from memcache_shm.storage.arena cimport Runs, clear, mark
from memcache_shm.storage.atomics cimport (
    __builtin_prefetch, load_relaxed32, load_relaxed64, store_relaxed32, store_release32, store_release64,
)
from memcache_shm.storage.counters cimport EXPIRED_UNFETCHED, RECLAIMED, RETURNED_NEW, RETURNED_PROVEN, STORE_NO_MEMORY, TOTAL_ITEMS
from memcache_shm.storage.evict cimport drop, drop_victim, evict_one, free_record
from memcache_shm.storage.feed cimport FEED_SET, FEED_TOUCH, is_heard, prepare
from memcache_shm.storage.ghosts cimport move_border, returned
from memcache_shm.storage.index cimport bucket_at, bucket_count, extend, ghosts_of, grow, locate, shrink
from memcache_shm.storage.layout cimport (
    ACCESS_AT, ACCESS_MASK, ACCESS_SHIFT, BUCKET_FILL_HALVES, BUCKET_SLOTS, BUCKET_SPARSE, CHUNK_BUCKETS, CHUNK_BYTES, FETCHED_AT,
    KIND_ENTRY, MAX_NODES, MIN_BUCKETS, NODE_BYTES, NO_GRANULE, PROVEN_AT, Record, RunLink, USES_AT, VERSION_AT, VERSION_MASK, bucket_of,
    entry_pattern, word_kind,
)
from memcache_shm.storage.locks cimport LOCKED, give, take
from memcache_shm.storage.records cimport Fields, fill, record_bytes
from memcache_shm.storage.reaping cimport reap
from memcache_shm.storage.recovery cimport OP_EXPIRE, OP_STORE, OP_TOUCH, begin, done, end, note, publish_told
from memcache_shm.storage.results cimport HELD, NO_SPACE, OK, READ_ONLY
from memcache_shm.storage.room cimport allocate, reserve_index
from memcache_shm.storage.view cimport (
    Shard, View, count, hash_key, note_expiry, refuses, shard_of, table_ns, ticks,
)

cdef enum:
    MERGES_A_CHANGE = 16            # and one more for each KiB stored: the index gives way as fast as large records come
    MOST_MERGES = 1024


cdef int aim(View *v, Target *t, const char *key, size_t klen, int operation, int wait) noexcept nogil:
    """Lock the key's shard, note the intent and find the live record (an expired or flushed one is reclaimed on the way)."""
    cdef int r
    if refuses(v):
        return READ_ONLY
    t.key = key
    t.klen = klen
    t.fresh = NO_GRANULE
    t.stored = 0
    t.keeps = t.gains = 0
    t.hash = hash_key(v, key, klen)
    t.shard = shard_of(v, t.hash)
    __builtin_prefetch(bucket_at(t.shard, bucket_of(t.hash, bucket_count(v, t.shard))))
    t.held = wait == HELD
    if not t.held:
        r = take(v, t.shard, wait)
        if r != LOCKED:
            return r
    if refuses(v):                      # it may follow another, or be independent again, since it was looked at and the lock waited for
        if not t.held:
            give(v, t.shard)
        return READ_ONLY
    begin(v, t.shard, operation)
    if v.calls & 63 == 0:
        store_relaxed32(&v.header.coarse_s, <uint32_t> (table_ns(v) // 1000000000))
    search(v, t)
    return OK


cdef void search(View *v, Target *t) noexcept nogil:
    cdef Record *r
    cdef bint expired
    locate(v, t.shard, t.key, t.klen, t.hash, &t.place)
    t.record = NULL
    if t.place.slot == NULL:
        return
    r = t.place.record
    expired = r.expiry != 0 and r.expiry <= ticks(table_ns(v))
    if not expired and r.version > load_relaxed64(&t.shard.control.cutoff):
        t.record = r
        return
    count(v, RECLAIMED, 1)
    if expired and not (t.place.slot[0] >> FETCHED_AT) & 1:
        count(v, EXPIRED_UNFETCHED, 1)
    drop(v, t.shard, t.place.slot, t.place.bucket, OP_EXPIRE)
    locate(v, t.shard, t.key, t.klen, t.hash, &t.place)


cdef int leave(View *v, Target *t, int result) noexcept nogil:
    """Keep the index in proportion, clear the intent, unlock."""
    if result == NO_SPACE:
        count(v, STORE_NO_MEMORY, 1)
    if t.shard.shared:
        balance(v, t.shard, t.fresh, t.stored)
    end(t.shard)
    if not t.held:
        give(v, t.shard)
    return result


cdef void balance(View *v, Shard *s, uint64_t pinned, uint64_t stored) noexcept nogil:
    """One split when the buckets are full on average, merges, more for a large record, when they are sparse. No split unless a record
    was stored: what a removal freed is for the next record, which the index might leave without room."""
    cdef uint32_t n = bucket_count(v, s), merges = <uint32_t> min(MERGES_A_CHANGE + stored // 1024, <uint64_t> MOST_MERGES)
    cdef uint32_t _merge
    if s.control.records * 2 > <uint64_t> n * BUCKET_FILL_HALVES:
        if n < v.max_buckets and stored:
            if n % CHUNK_BUCKETS == 0:
                reserve_index(v, s, CHUNK_BYTES // s.index.granule_bytes, 64 // s.index.granule_bytes, pinned)
            else:
                reserve_index(v, s, 4 * NODE_BYTES // s.index.granule_bytes, 1, pinned)
            grow(v, s)
        return
    for _merge in range(merges):
        if n <= MIN_BUCKETS or s.control.records >= <uint64_t> n * BUCKET_SPARSE:
            return
        shrink(v, s)
        n -= 1


cdef bint ensure_slot(View *v, Target *t, uint64_t pinned) noexcept nogil:
    """A slot to publish in: the key's own, an empty one, one in a new node, else that of an item evicted from the path."""
    cdef Shard *s = t.shard
    cdef uint64_t *first
    cdef int _try
    for _try in range(4):
        if t.place.slot != NULL or t.place.empty != NULL or extend(v, s, &t.place):
            return True
        if t.place.nodes >= MAX_NODES or not reserve_index(v, s, NODE_BYTES // s.index.granule_bytes, 1, pinned):
            if not v.evicts:
                if not reap(v, s, pinned):
                    return False
                locate(v, s, t.key, t.klen, t.hash, &t.place)
                continue
            first = bucket_at(s, t.place.bucket)
            if first == NULL or word_kind(first[0]) != KIND_ENTRY:
                return False
            drop_victim(v, s, first, t.place.bucket)
        locate(v, s, t.key, t.klen, t.hash, &t.place)
    return False


cdef bint is_still_empty(Shard *s, Target *t) noexcept nogil:
    """Whether the slot found for a new key is one of the bucket itself, which stays where it is, and is empty yet, whatever was evicted."""
    cdef uint64_t *slots = bucket_at(s, t.place.bucket)
    return slots != NULL and t.place.slot == NULL and slots <= t.place.empty < slots + BUCKET_SLOTS and t.place.empty[0] == 0


cdef bint make_room(View *v, Target *t, Fields *f, uint32_t length, Runs *runs) noexcept nogil:
    """Take granules for the new record and make sure of a slot for it."""
    cdef Shard *s = t.shard
    cdef uint64_t pinned = t.place.granule if t.place.slot != NULL else <uint64_t> NO_GRANULE
    cdef uint64_t split = load_relaxed64(&s.control.split), records = s.control.records
    cdef uint32_t i
    if t.place.slot == NULL and v.max_records != 0 and s.control.records >= v.max_records:
        if not reap(v, s, pinned) and (not v.evicts or not evict_one(v, s, pinned)):
            return False
    if t.place.slot == NULL and t.place.empty == NULL:
        reserve_index(v, s, NODE_BYTES // s.index.granule_bytes, 1, pinned)
    if not allocate(v, s, record_bytes(f, length), <uint32_t> record_bytes(f, 0), pinned, runs):
        return False
    for i in range(runs.n):
        mark(&s.records, runs.start[i], runs.granules[i])
    if load_relaxed64(&s.control.split) != split or (s.control.records != records and not is_still_empty(s, t)):
        locate(v, s, t.key, t.klen, t.hash, &t.place)
    if ensure_slot(v, t, pinned):
        return True
    for i in range(runs.n):
        clear(&s.records, runs.start[i], runs.granules[i])
    return False


cdef uint64_t standing(View *v, Target *t) noexcept nogil:
    """Class and uses of the item about to be stored: a rewritten one keeps its own, one that returns soon after its eviction is proven."""
    cdef int was
    if t.place.slot != NULL:
        return t.place.slot[0] & ((<uint64_t> 3 << USES_AT) | (<uint64_t> 1 << PROVEN_AT) | t.keeps)
    was = returned(ghosts_of(t.shard, t.place.bucket), entry_pattern(t.hash)) if v.evicts else -1
    if was < 0:
        return 0
    count(v, RETURNED_PROVEN if was else RETURNED_NEW, 1)
    move_border(t.shard.control, was)
    return <uint64_t> 1 << PROVEN_AT


cdef uint64_t new_word(View *v, Target *t, uint32_t granule, uint64_t version) noexcept nogil:
    cdef uint64_t access = (load_relaxed32(&v.header.coarse_s) >> ACCESS_SHIFT) & ACCESS_MASK
    cdef uint64_t w = entry_pattern(t.hash) | granule | ((access << ACCESS_AT) & ~t.keeps) | t.gains
    return w | ((version >> v.version_shift) & VERSION_MASK) << VERSION_AT | standing(v, t)


cdef int write_record(View *v, Target *t, Fields *f, uint32_t length) noexcept nogil:
    """Allocate, fill, publish, free the old record. OK or NO_SPACE."""
    cdef Shard *s = t.shard
    cdef Runs runs
    cdef uint64_t *slot
    cdef uint64_t old, word, feed = 0
    f.key = t.key
    f.key_length = <uint32_t> t.klen
    if not make_room(v, t, f, length, &runs):
        return NO_SPACE
    f.version = load_relaxed64(&s.control.version) + v.shards
    store_release64(&s.control.version, f.version)
    fill(&s.records, &runs, f)
    slot = t.place.slot if t.place.slot != NULL else t.place.empty
    old = slot[0]
    t.fresh = runs.start[0]
    t.stored = record_bytes(f, length)
    word = new_word(v, t, runs.start[0], f.version)
    note_expiry(s, t.place.bucket, f.expiry)
    if is_heard(v):
        feed = prepare(v, s, FEED_SET, f.key, f.key_length, f.version)
    publish_told(v, s, OP_STORE, slot, word, feed)
    s.control.records += 1
    if not word >> PROVEN_AT & 1:
        s.control.news += 1
    s.control.items += 1
    s.control.bytes += record_bytes(f, length) + (sizeof(RunLink) if runs.n > 1 else 0)
    if old != 0:
        free_record(v, s, old)
    count(v, TOTAL_ITEMS, t.keeps == 0)     # one that keeps what is known of the old one is no new item
    t.cas = f.foreign_cas if f.foreign_cas else f.version
    return OK


cdef void renew(View *v, Target *t, uint32_t expiry) noexcept nogil:
    """Give the live record another expiry, in place."""
    cdef uint64_t feed = 0
    note_expiry(t.shard, t.place.bucket, expiry)
    if is_heard(v):
        feed = prepare(v, t.shard, FEED_TOUCH, t.key, <uint32_t> t.klen, t.record.version)
    note(v, t.shard, OP_TOUCH, t.place.slot, t.place.slot[0], expiry, feed)
    store_release32(&t.record.expiry, expiry)
    done(v, t.shard, OP_TOUCH, feed)
