# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""Dropping dead records: those that have expired or were flushed, found without a look at the others.

Of each chunk of 16 buckets a bound says before which tick none of its records expires; a flush sets it to 1. So what is dead is found in
the chunks whose bound is over, and only there. A sweep of a chunk drops its dead and makes its bound exact; one that finds nothing (the
item of that expiry was overwritten, touched or evicted) happens once for each expiry. The shard's own bound is the least of its chunks'.
"""

from libc.stdint cimport int64_t, uint32_t, uint64_t

from memcache_shm.storage.atomics cimport load_relaxed64
from memcache_shm.storage.counters cimport CRAWLER_CHECKED, CRAWLER_RECLAIMED
from memcache_shm.storage.evict cimport drop_victim, seek
from memcache_shm.storage.index cimport Path, bucket_count, fetch_records
from memcache_shm.storage.layout cimport CHUNK_BUCKETS, KIND_ENTRY, Record, word_granule, word_kind
from memcache_shm.storage.records cimport record_at
from memcache_shm.storage.view cimport Shard, View, count, earlier, table_ns, ticks


cdef bint is_dead(View *v, Shard *s, uint64_t word, uint32_t now, uint32_t *expiry) noexcept nogil:
    """Whether an entry's record was flushed or has expired; its expiry, for the bound."""
    cdef Record *r = record_at(&s.records, word_granule(word))
    expiry[0] = 0
    if r == NULL:
        return False
    expiry[0] = r.expiry
    return r.version <= load_relaxed64(&s.control.cutoff) or (r.expiry != 0 and r.expiry <= now)


cdef bint may_have_dead(View *v, Shard *s, uint32_t *now) noexcept nogil:
    """Whether a record can be dead at all; then `now` is the time."""
    cdef uint32_t bound = s.control.next_expiry
    if bound == 0:
        return False
    now[0] = ticks(table_ns(v))
    return bound <= now[0]


cdef uint32_t reap_bucket(View *v, Shard *s, uint32_t bucket, uint32_t now, uint64_t pinned, uint32_t *soonest,
                          uint32_t *seen) noexcept nogil:
    """Drop the dead records of one bucket and its nodes; how many there were. `soonest`: when the first of the others expires; `seen`
    counts the records looked at."""
    cdef uint32_t i, position = 0, expiry, found = 0
    cdef Path p
    while seek(s, bucket, position, &p, &i):
        position += 1
        if word_kind(p.slots[i]) != KIND_ENTRY:
            continue
        seen[0] += 1
        if is_dead(v, s, p.slots[i], now, &expiry) and word_granule(p.slots[i]) != pinned:
            drop_victim(v, s, p.slots + i, bucket)
            found += 1
            position = 0                # the path may have become shorter
        else:
            soonest[0] = earlier(soonest[0], expiry)
    return found


cdef uint32_t reap_chunk(View *v, Shard *s, uint32_t chunk, uint32_t now, uint64_t pinned, uint32_t *seen) noexcept nogil:
    """Drop the dead records of a chunk and make its bound exact; how many there were."""
    cdef uint32_t bucket = chunk * CHUNK_BUCKETS, end = min(bucket + CHUNK_BUCKETS, bucket_count(v, s)), found = 0, soonest = 0
    while bucket < end:
        if bucket + 1 < end:
            fetch_records(s, bucket + 1)
        found += reap_bucket(v, s, bucket, now, pinned, &soonest, seen)
        bucket += 1
    s.soonest[chunk] = soonest
    return found


cdef int64_t due_chunk(View *v, Shard *s, uint32_t now) noexcept nogil:
    """The next chunk whose bound is over, or -1: then the shard's bound is made exact."""
    cdef uint32_t chunks = (bucket_count(v, s) + CHUNK_BUCKETS - 1) // CHUNK_BUCKETS, at = s.control.reap_chunk, least = 0, _look
    if chunks > s.directory_entries:
        return -1
    for _look in range(chunks):
        at = at if at < chunks else 0
        if s.soonest[at] != 0 and s.soonest[at] <= now:
            s.control.reap_chunk = at + 1
            return at
        least = earlier(least, s.soonest[at])
        at += 1
    s.control.next_expiry = least
    return -1


cdef uint32_t reap_some(View *v, Shard *s, uint32_t now, uint64_t pinned, uint32_t chunks, uint32_t *seen) noexcept nogil:
    """Sweep at most so many chunks, until one had dead records; how many."""
    cdef uint32_t _sweep, found
    cdef int64_t chunk
    for _sweep in range(chunks):
        chunk = due_chunk(v, s, now)
        if chunk < 0:
            return 0
        found = reap_chunk(v, s, <uint32_t> chunk, now, pinned, seen)
        if found:
            return found
    return 0


cdef bint reap(View *v, Shard *s, uint64_t pinned) noexcept nogil:
    """Drop some dead records; False when there are none, but for `pinned`."""
    cdef uint32_t now = 0, seen = 0
    return may_have_dead(v, s, &now) and reap_some(v, s, now, pinned, s.directory_entries, &seen) != 0


cdef uint32_t reclaim(View *v, Shard *s, uint32_t chunks) noexcept nogil:
    """The sweep in the background: so many chunks at most; how many dead records went."""
    cdef uint32_t _sweep, now = 0, found = 0, seen = 0
    for _sweep in range(chunks):
        if not may_have_dead(v, s, &now):
            break
        found += reap_some(v, s, now, <uint64_t> -1, 1, &seen)
    count(v, CRAWLER_RECLAIMED, found)
    count(v, CRAWLER_CHECKED, seen)
    return found
