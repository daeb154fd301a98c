# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""Records in the arena: how large they are, filling one before it is published, copying a value out.

A record is one run of granules, or a few runs chained by `RunLink`s. Lengths and links read from the segment are clamped here.
"""

from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.string cimport memcpy, memset

from memcache_shm.storage.arena cimport Runs, granules_for
from memcache_shm.storage.atomics cimport fence_release, load_relaxed32, store_relaxed64, store_release64
from memcache_shm.storage.layout cimport (
    KEY_MAX, MAX_RUNS, NO_GRANULE, Record, RunLink, SEVERAL_RUNS, STATE_FOREIGN_CAS, STATE_STALE,
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


cdef bint are_sane(View *v, Arena *a, Record *r, Sizes sizes) noexcept nogil:
    """Sizes within their limits, and a single run (of several: the key) within the arena."""
    cdef uint64_t end = key_offset(sizes) + sizes.key_length
    if sizes.key_length == 0 or sizes.key_length > KEY_MAX or value_length(sizes) > v.max_value_bytes:
        return False
    if not sizes.length & SEVERAL_RUNS:
        end += value_length(sizes)
    return end <= room_after(a, r)


cdef bint record_sane(View *v, Arena *a, Record *r) noexcept nogil:
    return are_sane(v, a, r, sizes_of(r))


cdef uint32_t record_granules(Arena *a, Record *r, Sizes sizes) noexcept nogil:
    """Granules of a record's first (mostly only) run; of several runs it is what the link says."""
    if sizes.length & SEVERAL_RUNS:
        return load_relaxed32(&(<RunLink *> (<uint8_t *> r + sizeof(Record))).granules)
    return granules_for(a, key_offset(sizes) + sizes.key_length + <uint64_t> value_length(sizes))


cdef bint record_runs(View *v, Arena *a, Record *r, Runs *out) noexcept nogil:
    """All runs of a record; False when its links make no sense or the runs are not just what it needs (scribbled memory)."""
    cdef Sizes sizes = sizes_of(r)
    cdef uint32_t granules = record_granules(a, r, sizes)
    cdef uint64_t start = <uint64_t> (<uint8_t *> r - a.base) // a.granule_bytes
    cdef uint64_t needed = key_offset(sizes) + sizes.key_length + <uint64_t> value_length(sizes)
    cdef uint64_t held = 0
    cdef RunLink *link = <RunLink *> (<uint8_t *> r + sizeof(Record))
    out.n = 0
    while True:
        if granules == 0 or start + granules > a.granules:
            return False
        out.start[out.n] = <uint32_t> start
        out.granules[out.n] = granules
        out.n += 1
        held += <uint64_t> granules * a.granule_bytes
        if not sizes.length & SEVERAL_RUNS:
            return True
        start = load_relaxed32(&link.next)
        if start == NO_GRANULE:
            return needed <= held < needed + a.granule_bytes
        if out.n == MAX_RUNS or start >= a.granules:
            return False
        link = <RunLink *> (a.base + start * a.granule_bytes)
        granules = load_relaxed32(&link.granules)
        needed += sizeof(RunLink)


cdef bint runs_whole(Arena *a, Record *r, Runs *runs) noexcept nogil:
    """Whether each of its runs leads back to the first, and nothing unknown is said of its state."""
    cdef RunLink *link
    cdef Sizes sizes = sizes_of(r)
    cdef uint32_t i
    if sizes.length & SEVERAL_RUNS:
        for i in range(runs.n):
            link = <RunLink *> (a.base + <uint64_t> runs.start[i] * a.granule_bytes + (0 if i else sizeof(Record)))
            if link.first != runs.start[0]:
                return False
    return not sizes.state & ~(STATE_FOREIGN_CAS | STATE_STALE | STATE_TOKEN_SENT)


cdef void open_value(Cursor *c, Arena *a, Record *r) noexcept nogil:
    """Put the cursor on the first value byte of a record of several runs."""
    cdef RunLink *link = <RunLink *> (<uint8_t *> r + sizeof(Record))
    cdef Sizes sizes = sizes_of(r)
    cdef uint64_t head = key_offset(sizes) + sizes.key_length
    cdef uint64_t run = <uint64_t> load_relaxed32(&link.granules) * a.granule_bytes
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
    run = <uint64_t> load_relaxed32(&link.granules) * c.arena.granule_bytes
    if run > room_after(c.arena, link):
        run = room_after(c.arena, link)
    c.at = <uint8_t *> link + sizeof(RunLink)
    c.left = run - sizeof(RunLink) if run > sizeof(RunLink) else 0
    c.next = link.next
    c.runs += 1
    return True


cdef void copy_value(Arena *a, Record *r, uint32_t length, char *dst) noexcept nogil:
    """Copy `length` value bytes (clamped by the caller) out; zeros for what lies beyond damaged links, never this process's own bytes."""
    cdef Cursor c
    cdef uint64_t n
    cdef Sizes sizes = sizes_of(r)
    cdef uint64_t head = key_offset(sizes) + sizes.key_length
    if not sizes.length & SEVERAL_RUNS:
        if head + length <= room_after(a, r):
            memcpy(dst, <uint8_t *> r + head, length)
        else:
            memset(dst, 0, length)
        return
    open_value(&c, a, r)
    while length > 0:
        if c.left == 0 and not next_run(&c):
            memset(dst, 0, length)
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


cdef void put_blanks(Cursor *c, uint64_t length) noexcept nogil:
    cdef uint64_t n
    while length > 0:
        if c.left == 0 and not next_run(c):
            return
        n = c.left if c.left < length else length
        memset(c.at, 32, n)
        length -= n
        c.at += n
        c.left -= n


cdef void put_value_of(Cursor *to, Arena *a, Record *r, uint64_t length) noexcept nogil:
    """Append the value of another record, which has `length` bytes, run by run."""
    cdef Cursor c
    cdef uint64_t n
    cdef Sizes sizes = sizes_of(r)
    cdef uint64_t head = key_offset(sizes) + sizes.key_length
    if not sizes.length & SEVERAL_RUNS:
        if head + length <= room_after(a, r):
            put(to, <uint8_t *> r + head, length)
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
    cdef uint32_t length = f.head_length + f.middle_length + f.tail_length + f.blanks
    cdef uint64_t head = sizeof(Record) + (sizeof(RunLink) if runs.n > 1 else 0) + (8 if f.foreign_cas else 0) + f.key_length
    cdef uint8_t *body = <uint8_t *> r + head - f.key_length
    store_relaxed64(&r.version, 0)
    fence_release()
    r.expiry = f.expiry
    r.flags = f.flags
    r.length = length | (<uint32_t> SEVERAL_RUNS if runs.n > 1 else 0)
    r.key_length = <uint8_t> f.key_length
    r.state = f.state | (STATE_FOREIGN_CAS if f.foreign_cas else 0)
    r.spare = 0
    if runs.n > 1:
        link_runs(a, runs)
    if f.foreign_cas:
        memcpy(body - 8, &f.foreign_cas, 8)
    memcpy(body, f.key, f.key_length)
    if runs.n == 1 and f.middle == NULL and f.tail_length == 0:
        memcpy(body + f.key_length, f.head, f.head_length)
        if f.blanks:
            memset(body + f.key_length + f.head_length, 32, f.blanks)
    else:
        c.arena = a                     # from what this process knows, not from what was just stored: others may write there
        c.at = <uint8_t *> r + head
        c.left = <uint64_t> runs.granules[0] * a.granule_bytes - head
        c.next = runs.start[1] if runs.n > 1 else <uint32_t> NO_GRANULE
        c.runs = 1
        put(&c, f.head, f.head_length)
        if f.middle != NULL:
            put_value_of(&c, a, f.middle, f.middle_length)
        put(&c, f.tail, f.tail_length)
        put_blanks(&c, f.blanks)
    store_release64(&r.version, f.version)
