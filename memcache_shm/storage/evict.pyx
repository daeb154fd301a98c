# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""Making room: the eviction sweep and the allocation of records.

A hand goes over the slots in index order. A slot whose item was used since the hand last came loses one use and stays (second chance);
otherwise its item goes. Where one record is not enough, its neighbours in the arena go too, until the run fits; a neighbour is
recognised by its key leading back to its own slot. Only when no single run can be had does a record get several.
"""

from libc.stdint cimport int64_t, uint32_t, uint64_t

from memcache_shm.storage.arena cimport (
    Runs, clear, find_run, free_before, gather_runs, granules_for, is_used, mark, next_used,
)
from memcache_shm.storage.atomics cimport load_relaxed64, store_release64
from memcache_shm.storage.counters cimport EVICTED_UNFETCHED, EVICTIONS, EXPIRED_UNFETCHED, RECLAIMED, SEVERAL_RUN_RECORDS
from memcache_shm.storage.index cimport Path, Place, compact, locate, walk, walk_on
from memcache_shm.storage.layout cimport (
    FETCHED_AT, GRANULE_MASK, KIND_ENTRY, LENGTH_MASK, Record, RunLink, SEVERAL_RUNS, USES_AT, ZONE_STEP, split_buckets, word_granule,
    word_kind,
)
from memcache_shm.storage.records cimport Fields, body_offset, cas_id, fill, record_at, record_granules, record_runs, record_sane
from memcache_shm.storage.recovery cimport OP_EVICT, OP_EXPIRE, OP_MOVE, publish
from memcache_shm.storage.view cimport Shard, View, count, earlier, hash_key, index_start, records_end, shard_of, table_ns, ticks

cdef enum:
    SEARCH_WORDS = 128              # bitmap words looked through before eviction makes a run itself
    REAP_BUCKETS = 64               # looked through for dead records before a live one is evicted
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
    cdef uint32_t now = 0, n_buckets = split_buckets(load_relaxed64(&s.control.split)), seen = 0
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


cdef uint64_t *slot_of_record(View *v, Shard *s, uint32_t granule, uint32_t *bucket) noexcept nogil:
    """The slot of the item whose record starts at this granule, recognised by its key leading back here; else NULL."""
    cdef Record *r = record_at(&s.records, granule)
    cdef Place place
    cdef uint64_t h
    cdef const char *key
    if r == NULL or not record_sane(v, &s.records, r):
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


cdef uint64_t *owner_of(View *v, Shard *s, uint32_t granule, uint32_t *bucket, uint32_t *length) noexcept nogil:
    """The slot of the item that has a run starting at this granule, and the run's length; NULL when no run starts there."""
    cdef uint64_t *slot = slot_of_record(v, s, granule, bucket)
    cdef RunLink *link
    cdef Runs runs
    cdef uint32_t i
    if slot != NULL:
        length[0] = record_granules(&s.records, record_at(&s.records, granule))
        return slot
    link = <RunLink *> record_at(&s.records, granule)
    if link == NULL or link.first >= s.records.granules:
        return NULL
    slot = slot_of_record(v, s, link.first, bucket)
    if slot == NULL or not record_runs(v, &s.records, record_at(&s.records, link.first), &runs):
        return NULL
    for i in range(1, runs.n):
        if runs.start[i] == granule:
            length[0] = runs.granules[i]
            return slot
    return NULL


cdef bint move(View *v, Shard *s, uint64_t *slot, uint32_t below) noexcept nogil:
    """Copy a record of one run to a free run under `below`; False when there is none."""
    cdef uint64_t old = slot[0]
    cdef Record *r = record_at(&s.records, word_granule(old))
    cdef uint32_t n = record_granules(&s.records, r)
    cdef Fields f
    cdef Runs runs
    cdef int64_t at
    if r.length & SEVERAL_RUNS:
        return False
    at = find_run(&s.records, 0, below, n, 1, SEARCH_WORDS)
    if at < 0:
        return False
    runs.n = 1
    runs.start[0] = <uint32_t> at
    runs.granules[0] = n
    mark(&s.records, <uint32_t> at, n)
    f.version = r.version
    f.foreign_cas = cas_id(r, 0)
    f.key = <const char *> r + body_offset(r)
    f.key_length = r.key_length
    f.flags = r.flags
    f.expiry = r.expiry
    f.head = f.tail = NULL
    f.head_length = f.tail_length = 0
    f.middle = r
    fill(&s.records, &runs, &f)
    record_at(&s.records, <uint64_t> at).state = r.state
    publish(v, s, OP_MOVE, slot, (old & ~<uint64_t> GRANULE_MASK) | <uint64_t> at, r.version)
    clear(&s.records, <uint32_t> word_granule(old), n)
    return True


cdef bint clear_window(View *v, Shard *s, uint32_t low, uint32_t high, uint64_t pinned, bint moving) noexcept nogil:
    """Free all granules in [low, high): records that reach in are moved below it (if wanted and possible) or evicted. False when the
    pinned record or something unknown stands in the way, or when evicting is forbidden."""
    cdef uint32_t at, start, bucket, length
    cdef uint64_t *slot
    while True:
        at = next_used(&s.records, low, high)
        if at == high:
            return True
        start = at
        while True:                     # only the first record of the window may start before it
            slot = owner_of(v, s, start, &bucket, &length)
            if slot != NULL and start + length > at:
                break
            if slot != NULL or start == 0 or not is_used(&s.records, start - 1) or at != low:
                return False
            start -= 1
        if word_granule(slot[0]) == pinned:
            return False
        if moving and move(v, s, slot, low):
            continue
        if not v.evicts:
            return False
        drop_victim(v, s, slot, bucket)


cdef bint make_run(View *v, Shard *s, uint32_t n, uint64_t pinned) noexcept nogil:
    """Evict until a free run of `n` granules exists and let the next search begin at it."""
    cdef uint32_t _try, bucket, granule, low, high
    cdef uint64_t *slot
    for _try in range(VICTIMS_A_RUN):
        slot = next_victim(v, s, pinned, &bucket)
        if slot == NULL:
            return False
        granule = <uint32_t> word_granule(slot[0])
        drop_victim(v, s, slot, bucket)
        high = records_end(s)
        if n > high:
            return False
        low = granule - free_before(&s.records, granule, n)
        if low > high - n:
            low = high - n
        if clear_window(v, s, low, low + n, pinned, False):
            s.records.next_fit[0] = low
            return True
    return False


cdef bint reserve_index(View *v, Shard *s, uint32_t n, uint32_t alignment, uint64_t pinned) noexcept nogil:
    """See to `n` free granules for the index; in the memory geometry its zone grows downwards for them."""
    cdef uint32_t low
    if find_run(&s.index, index_start(s), s.index.granules, n, alignment, <uint32_t> 0xffffffff) >= 0:
        return True
    low = index_start(s)
    if not s.shared or low < s.records.granules // 2:
        return False
    if not clear_window(v, s, low - ZONE_STEP, low, pinned, True):
        return False
    s.control.zone = low - ZONE_STEP
    s.index.next_fit[0] = low - ZONE_STEP
    return True


cdef bint one_run(Shard *s, uint32_t n, uint32_t budget, Runs *out) noexcept nogil:
    cdef int64_t at = find_run(&s.records, 0, records_end(s), n, 1, budget)
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
    cdef uint32_t words = SEARCH_WORDS if v.evicts else <uint32_t> 0xffffffff
    if one_run(s, n, words, out):
        return True
    while reap(v, s, pinned, REAP_BUCKETS if v.evicts else <uint32_t> 0xffffffff):
        if one_run(s, n, words, out):
            return True
    if v.evicts and make_run(v, s, n, pinned) and one_run(s, n, <uint32_t> 0xffffffff, out):
        return True
    while s.shared:
        if gather_runs(&s.records, records_end(s), size_bytes - head_bytes, head_bytes + <uint32_t> sizeof(RunLink), out):
            if out.n == 1:
                out.granules[0] = n     # a single run has no link
            else:
                count(v, SEVERAL_RUN_RECORDS, 1)
            return True
        if not v.evicts or not evict_one(v, s, pinned):
            return False
    return False
