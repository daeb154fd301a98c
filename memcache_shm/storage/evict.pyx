"""Making room: the eviction sweep and the allocation of records.

A hand goes over the slots in index order. A slot whose item was used since the hand last came loses one use and stays (second chance);
otherwise its item goes. Where one record is not enough, the neighbours behind it in the arena go too, until the run fits; a
neighbour is recognised by its key leading back to its own slot. Only when no single run can be had does a record get several.
"""

from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t

from memcache_shm.storage.arena cimport (
    Runs, all_free, clear, find_run, free_before, gather_runs, granules_for, is_used, mark, next_used,
)
from memcache_shm.storage.atomics cimport load_relaxed64, store_release64
from memcache_shm.storage.counters cimport EVICTED_UNFETCHED, EVICTIONS, EXPIRED_UNFETCHED, RECLAIMED, SEVERAL_RUN_RECORDS
from memcache_shm.storage.index cimport Path, Place, compact, locate, walk, walk_on
from memcache_shm.storage.layout cimport (
    BUCKET_SPARSE, FETCHED_AT, KIND_ENTRY, KIND_LINK, LENGTH_MASK, NO_GRANULE, Record, USES_AT, split_buckets, word_granule, word_kind,
)
from memcache_shm.storage.records cimport body_offset, record_at, record_granules, record_runs, record_sane
from memcache_shm.storage.recovery cimport OP_EVICT, OP_EXPIRE, publish
from memcache_shm.storage.view cimport Shard, View, count, hash_key, shard_of, table_ns, ticks

cdef enum:
    SEARCH_WORDS = 128              # bitmap words looked through before eviction makes a run itself
    VICTIMS_A_RUN = 64              # victims tried as the start of a run before several runs are taken


cdef void free_record(View *v, Shard *s, uint64_t word) noexcept nogil:
    """Give back the granules of a record that no slot leads to any more."""
    cdef Record *r = record_at(&s.records, word_granule(word))
    cdef Runs runs
    cdef uint32_t i
    cdef uint64_t size
    if r == NULL or not record_sane(v, &s.records, r) or not record_runs(v, &s.records, r, &runs):
        return                      # scribbled memory: the next repair finds the space again
    s.control.records -= 1
    if r.version > load_relaxed64(&s.control.cutoff):
        size = body_offset(r) + r.key_length + <uint64_t> (r.length & LENGTH_MASK)
        s.control.items -= 1
        s.control.bytes -= size
    for i in range(runs.n):
        clear(&s.records, runs.start[i], runs.granules[i])


cdef void drop(View *v, Shard *s, uint64_t *slot, uint32_t bucket, int operation) noexcept nogil:
    """Take an item out of the table: clear its slot, give its record back, tidy the path."""
    cdef uint64_t word = slot[0]
    publish(v, s, operation, slot, 0, load_relaxed64(&s.control.version))
    free_record(v, s, word)
    compact(v, s, bucket)


cdef void drop_victim(View *v, Shard *s, uint64_t *slot, uint32_t bucket) noexcept nogil:
    """Evict, and count as memcached does."""
    cdef uint64_t word = slot[0]
    cdef Record *r = record_at(&s.records, word_granule(word))
    cdef bint fetched = (word >> FETCHED_AT) & 1
    cdef bint void = r != NULL and r.version <= load_relaxed64(&s.control.cutoff)
    cdef bint expired = r != NULL and r.expiry != 0 and r.expiry <= ticks(table_ns(v))
    if void or expired:
        count(v, RECLAIMED, 1)
        if expired and not fetched:
            count(v, EXPIRED_UNFETCHED, 1)
    else:
        count(v, EVICTIONS, 1)
        if not fetched:
            count(v, EVICTED_UNFETCHED, 1)
    drop(v, s, slot, bucket, OP_EXPIRE if expired else OP_EVICT)


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
    cdef uint32_t n_buckets = split_buckets(load_relaxed64(&s.control.split))
    cdef uint32_t b = <uint32_t> (s.control.hand >> 8), position = s.control.hand & 0xff
    cdef uint32_t visited = 0, i = 0
    cdef uint64_t w
    cdef Path p
    while visited <= 5 * n_buckets:     # four turns use up any item's uses
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
        if (w >> USES_AT) & 3:
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


cdef uint64_t *owner_of(View *v, Shard *s, uint32_t granule, uint64_t pinned, uint32_t *bucket) noexcept nogil:
    """The slot of the item whose record starts at this granule; NULL when none does (index memory, a later run, the pinned record)."""
    cdef Record *r = record_at(&s.records, granule)
    cdef Place place
    cdef uint64_t h
    cdef const char *key
    if granule == pinned or r == NULL or not record_sane(v, &s.records, r):
        return NULL
    key = <const char *> r + body_offset(r)
    h = hash_key(v, key, r.key_length)
    if shard_of(v, h) != s:
        return NULL
    locate(v, s, key, r.key_length, h, &place)
    if place.slot == NULL or word_granule(place.slot[0]) != granule:
        return NULL
    bucket[0] = place.bucket
    return place.slot


cdef int64_t widen(View *v, Shard *s, uint32_t start, uint32_t n, uint32_t alignment, uint64_t pinned) noexcept nogil:
    """Evict neighbours behind a free granule until a run of `n` that includes it is free; -1 when something immovable stands in the way."""
    cdef uint32_t low = start - free_before(&s.records, start, n)
    cdef uint32_t first = (low + alignment - 1) & ~(alignment - 1)
    cdef uint32_t at, bucket
    cdef uint64_t *slot
    if <uint64_t> first + n > s.records.granules:
        return -1
    while True:
        at = next_used(&s.records, first, first + n)
        if at == first + n:
            return first
        slot = owner_of(v, s, at, pinned, &bucket)
        if slot == NULL:
            return -1
        drop_victim(v, s, slot, bucket)


cdef bint make_run(View *v, Shard *s, uint32_t n, uint32_t alignment, uint64_t pinned) noexcept nogil:
    """Evict until a free run of `n` granules exists and let the next search begin at it."""
    cdef uint32_t tries, bucket, granule
    cdef uint64_t *slot
    cdef int64_t at
    for tries in range(VICTIMS_A_RUN):
        slot = next_victim(v, s, pinned, &bucket)
        if slot == NULL:
            return False
        granule = <uint32_t> word_granule(slot[0])
        drop_victim(v, s, slot, bucket)
        if is_used(&s.records, granule):
            continue                # a node was freed and taken again, or the record was damaged
        at = widen(v, s, granule, n, alignment, pinned)
        if at >= 0:
            s.records.next_fit[0] = <uint32_t> at
            return True
    return False


cdef bint one_run(View *v, Shard *s, uint32_t n, uint32_t budget, Runs *out) noexcept nogil:
    cdef int64_t at = find_run(&s.records, n, 1, budget)
    if at < 0:
        return False
    out.n = 1
    out.start[0] = <uint32_t> at
    out.granules[0] = n
    return True


cdef bint allocate(View *v, Shard *s, uint64_t size_bytes, uint32_t head_bytes, uint64_t pinned, Runs *out) noexcept nogil:
    """Find (and unless -M make) room for a record of `size_bytes` as one run, `head_bytes` of them in front of the value.
    The runs are not taken yet. `pinned`: granule of a record that must stay. May change the index: search again after it."""
    cdef uint32_t n = granules_for(&s.records, size_bytes)
    cdef uint64_t payload = size_bytes - head_bytes
    cdef bint several = s.index == &s.records
    if one_run(v, s, n, SEARCH_WORDS if v.evicts else <uint32_t> 0xffffffff, out):
        return True
    if v.evicts and make_run(v, s, n, 1, pinned) and one_run(v, s, n, 0xffffffff, out):
        return True
    while several:
        if gather_runs(&s.records, payload, head_bytes + 8, out):
            if out.n == 1:
                out.granules[0] = n     # a single run has no link
            else:
                count(v, SEVERAL_RUN_RECORDS, 1)
            return True
        if not v.evicts or not evict_one(v, s, pinned):
            return False
    return False
