# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""All live items of a table, or of one of its shards, as they are at one instant: that at which every shard is held. Each is given back
when it was copied to private memory.

A fork does not freeze a shared segment, so that is how a consistent backup is made. Readers go on; writers wait for as long as the copying
takes (docs/performance.md), those of the last shard for all of it. So the memory for it is there, and touched, before. Expired and flushed
items are left out.
"""

from libc.stdint cimport int64_t, uint32_t, uint64_t
from libc.string cimport memcpy

from memcache_shm.storage.atomics cimport CLOCK_MONOTONIC, CLOCK_REALTIME, clock_ns, load_relaxed64
from memcache_shm.storage.holding cimport show_progress, take_shards
from memcache_shm.storage.index cimport Path, bucket_count, fetch_records, follow, walk
from memcache_shm.storage.layout cimport KIND_ENTRY, Record, STATE_STALE, STATE_TOKEN_SENT, word_granule, word_kind
from memcache_shm.storage.locks cimport LOCKED, give, take
from memcache_shm.storage.packing cimport PACKED_HEAD, Packed, expires_ms_of
from memcache_shm.storage.records cimport Sizes, are_sane, cas_id, copy_value, key_of, record_at, sizes_of, value_length, word_matches
from memcache_shm.storage.results cimport NO_SPACE, OK, READ_ONLY, RETIRED, WAIT
from memcache_shm.storage.unixtime cimport epoch_ns
from memcache_shm.storage.versions cimport CAS_SANE
from memcache_shm.storage.view cimport Shard, View, is_retired, table_ns, ticks

cdef enum:
    SLICE_BYTES = 4194304       # copied in about 5 ms; then those who wait are shown progress
    SPARE_BYTES = 65536         # for what comes between asking for the room and the instant, and
    SPARE_PART = 16             # ... this part of the whole


cdef struct Instant:
    uint32_t now                # ticks
    int64_t epoch_ns


cdef uint64_t room_for(View *v, uint32_t first, uint32_t end) noexcept nogil:
    """Bytes that the items of these shards take, packed, by what the shards count just now."""
    cdef uint64_t room = 0
    cdef uint32_t i
    for i in range(first, end):
        room += load_relaxed64(&v.shard[i].control.bytes) + load_relaxed64(&v.shard[i].control.items) * (PACKED_HEAD - sizeof(Record))
    return room


cdef uint64_t ample_room_for(View *v, uint32_t first, uint32_t end) noexcept nogil:
    """The same with some to spare, since the table grows while memory is mapped."""
    cdef uint64_t room = room_for(v, first, end)
    return room + room // SPARE_PART + SPARE_BYTES


cdef bint put_item(View *v, Shard *s, uint64_t w, const Instant *at, Copied *out) noexcept nogil:
    """Add the item of a slot word, if it is a live one. False: there is no room."""
    cdef Record *r = record_at(&s.records, word_granule(w))
    cdef Packed *item
    cdef Sizes sizes
    cdef uint64_t size
    if r == NULL or not word_matches(v, w, r.version) or r.version <= load_relaxed64(&s.control.cutoff):
        return True
    sizes = sizes_of(r)
    if not are_sane(v, &s.records, r, sizes) or (r.expiry != 0 and r.expiry <= at.now):
        return True
    size = PACKED_HEAD + sizes.key_length + <uint64_t> value_length(sizes)
    if out.size + size > out.room:
        return False
    item = <Packed *> (out.data + out.size)
    item.value_length = value_length(sizes)
    item.flags = r.flags
    item.expires_ms = expires_ms_of(r.expiry, at.epoch_ns)
    item.cas = cas_id(r, sizes, r.version)
    item.key_length = sizes.key_length
    item.state = sizes.state & (STATE_STALE | STATE_TOKEN_SENT)
    item.zero = 0
    memcpy(out.data + out.size + PACKED_HEAD, key_of(r, sizes), sizes.key_length)
    copy_value(&s.records, r, value_length(sizes), <char *> out.data + out.size + PACKED_HEAD + sizes.key_length)
    out.size += size
    out.items += 1
    if item.cas <= CAS_SANE:
        out.highest_cas = max(out.highest_cas, item.cas)
    return True


cdef bint put_bucket(View *v, Shard *s, uint32_t bucket, const Instant *at, Copied *out) noexcept nogil:
    """Add the items of a bucket. False: there is no room."""
    cdef uint64_t w = 0
    cdef uint32_t i
    cdef Path p
    walk(s, bucket, &p)
    while p.slots != NULL:
        for i in range(p.n):
            w = load_relaxed64(p.slots + i)
            if word_kind(w) == KIND_ENTRY and not put_item(v, s, w, at, out):
                return False
        if not follow(s, &p, w):
            break
    return True


cdef int put_shard(View *v, Shard *s, bint alone, const Instant *at, Copied *out) noexcept nogil:
    """Add the items of a shard that is held, `alone` or with all others. OK; NO_SPACE: there is no room."""
    cdef uint64_t shown = out.size
    cdef uint32_t bucket, n = bucket_count(v, s)
    for bucket in range(n):
        if bucket + 1 < n:
            fetch_records(s, bucket + 1)
        if not put_bucket(v, s, bucket, at, out):
            return NO_SPACE
        if out.size - shown >= SLICE_BYTES:
            shown = out.size
            if not alone:
                show_progress(v, s.number, v.shards, NULL)
            else:
                s.control.progress += 1
    return OK


cdef int copy_shards(View *v, uint32_t first, uint32_t end, Copied *out) noexcept nogil:
    """Copy the items of shards `first` to `end` - 1, which are all of them or one, at one instant. OK; NO_SPACE: `out.room` was too little,
    ask `room_for` again; READ_ONLY, RETIRED, or why a lock was not to be had. `held_ns` is added to."""
    cdef bint alone = end - first == 1 and v.shards > 1
    cdef uint64_t begun_ns
    cdef Instant at
    cdef uint32_t i
    cdef int r
    out.size = out.items = out.highest_cas = 0
    if v.readonly:
        return READ_ONLY
    if is_retired(v):
        return RETIRED
    begun_ns = clock_ns(CLOCK_MONOTONIC)
    r = take(v, v.shard + first, WAIT) if alone else take_shards(v, NULL)
    if r != LOCKED:
        return r
    out.taken_ns = clock_ns(CLOCK_REALTIME)
    at.now = ticks(table_ns(v))
    at.epoch_ns = epoch_ns()
    r = OK if room_for(v, first, end) <= out.room else NO_SPACE     # before writers have waited for a copy in vain
    for i in range(first, end):
        if r == OK:
            out.highest_cas = max(out.highest_cas, load_relaxed64(&v.shard[i].control.version))     # of items that have gone, too
            r = put_shard(v, v.shard + i, alone, &at, out)
        give(v, v.shard + i)            # what is written to it from here on came after the instant, when all were held
    out.held_ns += clock_ns(CLOCK_MONOTONIC) - begun_ns
    return r
