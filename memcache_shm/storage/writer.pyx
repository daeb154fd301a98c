# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""Changing items, under the shard's lock: store in all its modes, delete, incr and decr, touch. (flush_all is flushing.pyx.)

Every change is made out of place: allocate, fill, publish by one store into the slot, then free the old record. Order of events in a
shard: lock, intent, version counter, record, slot, free map and counts, intent cleared, unlock.
"""

from libc.stdint cimport int64_t, uint32_t, uint64_t

from memcache_shm.storage.arena cimport Runs, clear, mark
from memcache_shm.storage.atomics cimport (
    __builtin_prefetch, load_relaxed32, load_relaxed64, store_relaxed32, store_release32, store_release64,
)
from memcache_shm.storage.counters cimport (
    CAS_BADVAL, CAS_HITS, CAS_MISSES, CMD_SET, DECR_HITS, DECR_MISSES, DELETE_HITS, DELETE_MISSES, EXPIRED_UNFETCHED,
    INCR_HITS, INCR_MISSES, RECLAIMED, RETURNED_NEW, RETURNED_PROVEN, STORE_NO_MEMORY, STORE_TOO_LARGE, TOTAL_ITEMS, TOUCH_HITS,
    TOUCH_MISSES,
)
from memcache_shm.storage.evict cimport drop, drop_victim, evict_one, free_record
from memcache_shm.storage.ghosts cimport move_border, returned
from memcache_shm.storage.index cimport Place, bucket_at, bucket_count, extend, ghosts_of, grow, locate, shrink
from memcache_shm.storage.layout cimport (
    ACCESS_AT, ACCESS_MASK, ACCESS_SHIFT, BUCKET_FILL_HALVES, BUCKET_SLOTS, BUCKET_SPARSE, CHUNK_BUCKETS, CHUNK_BYTES, EXPIRY_HZ,
    FETCHED_AT, KIND_ENTRY, MAX_NODES, MIN_BUCKETS, NODE_BYTES, NO_GRANULE, PROVEN_AT, Record, RunLink, USES_AT, VERSION_AT, VERSION_MASK,
    bucket_of, entry_pattern, word_kind,
)
from memcache_shm.storage.locks cimport LOCKED, give, take
from memcache_shm.storage.numbers cimport format_number, parse_number
from memcache_shm.storage.records cimport Fields, cas_id, copy_value, fill, record_bytes, sizes_of, value_length
from memcache_shm.storage.reaping cimport reap
from memcache_shm.storage.recovery cimport OP_DELETE, OP_EVICT, OP_EXPIRE, OP_STORE, OP_TOUCH, begin, done, end, note, publish
from memcache_shm.storage.results cimport (
    ADD, APPEND, CAS, EXISTS, NO_SPACE, NOT_FOUND, NOT_NUMBER, NOT_STORED, OK, PREPEND, READ_ONLY, SET, TOO_LARGE,
)
from memcache_shm.storage.room cimport allocate, reserve_index
from memcache_shm.storage.view cimport Shard, View, count, hash_key, note_expiry, shard_of, table_ns, ticks, wall_s

cdef enum:
    NUMBER_BYTES = 64               # bytes of a value that incr looks at
    ALREADY_GONE = 1                # an expiry before every clock reading
    MERGES_A_CHANGE = 16            # and one more for each KiB stored: the index gives way as fast as large records come
    MOST_MERGES = 1024


cdef struct Target:                 # the key an operation works on
    const char *key
    size_t klen
    uint64_t hash
    Shard *shard
    Place place
    Record *record                  # its live record or NULL
    uint64_t stored                 # bytes of that record
    uint64_t fresh                  # granule of the record just stored, which must not be evicted for the index; or NO_GRANULE


cdef int aim(View *v, Target *t, const char *key, size_t klen, int operation, int wait) noexcept nogil:
    """Lock the key's shard, note the intent and find the live record (an expired or flushed one is reclaimed on the way)."""
    cdef int r
    if v.readonly:
        return READ_ONLY
    t.key = key
    t.klen = klen
    t.fresh = NO_GRANULE
    t.stored = 0
    t.hash = hash_key(v, key, klen)
    t.shard = shard_of(v, t.hash)
    __builtin_prefetch(bucket_at(t.shard, bucket_of(t.hash, bucket_count(v, t.shard))))
    r = take(v, t.shard, wait)
    if r != LOCKED:
        return r
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
    give(v, t.shard)
    return result


cdef void balance(View *v, Shard *s, uint64_t pinned, uint64_t stored) noexcept nogil:
    """One split when the buckets are full on average, merges, more for a large record, when they are sparse."""
    cdef uint32_t n = bucket_count(v, s), merges = <uint32_t> min(MERGES_A_CHANGE + stored // 1024, <uint64_t> MOST_MERGES)
    cdef uint32_t _merge
    if s.control.records * 2 > <uint64_t> n * BUCKET_FILL_HALVES:
        if n < v.max_buckets:
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
        return t.place.slot[0] & ((<uint64_t> 3 << USES_AT) | (<uint64_t> 1 << PROVEN_AT))
    was = returned(ghosts_of(t.shard, t.place.bucket), entry_pattern(t.hash)) if v.evicts else -1
    if was < 0:
        return 0
    count(v, RETURNED_PROVEN if was else RETURNED_NEW, 1)
    move_border(t.shard.control, was)
    return <uint64_t> 1 << PROVEN_AT


cdef uint64_t new_word(View *v, Target *t, uint32_t granule, uint64_t version) noexcept nogil:
    cdef uint64_t access = (load_relaxed32(&v.header.coarse_s) >> ACCESS_SHIFT) & ACCESS_MASK
    cdef uint64_t w = entry_pattern(t.hash) | granule | (access << ACCESS_AT)
    return w | ((version >> v.version_shift) & VERSION_MASK) << VERSION_AT | standing(v, t)


cdef int write_record(View *v, Target *t, Fields *f, uint32_t length, uint64_t *version) noexcept nogil:
    """Allocate, fill, publish, free the old record. OK or NO_SPACE."""
    cdef Shard *s = t.shard
    cdef Runs runs
    cdef uint64_t *slot
    cdef uint64_t old, word
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
    publish(v, s, OP_STORE, slot, word)
    s.control.records += 1
    if not word >> PROVEN_AT & 1:
        s.control.news += 1
    s.control.items += 1
    s.control.bytes += record_bytes(f, length) + (sizeof(RunLink) if runs.n > 1 else 0)
    if old != 0:
        free_record(v, s, old)
    count(v, TOTAL_ITEMS, 1)
    if version != NULL:
        version[0] = f.foreign_cas if f.foreign_cas else f.version
    return OK


cdef int permitted(View *v, Target *t, int mode, uint64_t cas) noexcept nogil:
    """Whether a store in this mode may go on, by what is there now."""
    if mode == SET:
        return OK
    if mode == CAS:
        if t.record == NULL:
            count(v, CAS_MISSES, 1)
            return NOT_FOUND
        if cas_id(t.record, sizes_of(t.record), t.record.version) != cas:
            count(v, CAS_BADVAL, 1)
            return EXISTS
        count(v, CAS_HITS, 1)
        return OK
    return OK if (t.record == NULL) == (mode == ADD) else NOT_STORED


cdef int store(View *v, int mode, const char *key, size_t klen, const char *value, size_t vlen,
               uint32_t flags, uint32_t expiry, uint64_t cas, uint64_t *version, int wait) noexcept nogil:
    cdef Target t
    cdef Fields f
    cdef uint64_t length = vlen
    cdef int r
    if vlen > v.max_value_bytes:
        count(v, STORE_TOO_LARGE, 1)
        return TOO_LARGE
    r = aim(v, &t, key, klen, OP_STORE, wait)
    if r != OK:
        return r
    count(v, CMD_SET, 1)
    r = permitted(v, &t, mode, cas)
    if r != OK:
        return leave(v, &t, r)
    f.foreign_cas = 0
    f.flags = flags
    f.expiry = expiry
    f.head = f.tail = value
    f.head_length = <uint32_t> vlen
    f.tail_length = f.middle_length = 0
    f.middle = NULL
    if mode == APPEND or mode == PREPEND:
        f.flags = t.record.flags
        f.expiry = t.record.expiry
        f.middle = t.record
        f.middle_length = value_length(sizes_of(t.record))
        length += f.middle_length
        if mode == APPEND:
            f.head_length = 0
            f.tail_length = <uint32_t> vlen
    if length > v.max_value_bytes:
        count(v, STORE_TOO_LARGE, 1)
        return leave(v, &t, TOO_LARGE)
    r = write_record(v, &t, &f, <uint32_t> length, version)
    if r == NO_SPACE and v.evicts and mode != APPEND and mode != PREPEND and t.record != NULL:
        search(v, &t)                   # making room may have moved its slot
        if t.record != NULL:
            drop(v, t.shard, t.place.slot, t.place.bucket, OP_EVICT)    # old and new do not fit side by side
            search(v, &t)
        r = write_record(v, &t, &f, <uint32_t> length, version)
    return leave(v, &t, r)


cdef int remove(View *v, const char *key, size_t klen, uint64_t cas, int wait) noexcept nogil:
    cdef Target t
    cdef int r = aim(v, &t, key, klen, OP_DELETE, wait)
    if r != OK:
        return r
    if t.record == NULL:
        count(v, DELETE_MISSES, 1)
        return leave(v, &t, NOT_FOUND)
    if cas != 0 and cas_id(t.record, sizes_of(t.record), t.record.version) != cas:
        return leave(v, &t, EXISTS)
    count(v, DELETE_HITS, 1)
    drop(v, t.shard, t.place.slot, t.place.bucket, OP_DELETE)
    return leave(v, &t, OK)


cdef int arith(View *v, const char *key, size_t klen, bint decr, uint64_t delta,
               uint64_t *result, uint64_t *version, int wait) noexcept nogil:
    cdef Target t
    cdef Fields f
    cdef char text[NUMBER_BYTES]
    cdef uint32_t length, digits
    cdef uint64_t number
    cdef int r = aim(v, &t, key, klen, OP_STORE, wait)
    if r != OK:
        return r
    if t.record == NULL:
        count(v, DECR_MISSES if decr else INCR_MISSES, 1)
        return leave(v, &t, NOT_FOUND)
    length = value_length(sizes_of(t.record))
    if length > NUMBER_BYTES:
        return leave(v, &t, NOT_NUMBER)
    copy_value(&t.shard.records, t.record, length, text)
    if not parse_number(text, length, &number):
        return leave(v, &t, NOT_NUMBER)
    if decr:
        number = number - delta if number > delta else 0
    else:
        number += delta
    digits = format_number(number, text)
    if digits > v.max_value_bytes:
        count(v, STORE_TOO_LARGE, 1)
        return leave(v, &t, TOO_LARGE)
    count(v, DECR_HITS if decr else INCR_HITS, 1)
    while digits < length:
        text[digits] = 32               # memcached keeps the length and pads with blanks
        digits += 1
    f.foreign_cas = 0
    f.flags = t.record.flags
    f.expiry = t.record.expiry
    f.head = f.tail = text
    f.head_length = digits
    f.tail_length = f.middle_length = 0
    f.middle = NULL
    result[0] = number
    return leave(v, &t, write_record(v, &t, &f, digits, version))


cdef int touch(View *v, const char *key, size_t klen, uint32_t expiry, int wait) noexcept nogil:
    cdef Target t
    cdef int r = aim(v, &t, key, klen, OP_TOUCH, wait)
    if r != OK:
        return r
    if t.record == NULL:
        count(v, TOUCH_MISSES, 1)
        return leave(v, &t, NOT_FOUND)
    note_expiry(t.shard, t.place.bucket, expiry)
    note(v, t.shard, OP_TOUCH, t.place.slot, t.place.slot[0], expiry)
    store_release32(&t.record.expiry, expiry)
    done(t.shard, OP_TOUCH)
    count(v, TOUCH_HITS, 1)
    return leave(v, &t, OK)


cdef uint32_t expiry_from(View *v, int64_t exptime) noexcept nogil:
    """The protocol's exptime as a point on the table clock: 0 never, negative gone, up to 30 days relative, above unix time."""
    cdef uint64_t at
    if exptime == 0:
        return 0
    if exptime > RELATIVE_MAX_S:
        exptime -= wall_s(v)
    if exptime <= 0:
        return ALREADY_GONE
    if exptime > FAR_S:
        return 0
    at = <uint64_t> exptime * EXPIRY_HZ + ticks(table_ns(v))
    if at > <uint64_t> 0xffffffff:
        return 0                        # further away than the clock can tell (17 years): never
    return <uint32_t> at
