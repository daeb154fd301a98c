# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""Taking items out: the eviction sweep, the sweep for dead records, and the accounts of both.

A hand goes over the slots in index order. A slot whose item was used since the hand last came loses one use and stays (second chance);
otherwise its item goes. What is dead (flushed, expired) goes before anything alive.
"""

from libc.stdint cimport uint32_t, uint64_t

from memcache_shm.storage.arena cimport Runs, clear
from memcache_shm.storage.atomics cimport load_relaxed64, store_relaxed64, store_release64
from memcache_shm.storage.counters cimport EVICTED_UNFETCHED, EVICTIONS, EXPIRED_UNFETCHED, RECLAIMED
from memcache_shm.storage.index cimport Path, bucket_count, compact, walk, walk_on
from memcache_shm.storage.layout cimport (
    FETCHED_AT, KIND_ENTRY, Record, USES_AT, word_granule, word_kind,
)
from memcache_shm.storage.records cimport Sizes, are_sane, key_offset, record_at, record_runs, sizes_of, value_length
from memcache_shm.storage.recovery cimport OP_EVICT, OP_EXPIRE, publish
from memcache_shm.storage.view cimport Shard, View, count, earlier, table_ns, ticks


cdef void free_record(View *v, Shard *s, uint64_t word) noexcept nogil:
    """Give back the granules of a record that no slot leads to any more."""
    cdef Record *r = record_at(&s.records, word_granule(word))
    cdef Sizes sizes
    cdef Runs runs
    cdef uint32_t i
    if r == NULL:
        return
    sizes = sizes_of(r)
    if not are_sane(v, &s.records, r, sizes) or not record_runs(v, &s.records, r, &runs):
        return                      # scribbled memory: the next repair finds the space again
    s.control.records -= 1
    if r.version > load_relaxed64(&s.control.cutoff):
        s.control.items -= 1
        s.control.bytes -= key_offset(sizes) + sizes.key_length + <uint64_t> value_length(sizes)
    for i in range(runs.n):
        clear(&s.records, runs.start[i], runs.granules[i])


cdef void drop(View *v, Shard *s, uint64_t *slot, uint32_t bucket, int operation) noexcept nogil:
    """Take an item out of the table: clear its slot, give its record back, tidy the path."""
    cdef uint64_t word = slot[0]
    publish(v, s, operation, slot, 0)
    free_record(v, s, word)
    compact(v, s, bucket)


cdef void drop_victim(View *v, Shard *s, uint64_t *slot, uint32_t bucket) noexcept nogil:
    """Evict, and count as memcached does."""
    cdef uint64_t word = slot[0]
    cdef Record *r = record_at(&s.records, word_granule(word))
    cdef bint fetched = (word >> FETCHED_AT) & 1
    cdef bint void = r != NULL and r.version <= load_relaxed64(&s.control.cutoff)
    cdef bint expired = r != NULL and r.expiry != 0 and r.expiry <= ticks(table_ns(v))
    store_relaxed64(&s.control.progress, s.control.progress + 1)
    if void or expired:
        count(v, RECLAIMED, 1)
        if expired and not fetched:
            count(v, EXPIRED_UNFETCHED, 1)
    else:
        count(v, EVICTIONS, 1)
        if not fetched:
            count(v, EVICTED_UNFETCHED, 1)
    drop(v, s, slot, bucket, OP_EXPIRE if expired else OP_EVICT)


cdef bint is_dead(View *v, Shard *s, uint64_t word, uint32_t now, uint32_t *expiry) noexcept nogil:
    """Whether an entry's record was flushed or has expired; its expiry, for the sweep's bound."""
    cdef Record *r = record_at(&s.records, word_granule(word))
    if r == NULL:
        return False
    expiry[0] = r.expiry
    return r.version <= load_relaxed64(&s.control.cutoff) or (r.expiry != 0 and r.expiry <= now)


cdef bint reap_bucket(View *v, Shard *s, uint32_t bucket, uint32_t now, uint64_t pinned) noexcept nogil:
    """Drop the dead records of one bucket and its nodes."""
    cdef uint32_t i, position = 0, expiry
    cdef bint found = False
    cdef Path p
    while seek(s, bucket, position, &p, &i):
        position += 1
        if word_kind(p.slots[i]) != KIND_ENTRY or word_granule(p.slots[i]) == pinned:
            continue
        if is_dead(v, s, p.slots[i], now, &expiry):
            drop_victim(v, s, p.slots + i, bucket)
            found = True
            position = 0                # the path may have become shorter
        else:
            s.control.reap_expiry = earlier(s.control.reap_expiry, expiry)
    return found


cdef bint reap(View *v, Shard *s, uint64_t pinned, uint32_t budget) noexcept nogil:
    """Drop dead records, from where the last sweep stopped, until a bucket had some or `budget` buckets were seen. Costs nothing
    while none can be dead: every record is above the cut-off, and the earliest expiry lies ahead."""
    cdef uint32_t now = 0, n_buckets = bucket_count(v, s), seen = 0
    cdef bint found = False
    if s.control.next_expiry != 0:
        now = ticks(table_ns(v))
    if s.control.records == s.control.items and (s.control.next_expiry == 0 or s.control.next_expiry > now):
        return False
    while not found and seen < budget and seen < n_buckets:
        if s.control.reap_bucket >= n_buckets:
            s.control.next_expiry = s.control.reap_expiry
            s.control.reap_bucket = 0
            s.control.reap_expiry = 0
        found = reap_bucket(v, s, s.control.reap_bucket, now, pinned)
        s.control.reap_bucket += 1
        seen += 1
    return found


cdef bint seek(Shard *s, uint32_t bucket, uint32_t position, Path *p, uint32_t *i) noexcept nogil:
    """Put the path on the slot of that position (0-based along bucket and nodes); False when the path is shorter."""
    walk(s, bucket, p)
    while p.slots != NULL:
        if position < p.n:
            i[0] = position
            return True
        position -= p.n
        if not walk_on(s, p):
            return False
    return False


cdef uint64_t *next_victim(View *v, Shard *s, uint64_t pinned, uint32_t *bucket) noexcept nogil:
    """Turn the hand to the next item that had no use since last time; NULL when the shard holds nothing evictable."""
    cdef uint32_t n_buckets = bucket_count(v, s)
    cdef uint32_t b = <uint32_t> (s.control.hand >> 8), position = s.control.hand & 0xff
    cdef uint32_t visited = 0, i = 0
    cdef uint64_t w
    cdef Path p
    while visited <= 6 * n_buckets:
        if b >= n_buckets:
            b = 0
        if not seek(s, b, position, &p, &i):
            b += 1
            position = 0
            visited += 1
            continue
        w = p.slots[i]
        position += 1
        if word_kind(w) != KIND_ENTRY or word_granule(w) == pinned:
            continue
        if (w >> USES_AT) & 3 and visited <= 4 * n_buckets:     # readers may renew uses as fast as turns take them: then any goes
            store_release64(p.slots + i, w - (<uint64_t> 1 << USES_AT))
            continue
        s.control.hand = (<uint64_t> b << 8) | (position & 0xff)
        bucket[0] = b
        return p.slots + i
    return NULL


cdef bint evict_one(View *v, Shard *s, uint64_t pinned) noexcept nogil:
    cdef uint32_t bucket
    cdef uint64_t *slot = next_victim(v, s, pinned, &bucket)
    if slot == NULL:
        return False
    drop_victim(v, s, slot, bucket)
    return True
