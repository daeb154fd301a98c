# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""Making a shard whole: what every new owner of a shard's lock does first.

`enter` finds the intent of an owner that died inside, and rebuilds. Truth is the slots, the records, the version counter, the cut-off
and the split word; each was changed by single stores, so whatever was published before the death stands (the change is complete) and
the rest never happened (it is cancelled). The free map, the counts and leftovers of a half-done split, merge or compaction are derived
anew. A repair may be killed too: an intent stays noted until its end, and the next owner starts over.

Control words that make no sense (somebody scribbled into the segment) lead to the same rebuild.
"""

from libc.stdint cimport int64_t, uint32_t, uint64_t
from libc.string cimport memset

from memcache_shm.storage.arena cimport Runs, all_free, clear, find_aligned, forget_longest, mark
from memcache_shm.storage.atomics cimport (
    CLOCK_MONOTONIC, clock_ns, fence_release, load_acquire32, load_acquire64, load_relaxed32, load_relaxed64,
    store_relaxed64, store_release32, store_release64,
)
from memcache_shm.storage.feed cimport EVENT_MOST_CELLS, FEED_FLUSH, announce, deafen, is_heard, prepare
from memcache_shm.storage.index cimport Path, bump, fetch_records, node_at, same_key, trim_zone, walk, walk_on
from memcache_shm.storage.layout cimport (
    CHUNK_BUCKETS, CHUNK_BYTES, Intent, KIND_ENTRY, KIND_LINK, MAX_NODES, MIN_BUCKETS, NODE_BYTES, NODE_SLOTS, PROVEN_AT, Record,
    ShardControl, ZONE_STEP, bucket_of, entry_pattern, hit_mask, pattern_mask, split_buckets, split_next, word_granule, word_kind,
)
from memcache_shm.storage.records cimport (
    Sizes, are_sane, key_of, key_offset, record_at, record_runs, runs_whole, sizes_of, value_length, word_matches,
)
from memcache_shm.storage.view cimport Arena, Shard, View, flush_due, hash_key, index_start, note_expiry, records_end, shard_of


cdef enum:
    AHEAD = 6                               # buckets whose records are prefetched
    FLUSHED = 1                             # an expiry before every clock reading
    VERSION_SANE = 0x3fffffffffffffff       # a larger one was never given out


cdef void enter(View *v, Shard *s) noexcept nogil:
    """Called with the lock just taken: repair what a dead owner left, note a flush that is due."""
    cdef uint64_t flush_ns
    if load_acquire32(&s.control.intent.operation) != OP_NONE or not sensible(v, s):
        repair(v, s)
    flush_ns = flush_due(v, s)
    if flush_ns != 0:
        note_flush(v, s, flush_ns)


cdef void note_flush(View *v, Shard *s, uint64_t flush_ns) noexcept nogil:
    """All that the shard has was flushed at that deadline, the one that was looked at: there may be a newer one by now."""
    cdef uint64_t feed
    begin(v, s, OP_FLUSH)
    store_relaxed64(&s.control.cutoff, load_relaxed64(&s.control.version))
    s.control.items = 0
    s.control.bytes = 0
    void_chunks(v, s)
    feed = prepare(v, s, FEED_FLUSH, NULL, 0, flush_ns) if is_heard(v) else 0
    publish_told(v, s, OP_FLUSH, &s.control.flush_applied, flush_ns, feed)
    end(s)


cdef void void_chunks(View *v, Shard *s) noexcept nogil:
    """Let the sweep for dead records look at every chunk."""
    cdef uint32_t n_buckets = split_buckets(load_relaxed64(&s.control.split)), bucket = 0
    while s.control.records != 0 and bucket < n_buckets and bucket < v.max_buckets:
        note_expiry(s, bucket, FLUSHED)
        bucket += CHUNK_BUCKETS


cdef bint sensible(View *v, Shard *s) noexcept nogil:
    """Whether the words that an owner's searches and counts rely on are within their limits."""
    cdef ShardControl *c = s.control
    cdef uint32_t n = split_buckets(load_relaxed64(&c.split))
    if n - 1 >= v.max_buckets or (n != v.max_buckets and not s.shared) or c.used[1] > s.index.granules:
        return False
    if c.items > c.records or c.news > c.records or c.records > c.used[0] or c.used[0] > s.records.granules or c.cutoff > c.version:
        return False
    return c.version <= VERSION_SANE and c.version & (v.shards - 1) == s.number and zone_sensible(s)


cdef inline bint zone_sensible(Shard *s) noexcept nogil:
    """The index never takes more than half of an arena that it shares with the records (see `reserve_index`)."""
    cdef uint32_t zone = s.control.zone
    return not s.shared or (zone % ZONE_STEP == 0 and zone <= s.index.granules and zone + ZONE_STEP >= s.index.granules // 2)


cdef bint published(View *v, Shard *s) noexcept nogil:
    """Whether the change that the dead owner's intent names took effect."""
    cdef Intent *intent = &s.control.intent
    cdef uint64_t at = load_acquire64(&intent.slot)
    cdef uint64_t word
    cdef uint32_t operation = load_relaxed32(&intent.operation)
    cdef Record *r
    if operation & DONE:
        return True
    if at == 0 or at % 8 != 0 or at > v.bytes - 8:
        return False
    word = load_relaxed64(<uint64_t *> (v.base + at))
    if (word ^ intent.new_word) & ~hit_mask():
        return False
    if operation != OP_TOUCH and operation != OP_MARK:
        return True
    r = record_at(&s.records, word_granule(word))
    return r != NULL and intent.new_field == (r.expiry if operation == OP_TOUCH else r.state)


cdef void tell(View *v, Shard *s) noexcept nogil:
    """Let the event of a dead owner's change be seen, which lies ready behind the head; with DONE that has happened."""
    cdef Intent *intent = &s.control.intent
    if not intent.operation & DONE and intent.feed - load_relaxed64(&s.control.feed_head) - 1 < EVENT_MOST_CELLS and s.feed_cells != 0:
        announce(v, s, intent.feed)


cdef void repair(View *v, Shard *s) noexcept nogil:
    """Rebuild, and keep account of it."""
    cdef uint64_t start = clock_ns(CLOCK_MONOTONIC)
    cdef uint32_t operation = load_relaxed32(&s.control.intent.operation)
    if operation != OP_NONE and operation != OP_REPAIR:
        if published(v, s):
            s.control.completed += 1
            tell(v, s)
        else:
            s.control.cancelled += 1
    rebuild(v, s)
    s.control.repairs += 1
    s.control.repair_ns += clock_ns(CLOCK_MONOTONIC) - start
    end(s)


cdef void empty_map(Arena *a) noexcept nogil:
    memset(a.bitmap, 0, ((<uint64_t> a.granules + 63) // 64) * 8)
    a.used[0] = 0
    a.next_fit[0] = 0
    forget_longest(a)


cdef bint mark_if_free(Arena *a, uint64_t start, uint64_t n) noexcept nogil:
    """Take a run that repair met; False when it is out of bounds or belongs to something met before."""
    if n == 0 or start + n > a.granules or not all_free(a, <uint32_t> start, <uint32_t> n):
        return False
    mark(a, <uint32_t> start, <uint32_t> n)
    return True


cdef void format_index(View *v, Shard *s) noexcept nogil:
    """An empty index: the buckets of a new table, or of a shard whose directory was destroyed. Bitmaps are all free."""
    cdef uint32_t chunk, n_buckets = <uint32_t> MIN_BUCKETS if s.shared else v.max_buckets
    cdef uint32_t n = CHUNK_BYTES // s.index.granule_bytes
    cdef uint32_t alignment = 64 // s.index.granule_bytes
    cdef uint64_t split = load_relaxed64(&s.control.split)
    cdef int64_t at
    s.control.zone = (s.index.granules - ZONE_STEP) & ~<uint32_t> (ZONE_STEP - 1)
    for chunk in range(n_buckets // CHUNK_BUCKETS):
        at = find_aligned(&s.index, index_start(s), s.index.granules, n, alignment)
        if at < 0:
            return                      # somebody goes on scribbling
        mark(&s.index, <uint32_t> at, n)
        memset(s.index.base + <uint64_t> at * s.index.granule_bytes, 0, CHUNK_BYTES)
        store_release32(&s.directory[chunk], <uint32_t> at)
    store_release64(&s.control.split, split_next(split, n_buckets))
    fence_release()


cdef bint mark_chunks(Shard *s, uint32_t n_buckets) noexcept nogil:
    cdef uint32_t chunk
    cdef uint32_t n = CHUNK_BYTES // s.index.granule_bytes
    for chunk in range((n_buckets + CHUNK_BUCKETS - 1) // CHUNK_BUCKETS):
        if chunk >= s.directory_entries or <uint64_t> s.directory[chunk] * s.index.granule_bytes % 64 != 0:
            return False
        if s.directory[chunk] < index_start(s) or not mark_if_free(&s.index, s.directory[chunk], n):
            return False
    return True


cdef bint there_already(View *v, Shard *s, uint32_t bucket, uint64_t *slot, const char *key, uint32_t key_length) noexcept nogil:
    """Whether a slot of the path before this one has an item of the same key (scribbled memory only)."""
    cdef Path p
    cdef uint32_t i
    cdef uint64_t w
    walk(s, bucket, &p)
    while p.slots != NULL:
        for i in range(p.n):
            if p.slots + i == slot:
                return False
            w = p.slots[i]
            if (w ^ slot[0]) & pattern_mask() == 0 and same_key(v, s, record_at(&s.records, word_granule(w)), key, key_length):
                return True
        if not walk_on(s, &p):
            return False
    return False


cdef bint mark_runs(Shard *s, Runs *runs) noexcept nogil:
    """Take a record's runs; none when one of them belongs to something else, or lies where the index does."""
    cdef uint32_t i, taken = 0
    while taken < runs.n:
        if runs.start[taken] + runs.granules[taken] > records_end(s) or not mark_if_free(
            &s.records, runs.start[taken], runs.granules[taken]
        ):
            break
        taken += 1
    if taken == runs.n:
        return True
    for i in range(taken):
        clear(&s.records, runs.start[i], runs.granules[i])
    return False


cdef bint mark_record(View *v, Shard *s, uint64_t *slot, uint32_t bucket, uint32_t n_buckets) noexcept nogil:
    """Count an entry and take its granules; False when it must be dropped: damaged, twice, or not at home here."""
    cdef uint64_t word = slot[0]
    cdef Record *r = record_at(&s.records, word_granule(word))
    cdef Sizes sizes
    cdef Runs runs
    cdef uint64_t h, version
    if r == NULL:
        return False
    sizes = sizes_of(r)
    version = load_relaxed64(&r.version)
    if not are_sane(v, &s.records, r, sizes) or not word_matches(v, word, version) or version > VERSION_SANE:
        return False
    h = hash_key(v, key_of(r, sizes), sizes.key_length)
    if shard_of(v, h) != s or bucket_of(h, n_buckets) != bucket or (word ^ entry_pattern(h)) & pattern_mask() != 0:
        return False
    if version % v.shards != s.number or not record_runs(v, &s.records, r, &runs) or not runs_whole(&s.records, r, &runs):
        return False
    if there_already(v, s, bucket, slot, key_of(r, sizes), sizes.key_length) or not mark_runs(s, &runs):
        return False
    s.control.records += 1
    if not word >> PROVEN_AT & 1:
        s.control.news += 1
    if version > load_relaxed64(&s.control.version):        # the counter was scribbled over: no version may be given out twice
        store_release64(&s.control.version, version)
    note_expiry(s, bucket, r.expiry)
    if version <= s.control.cutoff:
        note_expiry(s, bucket, FLUSHED)
    else:
        s.control.items += 1
        s.control.bytes += key_offset(sizes) + sizes.key_length + <uint64_t> value_length(sizes)
    return True


cdef void rebuild_bucket(View *v, Shard *s, uint32_t bucket, uint32_t n_buckets) noexcept nogil:
    """Keep what is reachable and right in one bucket and its nodes; clear the rest."""
    cdef Path p
    cdef uint32_t i
    cdef uint64_t w
    cdef uint64_t *node
    walk(s, bucket, &p)
    while p.slots != NULL:
        for i in range(p.n):
            w = p.slots[i]
            if word_kind(w) == KIND_ENTRY and mark_record(v, s, p.slots + i, bucket, n_buckets):
                continue
            if word_kind(w) == KIND_LINK and i == p.n - 1:
                continue
            if w != 0:
                store_release64(p.slots + i, 0)
        w = p.slots[p.n - 1]
        if word_kind(w) != KIND_LINK:
            return
        node = node_at(s, w)
        if p.nodes >= MAX_NODES or node == NULL or word_granule(w) < index_start(s) or not mark_if_free(
            &s.index, word_granule(w), NODE_BYTES // s.index.granule_bytes
        ):
            store_release64(p.slots + p.n - 1, 0)
            return
        s.control.nodes += 1
        p.slots = node
        p.n = NODE_SLOTS
        p.nodes += 1


cdef void mend_version(View *v, Shard *s) noexcept nogil:
    """A version counter that was scribbled over: a mad one begins anew above the records' versions, another goes on where this shard's
    next version is (they are congruent to its number)."""
    cdef uint64_t version = load_relaxed64(&s.control.version)
    if version > VERSION_SANE - v.shards:
        store_release64(&s.control.version, s.number)
    elif version & (v.shards - 1) != s.number:
        store_release64(&s.control.version, (version | (v.shards - 1)) + 1 + s.number)


cdef void rebuild(View *v, Shard *s) noexcept nogil:
    """Derive everything derivable of a shard from its slots. Idempotent; O(items of the shard). The caller ends the intent."""
    cdef ShardControl *c = s.control
    cdef uint32_t n_buckets = split_buckets(load_relaxed64(&c.split))
    cdef uint32_t b
    begin(v, s, OP_REPAIR)
    bump(s)
    mend_version(v, s)
    empty_map(&s.records)
    empty_map(&s.index)
    c.items = 0
    c.bytes = 0
    c.records = 0
    c.news = 0
    c.nodes = 0
    c.next_expiry = 0
    c.reap_chunk = 0
    memset(s.soonest, 0, <size_t> s.directory_entries * 4)
    if not s.shared and n_buckets != v.max_buckets:         # never changes: somebody scribbled over it
        n_buckets = v.max_buckets
        store_release64(&c.split, split_next(load_relaxed64(&c.split), n_buckets))
    if n_buckets == 0 or n_buckets > v.max_buckets or not zone_sensible(s) or not mark_chunks(s, n_buckets):
        empty_map(&s.index)
        format_index(v, s)
        deafen(v)
    else:
        for b in range(n_buckets):
            if b + AHEAD < n_buckets:
                fetch_records(s, b + AHEAD)
            rebuild_bucket(v, s, b, n_buckets)
            if b % 256 == 0:
                store_relaxed64(&c.progress, load_relaxed64(&c.progress) + 1)
        trim_zone(s)
        bump(s)
    if c.cutoff > c.version:            # one of them was scribbled over: better a miss than what had been flushed
        deafen(v)
        store_release64(&c.cutoff, c.version)
        c.items = 0
        c.bytes = 0
        void_chunks(v, s)
