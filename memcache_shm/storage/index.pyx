# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""The index of a shard, as its owner changes it: search, overflow nodes, and growth by linear hashing.

A bucket is 7 slots and a word of ghosts in one cache line; a full one ends in a link word to an overflow node of 4 slots, whose last may
link on.
Buckets come in chunks of 16. In the memory geometry chunks and nodes lie at the arena's upper end, in a zone that grows and shrinks
against the records (so that they never stand between large records); in the element geometry they have an arena of their own.

Readers scan without a lock, so the rules are:

- a key's slot never moves while a reader may rely on it; whatever moves, or gives index memory back, publishes a new
  generation in the split word *before* the old place is cleared and again before its memory is reused;
- one bucket splits or merges at a time: copy, publish the split word, clear. A death in between leaves slots in buckets
  that are not their key's home, or twice; repair drops those.
"""

from libc.stdint cimport int64_t, uint32_t, uint64_t
from libc.string cimport memcmp, memset

from memcache_shm.storage.arena cimport all_free, clear, find_aligned, find_run, mark, raise_longest
from memcache_shm.storage.atomics cimport (
    __builtin_clz, __builtin_prefetch, fence_release, load_relaxed32, load_relaxed64, store_release32, store_release64,
)
from memcache_shm.storage.counters cimport MERGES, SPLITS
from memcache_shm.storage.layout cimport (
    BUCKET_BYTES, BUCKET_SLOTS, CHUNK_BUCKETS, CHUNK_BYTES, KIND_ENTRY, KIND_LINK, MAX_NODES, MIN_BUCKETS, NODE_BYTES,
    NODE_SLOTS, Record, ZONE_STEP, bucket_of, entry_pattern, link_word, pattern_mask, split_buckets, split_next, word_granule, word_kind,
)
from memcache_shm.storage.records cimport Sizes, are_sane, key_of, record_at, sizes_of
from memcache_shm.storage.recovery cimport OP_MERGE, OP_SPLIT, begin, publish
from memcache_shm.storage.view cimport Shard, View, count, hash_key, index_start, note_expiry

cdef bint follow(Shard *s, Path *p, uint64_t w) noexcept nogil:
    """Go where the path's last slot leads, whose word was `w`; False at the path's end (bounded: damaged links trap nobody). A reader
    passes on the word that it has scanned: the slot may hold an item by now, which it would have missed."""
    cdef uint64_t *last = p.slots + p.n - 1
    if word_kind(w) != KIND_LINK or p.nodes >= MAX_NODES:
        return False
    p.slots = node_at(s, w)
    p.n = NODE_SLOTS
    p.nodes += 1
    p.link = last
    return p.slots != NULL


cdef bint walk_on(Shard *s, Path *p) noexcept nogil:
    """`follow` for the shard's owner."""
    return follow(s, p, p.slots[p.n - 1])


cdef void bump(Shard *s) noexcept nogil:
    """A new generation: readers that started before it will look again."""
    cdef uint64_t split = load_relaxed64(&s.control.split)
    store_release64(&s.control.split, split_next(split, split_buckets(split)))
    fence_release()


cdef uint64_t record_hash(View *v, Shard *s, uint64_t word) noexcept nogil:
    """The hash of the key that an entry word leads to; 0 when the record is damaged."""
    cdef Record *r = record_at(&s.records, word_granule(word))
    cdef Sizes sizes
    if r == NULL:
        return 0
    sizes = sizes_of(r)
    return hash_key(v, key_of(r, sizes), sizes.key_length) if are_sane(v, &s.records, r, sizes) else 0


cdef bint same_key(View *v, Shard *s, Record *r, const char *key, size_t klen) noexcept nogil:
    cdef Sizes sizes
    if r == NULL:
        return False
    sizes = sizes_of(r)
    if sizes.key_length != klen or not are_sane(v, &s.records, r, sizes):
        return False
    return memcmp(key_of(r, sizes), key, klen) == 0


cdef void locate(View *v, Shard *s, const char *key, size_t klen, uint64_t h, Place *out) noexcept nogil:
    """Search under the lock: the key's slot, and where a new one could go."""
    cdef Path p
    cdef uint64_t w, pattern = entry_pattern(h), mask = pattern_mask()
    cdef uint32_t i
    out.slot = NULL
    out.empty = NULL
    out.tail = NULL
    out.nodes = 0
    out.bucket = bucket_of(h, bucket_count(v, s))
    walk(s, out.bucket, &p)
    while p.slots != NULL:
        for i in range(p.n):
            w = p.slots[i]
            if w & mask == pattern:
                out.granule = word_granule(w)
                out.record = record_at(&s.records, out.granule)
                if same_key(v, s, out.record, key, klen):
                    out.slot = p.slots + i
                    return
            elif w == 0 and out.empty == NULL:
                out.empty = p.slots + i
        out.tail = p.slots + p.n - 1
        out.nodes = p.nodes
        if not walk_on(s, &p):
            return


cdef uint64_t *new_node(Shard *s, uint32_t *granule) noexcept nogil:
    """An empty overflow node, or NULL when the arena has no room for one."""
    cdef uint32_t n = NODE_BYTES // s.index.granule_bytes
    cdef int64_t at = find_run(&s.index, index_start(s), s.index.granules, n, True)
    if at < 0:
        return NULL
    mark(&s.index, <uint32_t> at, n)
    s.control.nodes += 1
    granule[0] = <uint32_t> at
    memset(s.index.base + <uint64_t> at * s.index.granule_bytes, 0, NODE_BYTES)
    return <uint64_t *> (s.index.base + <uint64_t> at * s.index.granule_bytes)


cdef void fetch_records(Shard *s, uint32_t bucket) noexcept nogil:
    """Let a bucket's records be on their way to the cache when its turn comes, since they lie anywhere (64 MiB: 1.8 times faster)."""
    cdef uint64_t *slots = bucket_at(s, bucket)
    cdef uint32_t i
    if slots != NULL:
        for i in range(BUCKET_SLOTS):
            if word_kind(slots[i]) == KIND_ENTRY:
                __builtin_prefetch(record_at(&s.records, word_granule(slots[i])))


cdef void trim_zone(Shard *s) noexcept nogil:
    """Give the free lower end of the index zone back to the records."""
    cdef uint32_t zone = s.control.zone
    while s.shared and zone <= s.index.granules - ZONE_STEP and all_free(&s.index, zone, ZONE_STEP):
        raise_longest(&s.records, zone, ZONE_STEP)
        zone += ZONE_STEP
        s.control.zone = zone


cdef void free_node(Shard *s, uint64_t link) noexcept nogil:
    if node_at(s, link) == NULL:
        return
    clear(&s.index, <uint32_t> word_granule(link), NODE_BYTES // s.index.granule_bytes)
    s.control.nodes -= 1
    trim_zone(s)


cdef bint extend(View *v, Shard *s, Place *place) noexcept nogil:
    """Give a full path one node more: the entry in its last slot moves to the node, the link takes its place in one store.
    False when there is no room or the path is at its limit."""
    cdef uint64_t *node
    cdef uint32_t granule
    if place.nodes >= MAX_NODES or place.tail == NULL:
        return False
    node = new_node(s, &granule)
    if node == NULL:
        return False
    node[0] = place.tail[0]
    store_release64(place.tail, link_word(granule))
    place.empty = node + 1
    place.tail = node + NODE_SLOTS - 1
    place.nodes += 1
    return True


cdef uint32_t entries(uint64_t *slots, uint32_t n) noexcept nogil:
    cdef uint32_t i, k = 0
    for i in range(n):
        k += word_kind(slots[i]) == KIND_ENTRY
    return k


cdef uint32_t last_node(Shard *s, uint32_t bucket, Path *last) noexcept nogil:
    """Walk to the last node of a bucket's path; returns how many slots before it are empty."""
    cdef Path p
    cdef uint32_t i, empty = 0, here
    walk(s, bucket, &p)
    last.slots = NULL
    last.link = NULL
    while p.slots != NULL:
        here = 0
        for i in range(p.n):
            here += p.slots[i] == 0
        last[0] = p
        if not walk_on(s, &p):
            break
        empty += here
    return empty


cdef void move_into_gaps(Shard *s, uint32_t bucket, Path *last, uint32_t keep) noexcept nogil:
    """Copy all but `keep` entries of the last node into empty slots before it."""
    cdef Path p
    cdef uint32_t i, from_ = 0, moved = 0, total = entries(last.slots, last.n)
    walk(s, bucket, &p)
    while p.slots != NULL and p.slots != last.slots and moved + keep < total:
        for i in range(p.n):
            if p.slots[i] != 0 or moved + keep >= total:
                continue
            while from_ < last.n and word_kind(last.slots[from_]) != KIND_ENTRY:
                from_ += 1
            if from_ == last.n:
                return                  # scribbled memory: nodes that overlap
            store_release64(p.slots + i, last.slots[from_])
            from_ += 1
            moved += 1
        if not walk_on(s, &p):
            return


cdef void compact(View *v, Shard *s, uint32_t bucket) noexcept nogil:
    """Give overflow nodes back as long as what the last one holds fits before it. The caller has begun an intent."""
    cdef Path last
    cdef uint32_t i, k, keep, empty
    cdef uint64_t link, rest
    while True:
        empty = last_node(s, bucket, &last)
        if last.slots == NULL or last.link == NULL:
            return
        k = entries(last.slots, last.n)
        if k > empty + 1:
            return
        keep = 1 if k > empty else 0
        move_into_gaps(s, bucket, &last, keep)
        rest = 0
        if keep:
            for i in range(last.n):
                if word_kind(last.slots[i]) == KIND_ENTRY:
                    rest = last.slots[i]    # the last one: those before it were moved
        link = last.link[0]
        bump(s)
        store_release64(last.link, rest)
        bump(s)
        free_node(s, link)


cdef bint put_entry(View *v, Shard *s, uint32_t bucket, uint64_t word) noexcept nogil:
    """Put an entry into a bucket's first empty slot, with a node more if needed; no eviction."""
    cdef Place place
    cdef Path p
    cdef uint32_t i
    walk(s, bucket, &p)
    place.tail = NULL
    place.nodes = 0
    while p.slots != NULL:
        for i in range(p.n):
            if p.slots[i] == 0:
                store_release64(p.slots + i, word)
                return True
        place.tail = p.slots + p.n - 1
        place.nodes = p.nodes
        if not walk_on(s, &p):
            break
    if not extend(v, s, &place):
        return False
    store_release64(place.empty, word)
    return True


cdef bint empty_bucket(Shard *s, uint32_t bucket) noexcept nogil:
    cdef uint64_t *slots = bucket_at(s, bucket)
    if slots == NULL:
        return False
    memset(slots, 0, BUCKET_BYTES)
    return True


cdef void free_path(Shard *s, uint32_t bucket) noexcept nogil:
    """Give back the nodes behind a bucket that no reader can reach any more, and empty the bucket."""
    cdef Path p
    cdef uint64_t links[MAX_NODES]
    cdef uint32_t n = 0, i
    walk(s, bucket, &p)
    if p.slots == NULL:
        return
    while n < MAX_NODES and word_kind(p.slots[p.n - 1]) == KIND_LINK:
        links[n] = p.slots[p.n - 1]
        n += 1
        if not walk_on(s, &p):
            break
    for i in range(n):
        free_node(s, links[i])
    empty_bucket(s, bucket)


cdef bint take_chunk(Shard *s, uint32_t chunk) noexcept nogil:
    """Memory for 16 buckets more. The directory names it before the split word lets readers use it."""
    cdef uint32_t n = CHUNK_BYTES // s.index.granule_bytes
    cdef int64_t at
    if chunk >= s.directory_entries:
        return False
    at = find_aligned(&s.index, index_start(s), s.index.granules, n, 64 // s.index.granule_bytes)
    if at < 0:
        return False
    mark(&s.index, <uint32_t> at, n)
    memset(s.index.base + <uint64_t> at * s.index.granule_bytes, 0, CHUNK_BYTES)
    s.soonest[chunk] = 0
    store_release32(&s.directory[chunk], <uint32_t> at)
    return True


cdef void give_chunk(Shard *s, uint32_t chunk) noexcept nogil:
    cdef uint32_t n = CHUNK_BYTES // s.index.granule_bytes
    cdef uint32_t at = load_relaxed32(&s.directory[chunk])
    if <uint64_t> at + n > s.index.granules:
        return
    clear(&s.index, at, n)
    trim_zone(s)


cdef bint copy_movers(View *v, Shard *s, uint32_t from_, uint32_t to) noexcept nogil:
    """Copy the entries of bucket `from_` whose home will be `to` once there are to + 1 buckets."""
    cdef Path p
    cdef uint32_t i
    cdef uint64_t w
    walk(s, from_, &p)
    while p.slots != NULL:
        for i in range(p.n):
            w = p.slots[i]
            if word_kind(w) == KIND_ENTRY and bucket_of(record_hash(v, s, w), to + 1) == to:
                if not put_entry(v, s, to, w):
                    return False
        if not walk_on(s, &p):
            break
    return True


cdef void drop_movers(View *v, Shard *s, uint32_t bucket, uint32_t n_buckets) noexcept nogil:
    """Clear the entries of a bucket that have their home elsewhere now."""
    cdef Path p
    cdef uint32_t i
    cdef uint64_t w
    walk(s, bucket, &p)
    while p.slots != NULL:
        for i in range(p.n):
            w = p.slots[i]
            if word_kind(w) == KIND_ENTRY and bucket_of(record_hash(v, s, w), n_buckets) != bucket:
                store_release64(p.slots + i, 0)
        if not walk_on(s, &p):
            break


cdef void grow(View *v, Shard *s) noexcept nogil:
    """Split one bucket, if there is room for it: copy, publish, clear."""
    cdef uint64_t split = load_relaxed64(&s.control.split)
    cdef uint32_t n = split_buckets(split)
    cdef uint32_t from_
    if n >= v.max_buckets or n == 0:
        return
    from_ = n - (<uint32_t> 1 << (31 - __builtin_clz(n)))
    begin(v, s, OP_SPLIT)
    if n % CHUNK_BUCKETS == 0:
        if not take_chunk(s, n // CHUNK_BUCKETS):
            return
    elif not empty_bucket(s, n):
        return
    if not copy_movers(v, s, from_, n):
        free_path(s, n)
        if n % CHUNK_BUCKETS == 0:
            give_chunk(s, n // CHUNK_BUCKETS)
        return
    note_expiry(s, n, s.soonest[from_ // CHUNK_BUCKETS])
    publish(v, s, OP_SPLIT, &s.control.split, split_next(split, n + 1))
    drop_movers(v, s, from_, n + 1)
    compact(v, s, from_)
    count(v, SPLITS, 1)


cdef void shrink(View *v, Shard *s) noexcept nogil:
    """Merge the last bucket into its buddy and give the chunk back when it was the last bucket there."""
    cdef uint64_t split = load_relaxed64(&s.control.split)
    cdef uint32_t last = split_buckets(split) - 1
    cdef uint32_t buddy, i
    cdef Path p
    if last < MIN_BUCKETS or last >= v.max_buckets:
        return
    buddy = last - (<uint32_t> 1 << (31 - __builtin_clz(last)))
    begin(v, s, OP_MERGE)
    walk(s, last, &p)
    while p.slots != NULL:
        for i in range(p.n):
            if word_kind(p.slots[i]) == KIND_ENTRY and not put_entry(v, s, buddy, p.slots[i]):
                drop_movers(v, s, buddy, last + 1)
                compact(v, s, buddy)
                return
        if not walk_on(s, &p):
            break
    note_expiry(s, buddy, s.soonest[last // CHUNK_BUCKETS])
    publish(v, s, OP_MERGE, &s.control.split, split_next(split, last))
    free_path(s, last)
    if last % CHUNK_BUCKETS == 0:
        give_chunk(s, last // CHUNK_BUCKETS)
    count(v, MERGES, 1)
