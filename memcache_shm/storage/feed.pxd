"""The feed of changes, as writers see it (see feed.pyx)."""

from libc.stdint cimport uint32_t, uint64_t

from memcache_shm.storage.atomics cimport fence_full, load_relaxed32, load_relaxed64, store_release64
from memcache_shm.storage.view cimport Shard, View


cdef enum Kind:
    FEED_SET = 1                # stored: a new record
    FEED_TOUCH = 2              # another expiry
    FEED_DELETE = 3
    FEED_EXPIRE = 4             # found to be over
    FEED_EVICT = 5              # for want of room
    FEED_FLUSH = 6              # flush_all; no key


cdef enum:
    EVENT_HEAD = 16             # bytes of an event in front of its key: version 8, kind 1, key length 1, spare
    EVENT_MOST_CELLS = 17       # of the longest key's
    DEADLINE_BITS = 40          # of the lease word: until when somebody listens, CLOCK_MONOTONIC_COARSE in ms; the era is above


cdef inline uint64_t deadline_mask() noexcept nogil:
    return (<uint64_t> 1 << DEADLINE_BITS) - 1


cdef inline bint is_heard(View *v) noexcept nogil:
    """Whether somebody listens, or did until a moment ago: all that a write costs while nobody does. The shard is locked."""
    return load_relaxed64(&v.header.feed_lease) & deadline_mask() != 0


cdef inline void announce(View *v, Shard *s, uint64_t head) noexcept nogil:
    """Let the event that `prepare` has written be seen; its change is published."""
    store_release64(&s.control.feed_head, head)
    fence_full()                # a listener says that it is going to sleep, then looks at the heads
    if load_relaxed32(&v.header.feed_waiting) != 0:
        wake(v)


cdef uint64_t prepare(View *v, Shard *s, int kind, const char *key, uint32_t klen, uint64_t version) noexcept nogil
cdef void wake(View *v) noexcept nogil
cdef void deafen(View *v) noexcept nogil
cdef uint64_t now_ms() noexcept nogil
