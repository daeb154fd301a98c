# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""Taking items out: which one goes for want of room, and the accounts of it.

An item is new until it was used and a hand has seen so; then it is proven. Each class has a hand of its own that visits the buckets:

- new: who was used since becomes proven; of the others the older half goes. Most items are asked for once, so this queue is kept short;
- proven: of those without a use left the older half goes; where no such item is left behind, all lose one use.

A visit lasts until its half has gone, one with each eviction: so a bucket with twice as many items loses twice as many.
Which hand turns depends on the part of the records that is new. The border moves with the ghosts that return (ghosts.pxd). This is S3-FIFO
(Yang et al., SOSP 2023) without its lists, and with ARC's border in place of a fixed one: docs/performance.md has the figures.
What is dead (flushed, expired) goes before anything alive: reaping.pyx.
"""

from libc.stdint cimport uint32_t, uint64_t

from memcache_shm.storage.arena cimport Runs, clear
from memcache_shm.storage.atomics cimport __builtin_prefetch, load_relaxed64, store_relaxed64, store_release64
from memcache_shm.storage.counters cimport (
    EVICTED_PROVEN, EVICTED_UNFETCHED, EVICTIONS, EXPIRED_UNFETCHED, RECLAIMED,
)
from memcache_shm.storage.feed cimport FEED_DELETE, FEED_EVICT, FEED_EXPIRE, is_heard, prepare
from memcache_shm.storage.ghosts cimport GHOSTS, ONE, average_in, haunt, share_of_new
from memcache_shm.storage.index cimport Path, bucket_at, bucket_count, compact, ghosts_of, walk, walk_on
from memcache_shm.storage.layout cimport (
    BUCKET_SLOTS, FETCHED_AT, KIND_ENTRY, PROVEN_AT, Record, USES_AT, VERSION_AT, VERSION_MASK, word_granule, word_kind,
)
from memcache_shm.storage.records cimport Sizes, are_sane, key_of, key_offset, record_at, record_runs, sizes_of, value_length
from memcache_shm.storage.recovery cimport OP_DELETE, OP_EVICT, OP_EXPIRE, publish_told
from memcache_shm.storage.view cimport Evicted, Shard, View, count, table_ns, ticks

cdef enum:
    MOST_VISITS = 256           # buckets that one eviction looks at; then any item goes
    NEW = 0                     # the hands
    PROVEN = 1
    LEFT_BITS = 4               # of a hand's word: how many more are to go from its bucket
    LEFT_MASK = 15


cdef inline bint is_proven(uint64_t word) noexcept nogil:
    return (word >> PROVEN_AT) & 1


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
    if not is_proven(word):
        s.control.news -= 1
    if r.version > load_relaxed64(&s.control.cutoff):
        s.control.items -= 1
        s.control.bytes -= key_offset(sizes) + sizes.key_length + <uint64_t> value_length(sizes)
    __builtin_prefetch(<char *> r + 64)     # mostly the next record's place
    __builtin_prefetch(<char *> r + 128)
    for i in range(runs.n):
        clear(&s.records, runs.start[i], runs.granules[i])


cdef uint64_t obituary(View *v, Shard *s, uint64_t word, int kind) noexcept nogil:
    """Prepare the event of an item that goes; 0 for one that was flushed, since the flush was told."""
    cdef Record *r = record_at(&s.records, word_granule(word))
    cdef Sizes sizes
    if r == NULL or r.version <= load_relaxed64(&s.control.cutoff):
        return 0
    sizes = sizes_of(r)
    if not are_sane(v, &s.records, r, sizes):
        return 0
    return prepare(v, s, kind, key_of(r, sizes), sizes.key_length, r.version)


cdef void drop(View *v, Shard *s, uint64_t *slot, uint32_t bucket, int operation) noexcept nogil:
    """Take an item out of the table: clear its slot, give its record back, tidy the path."""
    cdef uint64_t word = slot[0], feed = 0
    if is_heard(v):
        feed = obituary(v, s, word, FEED_DELETE if operation == OP_DELETE else FEED_EXPIRE if operation == OP_EXPIRE else FEED_EVICT)
    publish_told(v, s, operation, slot, 0, feed)
    free_record(v, s, word)
    compact(v, s, bucket)


cdef void show(View *v, Shard *s, Record *r, uint64_t word) noexcept nogil:
    """Tell the witness which item goes."""
    cdef Sizes sizes = sizes_of(r)
    cdef Evicted item
    if are_sane(v, &s.records, r, sizes):
        item.key = key_of(r, sizes)
        item.klen = sizes.key_length
        item.vlen = value_length(sizes)
        item.expiry = r.expiry
        item.word = word
        v.witness(v.whose, v, &item)


cdef void drop_victim(View *v, Shard *s, uint64_t *slot, uint32_t bucket) noexcept nogil:
    """Evict, and count as memcached does. What was alive leaves a ghost."""
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
        if is_proven(word):
            count(v, EVICTED_PROVEN, 1)
        if not fetched:
            count(v, EVICTED_UNFETCHED, 1)
        if v.witness != NULL and r != NULL:
            show(v, s, r, word)
        average_in(s.control, is_proven(word), <uint64_t> GHOSTS * bucket_count(v, s))
        haunt(ghosts_of(s, bucket), word, is_proven(word))
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


cdef inline uint64_t uses_of(uint64_t word) noexcept nogil:
    return (word >> USES_AT) & 3


cdef inline uint64_t age_of(View *v, Shard *s, uint64_t word) noexcept nogil:
    """How long ago, in units of 2 ** version_shift versions, the item came; right up to 1023 units."""
    return ((load_relaxed64(&s.control.version) >> v.version_shift) - (word >> VERSION_AT)) & VERSION_MASK


cdef inline uint64_t promoted(uint64_t word) noexcept nogil:
    """The slot word of a new item that is proven from now on, with one use."""
    return (word & ~(<uint64_t> 3 << USES_AT)) | (<uint64_t> 1 << PROVEN_AT) | (<uint64_t> 1 << USES_AT)


cdef uint64_t *oldest_unused(View *v, Shard *s, uint32_t bucket, bint proven, uint64_t pinned, uint32_t *unused) noexcept nogil:
    """The slot of the oldest of a bucket's new (or proven) items that are unused (so many there are), or NULL. New ones that were used
    become proven."""
    cdef uint64_t *oldest = NULL
    cdef uint64_t w, most = 0
    cdef uint32_t i
    cdef Path p
    walk(s, bucket, &p)
    while p.slots != NULL:
        for i in range(p.n):
            w = p.slots[i]
            if word_kind(w) != KIND_ENTRY or is_proven(w) != proven or word_granule(w) == pinned:
                continue
            if uses_of(w):
                if not proven:
                    store_release64(p.slots + i, promoted(w))
                    s.control.news -= 1
                continue
            unused[0] += 1
            if oldest == NULL or age_of(v, s, w) > most:
                oldest = p.slots + i
                most = age_of(v, s, w)
        if not walk_on(s, &p):
            break
    return oldest


cdef void use_up(Shard *s, uint32_t bucket) noexcept nogil:
    """Take one use from each proven item of a bucket that has some."""
    cdef uint64_t w
    cdef uint32_t i
    cdef Path p
    walk(s, bucket, &p)
    while p.slots != NULL:
        for i in range(p.n):
            w = p.slots[i]
            if word_kind(w) == KIND_ENTRY and is_proven(w) and uses_of(w):
                store_release64(p.slots + i, w - (<uint64_t> 1 << USES_AT))
        if not walk_on(s, &p):
            break


cdef uint64_t *any_item(View *v, Shard *s, uint64_t pinned, uint32_t *bucket) noexcept nogil:
    """The first evictable item from the proven hand on, or NULL when the shard holds none."""
    cdef uint32_t n_buckets = bucket_count(v, s), visited, i, position
    cdef Path p
    for visited in range(n_buckets):
        bucket[0] = ((s.control.hands[PROVEN] >> LEFT_BITS) + visited) % n_buckets
        position = 0
        while seek(s, bucket[0], position, &p, &i):
            position += 1
            if word_kind(p.slots[i]) == KIND_ENTRY and word_granule(p.slots[i]) != pinned:
                return p.slots + i
    return NULL


cdef void look_ahead(Shard *s, uint32_t bucket) noexcept nogil:
    """A hand moves on to this bucket: what it is going to touch there, and the next bucket's line, shall be in the cache by the next
    eviction. A full table of 64 MiB: 1.5 times faster; to fetch what overflow nodes lead to as well costs more than it saves."""
    cdef uint64_t *slots = bucket_at(s, bucket)
    cdef uint64_t granule
    cdef uint32_t i
    if slots != NULL:
        for i in range(BUCKET_SLOTS):
            granule = word_granule(slots[i])
            if word_kind(slots[i]) == KIND_ENTRY and granule < s.records.granules:
                __builtin_prefetch(record_at(&s.records, granule))
                __builtin_prefetch(s.records.bitmap + (granule >> 6))
    __builtin_prefetch(bucket_at(s, bucket + 1))


cdef uint64_t *visit(View *v, Shard *s, int which, uint64_t pinned, uint32_t *bucket) noexcept nogil:
    """What the hand of a class finds in its bucket, or NULL. It moves on when there is nothing, or the older half has gone.

    When it leaves no proven item unused, all of the bucket lose one use.
    """
    cdef uint32_t b = s.control.hands[which] >> LEFT_BITS, left = s.control.hands[which] & LEFT_MASK, unused = 0
    cdef uint64_t *slot
    if b >= bucket_count(v, s):
        b = left = 0
    slot = oldest_unused(v, s, b, which == PROVEN, pinned, &unused)
    if which == PROVEN and unused <= 1:
        use_up(s, b)
    if left == 0:
        left = min(unused // 2, <uint32_t> LEFT_MASK)
    left = left - 1 if left > 0 and slot != NULL else 0
    s.control.hands[which] = (b << LEFT_BITS | left) if left > 0 else (b + 1) << LEFT_BITS
    if left == 0:
        look_ahead(s, b + 1)
    bucket[0] = b
    return slot


cdef uint64_t *next_victim(View *v, Shard *s, uint64_t pinned, uint32_t *bucket) noexcept nogil:
    """Turn the hands to the next item that has to go; NULL when the shard holds nothing evictable. Readers may renew uses as fast as
    visits take them: after a bounded number of visits any item goes."""
    cdef uint32_t _visit
    cdef uint64_t *slot
    for _visit in range(MOST_VISITS):
        slot = visit(
            v, s, NEW if s.control.news * <uint64_t> ONE >= s.control.records * share_of_new(s.control) else PROVEN, pinned, bucket)
        if slot != NULL:
            return slot
    return any_item(v, s, pinned, bucket)


cdef bint evict_one(View *v, Shard *s, uint64_t pinned) noexcept nogil:
    cdef uint32_t bucket
    cdef uint64_t *slot = next_victim(v, s, pinned, &bucket)
    if slot == NULL:
        return False
    drop_victim(v, s, slot, bucket)
    return True
