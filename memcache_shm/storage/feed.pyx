# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""The feed: a ring of events a shard, written under the shard's lock. (Listening to it is listening.pyx.)

    cell: 16 bytes.  event: version 8 | kind 1 | key length 1 | spare 6 | key, rounded up to cells; it may go round the ring's end

An event's number is how many cells were written to its shard's feed before it, as a position in a log. It tells which key changed and
how, not what it holds now: whoever hears of it reads that from the table.

Order of a change while somebody listens: the event is written behind the head, where nobody looks; the head that it makes goes into the
intent with the change; the change is published by its one store; then the head is advanced. Who finds a dead owner's intent whose change
took effect advances the head in its place (`repair`). So no change is without its event, and no event without its change.

Nobody listens as a rule: then a write reads one word of the header and writes no event. That word is a lease: listeners renew it, a writer
who finds it run out takes it back. Each time somebody begins to listen where nobody did a new era begins, so that a listener that was too
late to renew can tell that events are missing, whoever has come in between.
"""

from libc.limits cimport INT_MAX
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.string cimport memcpy

from memcache_shm.storage.atomics cimport (
    CLOCK_MONOTONIC_COARSE, cas64_relaxed, clock_ns, exchange32, fetch_add32, futex_wake, load_relaxed64,
)
from memcache_shm.storage.layout cimport FEED_CELL
from memcache_shm.storage.view cimport Shard, View


cdef uint64_t now_ms() noexcept nogil:
    return clock_ns(CLOCK_MONOTONIC_COARSE) // 1000000


cdef bint lapsed(View *v) noexcept nogil:
    """Whether nobody listens any more; takes a lease back that has run out."""
    cdef uint64_t word
    while True:
        word = load_relaxed64(&v.header.feed_lease)
        if word & deadline_mask() == 0:
            return True
        if word & deadline_mask() >= now_ms():
            return False
        if cas64_relaxed(&v.header.feed_lease, word, word & ~deadline_mask()):
            return True


cdef void deafen(View *v) noexcept nogil:
    """End the lease: what happened cannot be told by events, and every listener has to copy anew."""
    cdef uint64_t word = load_relaxed64(&v.header.feed_lease)
    while word & deadline_mask() != 0 and not cas64_relaxed(&v.header.feed_lease, word, word & ~deadline_mask()):
        word = load_relaxed64(&v.header.feed_lease)


cdef uint64_t prepare(View *v, Shard *s, int kind, const char *key, uint32_t klen, uint64_t version) noexcept nogil:
    """Write an event behind the head; what the head becomes by it, 0 when nobody listens any more. A version: of the record that came
    or went, for a flush its deadline."""
    cdef uint64_t number = load_relaxed64(&s.control.feed_head)
    cdef uint64_t cell, room
    cdef uint8_t *at
    if s.feed_cells == 0 or lapsed(v):
        return 0
    cell = number % s.feed_cells
    at = s.feed + cell * FEED_CELL
    (<uint64_t *> at)[0] = version
    (<uint64_t *> at)[1] = 0
    at[8] = <uint8_t> kind
    at[9] = <uint8_t> klen
    cell = cell + 1 if cell + 1 < s.feed_cells else 0
    room = min((s.feed_cells - cell) * FEED_CELL, <uint64_t> klen)
    memcpy(s.feed + cell * FEED_CELL, key, room)
    memcpy(s.feed, key + room, klen - room)             # round the ring's end
    return number + 1 + (klen + FEED_CELL - 1) // FEED_CELL


cdef void wake(View *v) noexcept nogil:
    """Wake the listeners that sleep."""
    if exchange32(&v.header.feed_waiting, 0) != 0:
        fetch_add32(&v.header.feed_wake, 1)
        futex_wake(&v.header.feed_wake, INT_MAX)
