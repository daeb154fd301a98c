# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""Several keys in one step: no change by anybody else falls in between.

Every shard that one of the keys belongs to is held, then the keys have their turn in the order given, then all is given back. Lock-free
readers may see some keys before and some after; a death leaves a prefix of the step done.
"""

from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free, realloc
from libc.string cimport memset

from memcache_shm.storage.atomics cimport load_relaxed64
from memcache_shm.storage.holding cimport give_shards, show_progress, take_shards
from memcache_shm.storage.index cimport Place, locate
from memcache_shm.storage.layout cimport Record
from memcache_shm.storage.locks cimport LOCKED
from memcache_shm.storage.records cimport copy_value, sizes_of, value_length
from memcache_shm.storage.results cimport BUSY, Change, HELD, NOT_FOUND, NO_SPACE, OK, READ_ONLY, RETIRED, TOO_LARGE
from memcache_shm.storage.steps cimport DELETES, Part, READS, Values, WRITES
from memcache_shm.storage.view cimport Shard, View, hash_key, is_retired, refuses, shard_of, table_ns, ticks
from memcache_shm.storage.writer cimport remove, store

cdef enum:
    SLICE_BYTES = 1048576       # copied in about 1 ms; then those who wait are shown progress
    PART_BYTES = 512            # what a key takes of that besides its value


cdef int read_part(View *v, Part *part, uint32_t now, Values *values) noexcept nogil:
    """Copy a key's value behind the others: OK, NOT_FOUND; NO_SPACE: memory is out. `now` in ticks, the same for all keys."""
    cdef uint64_t hash = hash_key(v, part.key, part.klen), room
    cdef Shard *s = shard_of(v, hash)
    cdef Record *r
    cdef Place place
    cdef char *grown
    locate(v, s, part.key, part.klen, hash, &place)
    if place.slot == NULL:
        return NOT_FOUND
    r = place.record
    if r.version <= load_relaxed64(&s.control.cutoff) or (r.expiry != 0 and r.expiry <= now):
        return NOT_FOUND
    part.vlen = value_length(sizes_of(r))
    part.at = values.size
    if part.vlen > v.max_value_bytes:
        return NOT_FOUND                # scribbled since it was found
    room = values.size + part.vlen
    if room > values.room:
        grown = <char *> realloc(values.data, 2 * room)
        if grown == NULL:
            return NO_SPACE
        values.data = grown
        values.room = 2 * room
    copy_value(&s.records, r, <uint32_t> part.vlen, values.data + values.size)
    values.size = room
    return OK


cdef int change_part(View *v, int what, const Part *part) noexcept nogil:
    """Store or remove one key: OK, NOT_FOUND, NO_SPACE, READ_ONLY."""
    cdef Change change
    memset(&change, 0, sizeof(Change))
    change.key = part.key
    change.klen = part.klen
    if what == DELETES:
        return remove(v, &change, HELD)
    change.value = part.value
    change.vlen = part.vlen
    return store(v, &change, HELD)


cdef int do_parts(View *v, int what, Part *parts, uint32_t n, Values *values, const uint8_t *wanted) noexcept nogil:
    """All parts, up to the first one that fails for other reasons than that there is no such key."""
    cdef uint32_t i, now = ticks(table_ns(v))
    cdef uint64_t copied = 0
    for i in range(n):
        parts[i].result = read_part(v, parts + i, now, values) if what == READS else change_part(v, what, parts + i)
        if parts[i].result > NOT_FOUND:
            return parts[i].result
        copied += PART_BYTES + parts[i].vlen
        if copied >= SLICE_BYTES:
            copied = 0
            show_progress(v, 0, v.shards, wanted)
    return OK


cdef int take_step(View *v, int what, Part *parts, uint32_t n, Values *values) noexcept nogil:
    """Write, read or delete all keys in one step. OK, with each part's own result; NO_SPACE: those before the part that says so are done;
    TOO_LARGE: nothing was done. READ_ONLY, RETIRED, or why a lock was not to be had."""
    cdef uint8_t *wanted
    cdef uint32_t i
    cdef int r
    if v.readonly or (what != READS and refuses(v)):
        return READ_ONLY
    if is_retired(v):
        return RETIRED
    wanted = <uint8_t *> calloc(v.shards, 1)
    if wanted == NULL:
        return BUSY
    for i in range(n):
        parts[i].result = OK
        wanted[shard_of(v, hash_key(v, parts[i].key, parts[i].klen)).number] = 1
        if what == WRITES and parts[i].vlen > v.max_value_bytes:
            parts[i].result = TOO_LARGE
            free(wanted)
            return TOO_LARGE
    r = take_shards(v, wanted)
    if r == LOCKED:
        r = do_parts(v, what, parts, n, values, wanted)
        give_shards(v, wanted)
    free(wanted)
    return r
