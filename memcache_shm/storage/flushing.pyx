# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""flush_all: a deadline in the header. The first owner of each shard past it stores the shard's cut-off (`enter` in recovery.pyx)."""

from libc.stdint cimport int64_t, uint32_t, uint64_t

from memcache_shm.storage.atomics cimport load_relaxed64, store_release64
from memcache_shm.storage.counters cimport CMD_FLUSH
from memcache_shm.storage.locks cimport LOCKED, give, take
from memcache_shm.storage.results cimport OK, READ_ONLY, TRY
from memcache_shm.storage.view cimport View, count, refuses, table_ns, wall_s
from memcache_shm.storage.writer cimport FAR_S, RELATIVE_MAX_S


cdef int settle_due_flush(View *v, int wait) noexcept nogil:
    """Before a flush deadline that has passed is overwritten every shard must have noted it. Shard 0 is held."""
    cdef uint32_t i
    cdef uint64_t due = load_relaxed64(&v.header.flush_ns)
    cdef int r
    if due == 0 or due > table_ns(v):
        return OK
    for i in range(1, v.shards):
        if load_relaxed64(&v.shard[i].control.flush_applied) == due:
            continue
        r = take(v, v.shard + i, wait)
        if r != LOCKED:
            return r
        give(v, v.shard + i)
    return OK


cdef int flush(View *v, int64_t delay_s, int wait) noexcept nogil:
    """All items present at the deadline vanish; `delay_s` as in memcached (a value above 30 days is unix time)."""
    cdef uint32_t i
    cdef uint64_t deadline
    cdef int r
    if refuses(v):
        return READ_ONLY
    r = take(v, v.shard, wait)
    if r != LOCKED:
        return r
    if refuses(v):                      # as in `aim`
        give(v, v.shard)
        return READ_ONLY
    r = settle_due_flush(v, wait)
    if r == OK:
        if delay_s > RELATIVE_MAX_S:
            delay_s -= wall_s(v)
        if delay_s > FAR_S:
            delay_s = FAR_S
        deadline = table_ns(v) + (<uint64_t> delay_s * 1000000000 if delay_s > 0 else 0)
        if deadline == load_relaxed64(&v.header.flush_ns):
            deadline += 1
        store_release64(&v.header.flush_ns, deadline)
        count(v, CMD_FLUSH, 1)
    give(v, v.shard)
    if r == OK and delay_s <= 0:
        for i in range(v.shards):       # not needed for the effect: brings the counts up to date at once
            if take(v, v.shard + i, TRY) == LOCKED:
                give(v, v.shard + i)
    return r
