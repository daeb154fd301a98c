# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""Records in the arena: how large they are, filling one before it is published, copying a value out.

A record is one run of granules, or a few runs chained by `RunLink`s. Lengths and links read from the segment are clamped here.
"""

from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.string cimport memcpy

from memcache_shm.storage.arena cimport Runs, granules_for
from memcache_shm.storage.atomics cimport fence_release, store_relaxed64, store_release64
from memcache_shm.storage.layout cimport (
    KEY_MAX, LENGTH_MASK, MAX_RUNS, NO_GRANULE, Record, RunLink, SEVERAL_RUNS, STATE_FOREIGN_CAS, STATE_STALE,
    STATE_TOKEN_SENT,
)
from memcache_shm.storage.view cimport Arena, View


cdef struct Cursor:             # where the next value byte of a record of several runs lies
    Arena *arena
    uint8_t *at
    uint64_t left               # bytes in this run
    uint32_t next               # granule of the next run
    uint32_t runs               # followed so far


cdef uint64_t record_bytes(Fields *f, uint32_t value_length) noexcept nogil:
    """Bytes of the record as one run."""
    return sizeof(Record) + (8 if f.foreign_cas else 0) + f.key_length + <uint64_t> value_length


cdef bint record_sane(View *v, Arena *a, Record *r) noexcept nogil:
    """Header fields within their limits, and a single run within the arena."""
    cdef uint32_t length = r.length & LENGTH_MASK
    cdef uint64_t head = body_offset(r) + r.key_length
    if r.key_length == 0 or r.key_length > KEY_MAX or length > v.max_value_bytes:
        return False
    if not r.length & SEVERAL_RUNS:
        head += length
    return head <= room_after(a, r)


cdef uint32_t record_granules(Arena *a, Record *r) noexcept nogil:
    """Granules of a sane record's first (mostly only) run."""
    cdef RunLink *link
    if r.length & SEVERAL_RUNS:
        link = <RunLink *> (<uint8_t *> r + sizeof(Record))
        return link.granules
    return granules_for(a, body_offset(r) + r.key_length + <uint64_t> (r.length & LENGTH_MASK))


cdef bint record_runs(View *v, Arena *a, Record *r, Runs *out) noexcept nogil:
    """All runs of a record; False when its links do not make sense (scribbled memory)."""
    cdef RunLink *link
    cdef uint32_t start
    out.n = 1
    out.start[0] = <uint32_t> ((<uint8_t *> r - a.base) // a.granule_bytes)
    out.granules[0] = record_granules(a, r)
    if out.granules[0] == 0 or <uint64_t> out.start[0] + out.granules[0] > a.granules:
        return False
    if not r.length & SEVERAL_RUNS:
        return True
    start = (<RunLink *> (<uint8_t *> r + sizeof(Record))).next
    while start != NO_GRANULE:
        if out.n == MAX_RUNS or start >= a.granules:
            return False
        link = <RunLink *> (a.base + <uint64_t> start * a.granule_bytes)
        out.start[out.n] = start
        out.granules[out.n] = link.granules
        if link.granules == 0 or <uint64_t> start + link.granules > a.granules:
            return False
        out.n += 1
        start = link.next
    return True


cdef bint runs_whole(Arena *a, Record *r, Runs *runs) noexcept nogil:
    """Whether the record fits into its runs, each leads back to the first, and nothing unknown is said of its state."""
    cdef RunLink *link
    cdef uint32_t i
    cdef uint64_t room = 0
    for i in range(runs.n):
        room += <uint64_t> runs.granules[i] * a.granule_bytes
        if r.length & SEVERAL_RUNS:
            link = <RunLink *> (a.base + <uint64_t> runs.start[i] * a.granule_bytes + (0 if i else sizeof(Record)))
            room -= sizeof(RunLink) if i else 0
            if link.first != runs.start[0]:
                return False
    if r.state & ~(STATE_FOREIGN_CAS | STATE_STALE | STATE_TOKEN_SENT):
        return False
    return body_offset(r) + r.key_length + <uint64_t> (r.length & LENGTH_MASK) <= room


cdef void open_value(Cursor *c, Arena *a, Record *r) noexcept nogil:
    """Put the cursor on the first value byte of a record of several runs."""
    cdef RunLink *link = <RunLink *> (<uint8_t *> r + sizeof(Record))
    cdef uint64_t head = body_offset(r) + r.key_length
    cdef uint64_t run = <uint64_t> link.granules * a.granule_bytes
    cdef uint64_t room = room_after(a, r)
    if run > room:
        run = room
    c.arena = a
    c.at = <uint8_t *> r + head
    c.left = run - head if run > head else 0
    c.next = link.next
    c.runs = 1


cdef bint next_run(Cursor *c) noexcept nogil:
    cdef RunLink *link
    cdef uint64_t run
    if c.next >= c.arena.granules or c.runs >= MAX_RUNS:
        return False
    link = <RunLink *> (c.arena.base + <uint64_t> c.next * c.arena.granule_bytes)
    run = <uint64_t> link.granules * c.arena.granule_bytes
    if run > room_after(c.arena, link):
        run = room_after(c.arena, link)
    c.at = <uint8_t *> link + sizeof(RunLink)
    c.left = run - sizeof(RunLink) if run > sizeof(RunLink) else 0
    c.next = link.next
    c.runs += 1
    return True


cdef void copy_value(Arena *a, Record *r, uint32_t length, char *dst) noexcept nogil:
    """Copy `length` value bytes (clamped by the caller) out; what lies beyond damaged links is left as it is."""
    cdef Cursor c
    cdef uint64_t n
    cdef uint64_t head
    if not r.length & SEVERAL_RUNS:
        head = body_offset(r) + r.key_length
        if head + length <= room_after(a, r):
            memcpy(dst, <uint8_t *> r + head, length)
        return
    open_value(&c, a, r)
    while length > 0:
        if c.left == 0 and not next_run(&c):
            return
        n = c.left if c.left < length else length
        memcpy(dst, c.at, n)
        dst += n
        length -= <uint32_t> n
        c.at += n
        c.left -= n


cdef void put(Cursor *c, const void *src, uint64_t length) noexcept nogil:
    cdef const uint8_t *p = <const uint8_t *> src
    cdef uint64_t n
    while length > 0:
        if c.left == 0 and not next_run(c):
            return
        n = c.left if c.left < length else length
        memcpy(c.at, p, n)
        p += n
        length -= n
        c.at += n
        c.left -= n


cdef void put_value_of(Cursor *to, Arena *a, Record *r) noexcept nogil:
    """Append the value of another record, run by run."""
    cdef Cursor c
    cdef uint64_t n
    cdef uint64_t length = r.length & LENGTH_MASK
    if not r.length & SEVERAL_RUNS:
        put(to, <uint8_t *> r + body_offset(r) + r.key_length, length)
        return
    open_value(&c, a, r)
    while length > 0:
        if c.left == 0 and not next_run(&c):
            return
        n = c.left if c.left < length else length
        put(to, c.at, n)
        length -= n
        c.left = 0


cdef void link_runs(Arena *a, Runs *runs) noexcept nogil:
    cdef uint32_t i
    cdef RunLink *link
    for i in range(runs.n):
        link = <RunLink *> (a.base + <uint64_t> runs.start[i] * a.granule_bytes + (sizeof(Record) if i == 0 else 0))
        link.next = runs.start[i + 1] if i + 1 < runs.n else <uint32_t> NO_GRANULE
        link.granules = runs.granules[i]
        link.first = runs.start[0]
        link.spare = 0


cdef void fill(Arena *a, Runs *runs, Fields *f) noexcept nogil:
    """Write a record nobody can reach yet. The version goes in last: a reader that strayed here through an old slot word sees
    either no version or a whole record."""
    cdef Record *r = <Record *> (a.base + <uint64_t> runs.start[0] * a.granule_bytes)
    cdef Cursor c
    cdef uint32_t length = f.head_length + f.tail_length
    cdef uint8_t *body
    if f.middle != NULL:
        length += f.middle.length & LENGTH_MASK
    store_relaxed64(&r.version, 0)
    fence_release()
    r.expiry = f.expiry
    r.flags = f.flags
    r.length = length | (<uint32_t> SEVERAL_RUNS if runs.n > 1 else 0)
    r.key_length = <uint8_t> f.key_length
    r.state = STATE_FOREIGN_CAS if f.foreign_cas else 0
    r.spare = 0
    if runs.n > 1:
        link_runs(a, runs)
    body = <uint8_t *> r + body_offset(r)
    if f.foreign_cas:
        memcpy(body - 8, &f.foreign_cas, 8)
    memcpy(body, f.key, f.key_length)
    if runs.n == 1 and f.middle == NULL and f.tail_length == 0:
        memcpy(body + f.key_length, f.head, f.head_length)
    else:
        open_value(&c, a, r)
        if runs.n == 1:
            c.left = length
        put(&c, f.head, f.head_length)
        if f.middle != NULL:
            put_value_of(&c, a, f.middle)
        put(&c, f.tail, f.tail_length)
    store_release64(&r.version, f.version)
