# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""Holding several shards at a time: for what is to happen, or to be seen, at one instant.

They are taken in ascending order, so that two who want several never wait for each other in a circle. Readers are not held up. Writers
wait; who holds longer than some milliseconds shows them progress. A death leaves each shard as any other dead owner's: whoever comes next
takes it over.

`wanted` has a byte for each shard, not 0 for those that are meant; NULL means all of them.
"""

from libc.stdint cimport uint8_t, uint32_t, uint64_t

from memcache_shm.storage.atomics cimport load_acquire64, load_relaxed64, store_relaxed64
from memcache_shm.storage.counters cimport LOCK_WAITS
from memcache_shm.storage.locks cimport LOCKED, LOCK_WOULD_BLOCK, give, nap_for, take
from memcache_shm.storage.recovery cimport note_flush
from memcache_shm.storage.results cimport POLL
from memcache_shm.storage.view cimport View, count, table_ns


cdef int take_above(View *v, uint32_t number, const uint8_t *wanted) noexcept nogil:
    """Lock a shard, waiting for it, while those below are held: who waits for them waits as long as we do, and is shown progress meanwhile.
    That ends, too: an owner that is stuck has been seen to be so after a second. LOCKED, or why that failed."""
    cdef int r = take(v, v.shard + number, POLL)
    if r == LOCK_WOULD_BLOCK:
        count(v, LOCK_WAITS, 1)
    while r == LOCK_WOULD_BLOCK:
        nap_for(v.shard + number)
        show_progress(v, 0, number, wanted)
        r = take(v, v.shard + number, POLL)
    return r


cdef int take_shards(View *v, const uint8_t *wanted) noexcept nogil:
    """Lock them, waiting for each: LOCKED, or why that failed, and then none is held."""
    cdef uint32_t i
    cdef int r
    for i in range(v.shards):
        if wanted != NULL and not wanted[i]:
            continue
        r = take_above(v, i, wanted)
        if r != LOCKED:
            give_below(v, wanted, i)
            return r
    agree_on_flush(v, wanted)
    return LOCKED


cdef void agree_on_flush(View *v, const uint8_t *wanted) noexcept nogil:
    """They were taken one after the other, and a flush may have fallen due in between. It counts for all of them or, if it comes after
    this, for none before they are given back."""
    cdef uint64_t deadline = load_acquire64(&v.header.flush_ns)
    cdef uint32_t i
    if deadline == 0 or table_ns(v) < deadline:
        return
    for i in range(v.shards):
        if (wanted == NULL or wanted[i]) and load_relaxed64(&v.shard[i].control.flush_applied) != deadline:
            note_flush(v, v.shard + i, deadline)


cdef void give_below(View *v, const uint8_t *wanted, uint32_t end) noexcept nogil:
    while end > 0:
        end -= 1
        if wanted == NULL or wanted[end]:
            give(v, v.shard + end)


cdef void give_shards(View *v, const uint8_t *wanted) noexcept nogil:
    """Unlock them."""
    give_below(v, wanted, v.shards)


cdef void show_progress(View *v, uint32_t first, uint32_t end, const uint8_t *wanted) noexcept nogil:
    """They, from number `first` to `end` - 1, are held by us and will be for a while: those who wait shall not give up."""
    cdef uint32_t i
    for i in range(first, end):
        if wanted == NULL or wanted[i]:
            store_relaxed64(&v.shard[i].control.progress, load_relaxed64(&v.shard[i].control.progress) + 1)
