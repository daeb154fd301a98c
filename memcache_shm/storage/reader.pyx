# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""Reading without a lock: find, copy, confirm.

A reader loads the slot word (acquire), the record's version (acquire) and fields, copies, and then - after an acquire fence - loads
slot word, version and split word again. All equal: what it copied was one whole record. Otherwise it looks again; after a bounded
number of tries it takes the shard's lock (a read-only mapping cannot: it goes on for up to a second and gives up with BUSY).
A miss is confirmed by the split word (a key is moved only together with a new generation) and, for each slot on the way that carried the
key's tag but not the key, by slot and version: the record may have been replaced while it was compared.

Nothing here trusts the segment: addresses and lengths are clamped, walks are bounded. The only store is the hit state, a
compare-and-swap of the slot word just validated.
"""

from libc.stdint cimport uint32_t, uint64_t
from libc.string cimport memcmp
from posix.unistd cimport usleep

from memcache_shm.storage.arena cimport Runs
from memcache_shm.storage.atomics cimport (
    __builtin_prefetch, cas64_relaxed, cpu_pause, fence_acquire, load_acquire64, load_relaxed32, load_relaxed64,
)
from memcache_shm.storage.counters cimport GET_EXPIRED, GET_FLUSHED, GET_HITS, GET_MISSES, READ_LOCKED, READ_RETRIES
from memcache_shm.storage.index cimport Path, follow, walk
from memcache_shm.storage.layout cimport (
    ACCESS_AT, ACCESS_MASK, ACCESS_SHIFT, FETCHED_AT, Record, SEVERAL_RUNS, USES_AT, bucket_of,
    entry_pattern, hit_mask, pattern_mask, split_buckets, word_granule,
)
from memcache_shm.storage.locks cimport LOCKED, give, look_around, take
from memcache_shm.storage.records cimport (
    Sizes, are_sane, cas_id, copy_value, key_of, record_at, record_runs, sizes_of, value_length, word_matches,
)
from memcache_shm.storage.results cimport (
    BUSY, EXPIRED, FLUSHED, Found, NO_COUNT, NO_EXPIRY, NO_MISS, NO_TRACE, NOT_FOUND, OK, RETIRED, WOULD_BLOCK,
)
from memcache_shm.storage.view cimport Shard, View, count, flush_pending, hash_key, is_retired, shard_of, table_ns, ticks

cdef enum:
    FREE_TRIES = 32             # before the lock is taken
    READ_ONLY_TRIES = 10000     # of about 100 us (50 and the timer's slack): one second
    LOOK_READS = 16             # between two looks at the clock, in case the table was removed
    HIT = 100                   # outcomes of one look, beside Result's
    AGAIN = 101


cdef inline bint is_of(View *v, Shard *s, Record *r, Sizes sizes, Found *f, const char *key, size_t klen) noexcept nogil:
    """Whether a record belongs to its slot word and to the key, and is whole."""
    cdef Runs runs
    if sizes.key_length != klen or not word_matches(v, f.word, f.stamp) or not are_sane(v, &s.records, r, sizes):
        return False
    if memcmp(key_of(r, sizes), key, klen) != 0:
        return False
    return not sizes.length & SEVERAL_RUNS or record_runs(v, &s.records, r, &runs)


cdef inline bint same_record(Found *f) noexcept nogil:
    """Whether slot and version are still what `f` has of them. A version of 0 is no record's: it may be the next filling's already."""
    if f.stamp == 0:
        return False
    fence_acquire()
    if (load_acquire64(f.slot) ^ f.word) & ~hit_mask():    # acquired: the word may repeat, with a new record behind it
        return False
    return load_relaxed64(&(<Record *> f.record).version) == f.stamp


cdef inline void take_fields(Found *f, Record *r, Sizes sizes) noexcept nogil:
    """What a record tells besides its value."""
    f.flags = r.flags
    f.expiry = load_relaxed32(&r.expiry)
    f.vlen = value_length(sizes)
    f.version = cas_id(r, sizes, f.stamp)
    f.state = sizes.state


cdef int look(View *v, Shard *s, Found *f, const char *key, size_t klen) noexcept nogil:
    """One pass over the key's path: HIT with `f` filled, NOT_FOUND (to be confirmed), or AGAIN."""
    cdef uint64_t pattern = entry_pattern(f.hash), mask = pattern_mask()
    cdef uint64_t w
    cdef uint32_t i, n_buckets
    cdef Record *r
    cdef Sizes sizes
    cdef Path p
    f.split = load_acquire64(&s.control.split)
    n_buckets = split_buckets(f.split)
    if n_buckets == 0:
        return NOT_FOUND
    walk(s, bucket_of(f.hash, n_buckets), &p)
    while p.slots != NULL:
        for i in range(p.n):
            w = load_acquire64(p.slots + i)
            if w & mask != pattern:
                continue
            r = record_at(&s.records, word_granule(w))
            if r == NULL:
                continue
            __builtin_prefetch(<const char *> r + 64)   # the value's lines come with the record's: one miss instead of two
            __builtin_prefetch(<const char *> r + 128)
            f.stamp = load_acquire64(&r.version)
            f.word = w
            f.slot = p.slots + i
            f.record = <unsigned char *> r
            sizes = sizes_of(r)
            if not is_of(v, s, r, sizes, f, key, klen):
                if not f.locked and not same_record(f):
                    return AGAIN                # replaced while we looked: it may have been the key's
                continue
            take_fields(f, r, sizes)
            return HIT
        if not follow(s, &p, w):
            break
    return NOT_FOUND


cdef inline bint unchanged(Shard *s, Found *f, bint hit) noexcept nogil:
    if hit and not same_record(f):
        return False
    fence_acquire()
    return load_relaxed64(&s.control.split) == f.split


cdef inline int void_reason(View *v, Shard *s, Found *f) noexcept nogil:
    """The counter to blame when the record found is not to be served, -1 when it is."""
    if flush_pending(v, s) or f.stamp <= load_acquire64(&s.control.cutoff):     # in this order: see "Memory order"
        return GET_FLUSHED
    if f.expiry != 0 and not f.omit & NO_EXPIRY and f.expiry <= ticks(table_ns(v)):
        return GET_EXPIRED
    return -1


cdef int miss(View *v, Shard *s, Found *f, int reason) noexcept nogil:
    if f.locked:
        give(v, s)
        f.locked = 0
    if not f.omit & (NO_COUNT | NO_MISS):
        count(v, GET_MISSES, 1)
    if reason >= 0:
        count(v, reason, not f.omit & NO_COUNT)
        f.missing = FLUSHED if reason == GET_FLUSHED else EXPIRED
    return NOT_FOUND


cdef int steady(View *v, Shard *s, Found *f, int wait) noexcept nogil:
    """Too many tries: take the lock, or as a read-only reader wait a little. OK to look once more."""
    cdef int r
    if f.tries <= FREE_TRIES or f.locked:
        cpu_pause()
        return OK
    if v.readonly:
        if not wait:
            return WOULD_BLOCK
        usleep(50)
        return BUSY if f.tries > READ_ONLY_TRIES else OK
    r = take(v, s, wait)
    if r == LOCKED:
        f.locked = 1
        count(v, READ_LOCKED, 1)
        return OK
    return r


cdef int find(View *v, Found *f, const char *key, size_t klen, int wait) noexcept nogil:
    """Look a key up. OK: copy and confirm must follow. Other results are final (a miss is already counted)."""
    cdef Shard *s
    cdef int r, reason
    v.reads += 1
    if v.reads % LOOK_READS == 0:
        look_around(v)
    if is_retired(v):
        return RETIRED
    if f.tries == 0:
        f.hash = hash_key(v, key, klen)
    s = shard_of(v, f.hash)
    f.shard = s.number
    while True:
        f.tries += 1
        if f.tries > 1:
            r = steady(v, s, f, wait)
            if r != OK:
                return r
        r = look(v, s, f, key, klen)
        if r == AGAIN and f.locked:
            return miss(v, s, f, -1)        # damaged: nobody else can be changing it
        if r == AGAIN:
            continue
        reason = void_reason(v, s, f) if r == HIT else -1
        if r == HIT and reason < 0:
            return OK
        if f.locked or unchanged(s, f, r == HIT):
            return miss(v, s, f, reason)


cdef void copy(View *v, Found *f, char *dst) noexcept nogil:
    """Copy `f.vlen` value bytes; they mean nothing before confirm."""
    if f.record != NULL:
        copy_value(&v.shard[f.shard].records, <Record *> f.record, f.vlen, dst)


cdef inline void note_hit(View *v, Found *f) noexcept nogil:
    """Put the use into the slot word: uses + 1 (at most 3), fetched, time of access. No store when nothing would change."""
    cdef uint64_t w = load_relaxed64(f.slot)
    cdef uint64_t access = (load_relaxed32(&v.header.coarse_s) >> ACCESS_SHIFT) & ACCESS_MASK
    cdef uint64_t uses = (w >> USES_AT) & 3
    cdef uint64_t new
    if uses < 3:
        uses += 1
    new = w & ~((<uint64_t> ACCESS_MASK << ACCESS_AT) | (<uint64_t> 3 << USES_AT))
    new |= (access << ACCESS_AT) | (uses << USES_AT) | (<uint64_t> 1 << FETCHED_AT)
    if new != w and (w ^ f.word) & ~hit_mask() == 0:
        cas64_relaxed(f.slot, w, new)


cdef bint confirm(View *v, Found *f) noexcept nogil:
    """Whether everything read since find belongs to one record that was in the table all along. Counts the hit."""
    cdef Shard *s = v.shard + f.shard
    if f.record == NULL:                # made by this very find
        if not f.omit & NO_COUNT:
            count(v, GET_HITS, 1)
        return True
    if not f.locked and not unchanged(s, f, True):
        count(v, READ_RETRIES, 1)
        return False
    if not v.readonly:
        if not f.omit & NO_TRACE:
            note_hit(v, f)
        if not f.omit & NO_COUNT:
            count(v, GET_HITS, 1)
    if f.locked:
        give(v, s)
        f.locked = 0
    return True


cdef void abandon(View *v, Found *f) noexcept nogil:
    """Instead of confirm: what was found is not wanted."""
    if f.locked:
        give(v, v.shard + f.shard)
        f.locked = 0
