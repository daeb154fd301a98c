# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""Listening to the feed: a place in each shard's ring, a lease that keeps writers telling, and the news when something was missed.

    listener = new_listener(v); start(v, listener, WAIT); copy the table
    again and again: next_event(v, listener, &event, WAIT); renew once a second; sleep_until_news when there is nothing

`start` takes the lease, then each shard's lock once: who writes after that has seen the lease. What the table holds then and the events
from there on are everything. An event means that the key's state is to be read again. Where that shows that a later event must follow
(a stored record is not there any more, or is another) the event may be passed over; the last one never can.

A listener that comes too late, because the ring went round or its lease ran out, is told LOST: it goes on with what is to come, and has to
copy the table again. A flush is told once, by whichever shard notes it first: what is read from then on is the state after it.
"""

from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport calloc
from libc.string cimport memcpy

from memcache_shm.storage.atomics cimport (
    cas64_relaxed, fence_acquire, fence_full, futex_wait_ns, load_acquire32, load_acquire64, load_relaxed64, store_relaxed32,
)
from memcache_shm.storage.feed cimport (
    DEADLINE_BITS, EVENT_HEAD, EVENT_MOST_CELLS, FEED_FLUSH, FEED_SET, deadline_mask, now_ms,
)
from memcache_shm.storage.layout cimport FEED_CELL, KEY_MAX
from memcache_shm.storage.locks cimport LOCKED, give, look_around, sweep, take
from memcache_shm.storage.results cimport LOST, NO_FEED, NOT_FOUND, OK, READ_ONLY, RETIRED, TRY
from memcache_shm.storage.view cimport Shard, View, flush_pending, is_retired, table_ns

cdef enum:
    RUN_MOST = 256              # events of one shard before the next one's
    SEE_MS = 100


cdef Listener *new_listener(View *v) noexcept nogil:
    """One that has not started; NULL when memory is out. To be freed with `free`."""
    cdef Listener *listener = <Listener *> calloc(1, sizeof(Listener) + (v.shards - 1) * sizeof(uint64_t))
    if listener != NULL:
        listener.shards = v.shards
    return listener


cdef uint64_t told(const Listener *listener) noexcept nogil:
    """How far it has been told, all shards together."""
    cdef uint64_t sum = 0
    cdef uint32_t i
    for i in range(listener.shards):
        sum += listener.at[i]
    return sum


cdef uint64_t heads(View *v) noexcept nogil:
    """How far the feed goes, all shards together."""
    cdef uint64_t sum = 0
    cdef uint32_t i
    for i in range(v.shards):
        sum += load_acquire64(&v.shard[i].control.feed_head)
    return sum


cdef void take_lease(View *v, Listener *listener) noexcept nogil:
    """Join those who listen, or be the first of an era."""
    cdef uint64_t word, era, until
    while True:
        word = load_acquire64(&v.header.feed_lease)
        era = word >> DEADLINE_BITS
        until = now_ms() + LEASE_MS
        if word & deadline_mask() == 0:
            era = (era + 1) & (deadline_mask() >> (2 * DEADLINE_BITS - 64))
        elif word & deadline_mask() > until:
            until = word & deadline_mask()
        if cas64_relaxed(&v.header.feed_lease, word, era << DEADLINE_BITS | until):
            listener.era = era
            return


cdef void renew(View *v, Listener *listener) noexcept nogil:
    """Go on listening, if the lease still is what it was."""
    cdef uint64_t word, until = now_ms() + LEASE_MS
    while True:
        word = load_acquire64(&v.header.feed_lease)
        if word >> DEADLINE_BITS != listener.era or word & deadline_mask() == 0 or word & deadline_mask() >= until:
            return
        if cas64_relaxed(&v.header.feed_lease, word, listener.era << DEADLINE_BITS | until):
            return


cdef inline bint holds(View *v, const Listener *listener) noexcept nogil:
    """Whether writers have gone on telling all the time."""
    cdef uint64_t word = load_acquire64(&v.header.feed_lease)
    return word >> DEADLINE_BITS == listener.era and word & deadline_mask() != 0


cdef void pass_flush(View *v, Listener *listener) noexcept nogil:
    """Whatever is read from now on is the state after a flush that is due by now: shards that note it later tell nothing new.

    What was told before counts no more: its deadline may lie ahead, when the clock was put back.
    """
    cdef uint64_t deadline = load_acquire64(&v.header.flush_ns)
    listener.shift_ns = v.header.clock_shift_ns
    listener.flushed = deadline if deadline <= table_ns(v) else 0


cdef int start(View *v, Listener *listener, int wait) noexcept nogil:
    """Begin to listen, here and now. OK; NO_FEED, READ_ONLY, RETIRED; BUSY or WOULD_BLOCK, after which the same call may be made again."""
    cdef uint32_t i
    cdef int r
    if v.shard.feed_cells == 0:
        return NO_FEED
    if v.readonly:
        return READ_ONLY
    if is_retired(v):
        return RETIRED
    take_lease(v, listener)
    for i in range(v.shards):
        r = take(v, v.shard + i, wait)
        if r != LOCKED:
            return r
        listener.at[i] = load_relaxed64(&v.shard[i].control.feed_head)
        give(v, v.shard + i)
    pass_flush(v, listener)
    return OK


cdef void skip(View *v, Listener *listener) noexcept nogil:
    """Go on behind what is there, and note that something was missed. The lease holds: what comes later has events."""
    cdef uint32_t i
    if not listener.lost:
        listener.lost = True
        listener.lost_from = told(listener)
    for i in range(listener.shards):
        listener.at[i] = load_acquire64(&v.shard[i].control.feed_head)
    pass_flush(v, listener)


cdef void get(Shard *s, uint64_t cell, void *to, uint32_t size) noexcept nogil:
    cdef uint64_t at = cell % s.feed_cells * FEED_CELL
    cdef uint64_t room = <uint64_t> s.feed_cells * FEED_CELL - at
    cdef uint32_t first = <uint32_t> min(<uint64_t> size, room)
    memcpy(to, s.feed + at, first)
    memcpy(<uint8_t *> to + first, s.feed, size - first)


cdef inline bint overtaken(Shard *s, uint64_t head, uint64_t at) noexcept nogil:
    """Whether a writer may be overwriting what lies there: it is within one event behind the head."""
    return head - at > s.feed_cells - EVENT_MOST_CELLS


cdef int read_event(Shard *s, uint64_t at, Event *out) noexcept nogil:
    """Copy the event of that number: OK, NOT_FOUND when there is none yet, LOST when it is gone or damaged."""
    cdef uint64_t head = load_acquire64(&s.control.feed_head)
    cdef uint8_t bytes[EVENT_HEAD]
    if head == at:
        return NOT_FOUND
    if overtaken(s, head, at):
        return LOST
    get(s, at, bytes, EVENT_HEAD)
    memcpy(&out.version, bytes, 8)
    out.kind = bytes[8]
    out.klen = bytes[9]
    if out.klen > KEY_MAX or not FEED_SET <= out.kind <= FEED_FLUSH:
        return LOST
    get(s, at + 1, out.key, out.klen)
    fence_acquire()
    if overtaken(s, load_relaxed64(&s.control.feed_head), at):
        return LOST
    out.number = at
    out.next = at + 1 + (out.klen + FEED_CELL - 1) // FEED_CELL
    return OK if out.next - at <= head - at else LOST


cdef int look(View *v, Listener *listener, Event *out) noexcept nogil:
    """The next event of any shard; NOT_FOUND, LOST."""
    cdef uint32_t empty = 0
    cdef int r
    while empty < listener.shards:
        r = read_event(v.shard + listener.turn, listener.at[listener.turn], out) if listener.run < RUN_MOST else NOT_FOUND
        if r == LOST:
            return LOST
        if r == OK:
            listener.at[listener.turn] = out.next
            listener.run += 1
            empty = 0
            if out.kind != FEED_FLUSH:
                return OK
            if out.version > table_ns(v):
                return LOST             # the clock was put back since: the next flush will have an earlier deadline
            if out.version > listener.flushed:
                listener.flushed = out.version
                listener.shift_ns = v.header.clock_shift_ns
                return OK
            if listener.shift_ns != v.header.clock_shift_ns:
                return LOST             # the clock was put back: which flush came later cannot be told
            continue
        empty = 0 if listener.run else empty + 1
        listener.run = 0
        listener.turn = (listener.turn + 1) % listener.shards
    return NOT_FOUND


cdef void note_flushes(View *v) noexcept nogil:
    """Let each shard note a flush that is due, which is a writer's work: there may be none."""
    cdef uint32_t i
    for i in range(v.shards):
        if flush_pending(v, v.shard + i) and take(v, v.shard + i, TRY) == LOCKED:
            give(v, v.shard + i)


cdef void see_to_others(View *v, Listener *listener) noexcept nogil:
    """Ten times a second at most, what may be left to nobody else: a dead owner's change that took effect and was not told yet (which the
    next owner of its shard does), flushes that are due, a table that was removed."""
    cdef uint64_t now = now_ms()
    if now - listener.seen_ms >= SEE_MS:
        listener.seen_ms = now
        look_around(v)
        sweep(v)
        note_flushes(v)


cdef int next_event(View *v, Listener *listener, Event *out, int wait) noexcept nogil:
    """What changed next. OK; NOT_FOUND: nothing new; LOST: something was missed, all has to be read anew; RETIRED; BUSY, WOULD_BLOCK: the
    same again."""
    cdef int r
    if is_retired(v):
        return RETIRED
    if not holds(v, listener):
        if not listener.lost:
            listener.lost = True
            listener.lost_from = told(listener)
        r = start(v, listener, wait)
        if r != OK:
            return r
    r = look(v, listener, out) if not listener.lost else <int> LOST
    if r == LOST:
        skip(v, listener)
        listener.lost = False
        out.number = listener.lost_from
        out.next = told(listener)
    elif r == NOT_FOUND or listener.run == RUN_MOST:
        see_to_others(v, listener)
    return r


cdef bint sleep_until_news(View *v, uint64_t known, int64_t limit_ns) noexcept nogil:
    """Sleep until the feed goes further than `known` (of `heads` or `told`), or for so long. Whether it does."""
    cdef uint32_t seen = load_acquire32(&v.header.feed_wake)
    store_relaxed32(&v.header.feed_waiting, 1)
    fence_full()                # before the look at the heads: a writer advances one, then looks whether somebody sleeps
    if heads(v) == known and not is_retired(v):
        futex_wait_ns(&v.header.feed_wake, seen, limit_ns)
    return heads(v) != known
