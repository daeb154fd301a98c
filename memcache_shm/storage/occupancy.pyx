# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False, auto_pickle=False
"""What fills a table's arenas, stretch by stretch: live records, dead ones, index, nothing.

No lock is taken and nothing is stored: a read-only mapping is enough, and nobody waits. What is read is clamped as any reader does it.

While others write, the parts of a stretch add up all the same. The free map says what is taken, the border of the index's zone which
part of that is index, a walk over the slots which of the rest is dead; live is what remains. So a record that is being written or
replaced this moment counts as live, and so does what a killed writer left taken until its shard is repaired.
"""

from dataclasses import dataclass

from libc.stdint cimport uint32_t, uint64_t
from libc.stdlib cimport calloc, free

from memcache_shm.storage.arena cimport Runs, next_free, next_used
from memcache_shm.storage.atomics cimport __builtin_popcountll, fence_acquire, load_acquire64, load_relaxed32, load_relaxed64
from memcache_shm.storage.index cimport Path, bucket_count, fetch_records, follow, walk
from memcache_shm.storage.layout cimport KIND_ENTRY, Record, hit_mask, word_granule, word_kind
from memcache_shm.storage.records cimport are_sane, record_at, record_runs, sizes_of, word_matches
from memcache_shm.storage.table cimport Table
from memcache_shm.storage.view cimport Arena, Shard, View, flush_pending, records_end, table_ns, ticks

cdef enum:
    AHEAD = 6                   # buckets whose records are prefetched


@dataclass(frozen=True)
class Cell:
    """What fills a stretch of an arena; each in granules.

    live: records that are served · dead: records that have expired or were flushed, and whose place goes to the next that needs it
    · index: buckets and overflow nodes (memory geometry) · free: nothing.
    """

    live: int = 0
    dead: int = 0
    index: int = 0
    free: int = 0

    @property
    def granules(self) -> int:
        """The stretch's length."""
        return self.live + self.dead + self.index + self.free


@dataclass(frozen=True)
class Occupancy:
    """The record arena of one shard from its lower to its upper end. In the memory geometry the index grows from the upper end down;
    in the element geometry it lies elsewhere, and a granule is one element's place."""

    shard: int
    granule_bytes: int
    free_runs: int              # pieces that the free granules below the index are in
    largest_free: int           # granules of the largest such piece
    cells: tuple[Cell, ...]


def occupancy(Table table not None, int cells):
    """How each shard's arena is filled, in `cells` stretches as equal as whole granules allow (in fewer where there are fewer granules).

    A list of `Occupancy`, one a shard. Takes about 30 ns an item. ValueError: fewer cells than one, or a closed table.
    """
    cdef View *v = &table.view
    cdef uint32_t i
    table.check_open()
    if cells < 1:
        raise ValueError(f"an arena is shown in at least one cell, not {cells}")
    return [_shard(v, v.shard + i, <uint32_t> cells) for i in range(v.shards)]


def free_space(Table table not None):
    """What `stats shm` tells of the free space among the records, all int: bytes, pieces, bytes of the largest, and how far each shard's
    free space is in other pieces than its largest, in per cent. Takes about 1 ms a GiB. ValueError: a closed table."""
    cdef View *v = &table.view
    cdef uint32_t i, runs = 0, largest
    cdef uint64_t free_bytes = 0, largest_bytes = 0, in_largest = 0, here
    cdef Shard *s
    table.check_open()
    for i in range(v.shards):
        s = v.shard + i
        largest = 0
        with nogil:
            free_pieces(s, &runs, &largest)
            free_bytes += (records_end(s) - <uint64_t> taken(&s.records, 0, records_end(s))) * s.records.granule_bytes
        here = <uint64_t> largest * s.records.granule_bytes
        in_largest += here
        largest_bytes = max(largest_bytes, here)
    return {
        "shm_free_bytes": free_bytes, "shm_free_runs": runs, "shm_largest_free_run_bytes": largest_bytes,
        "shm_fragmentation_percent": 100 - 100 * min(in_largest, free_bytes) // free_bytes if free_bytes else 0,
    }


cdef object _shard(View *v, Shard *s, uint32_t cells):
    cdef Arena *a = &s.records
    cdef uint32_t n = cells if cells < a.granules else a.granules
    cdef uint32_t runs = 0, largest = 0
    cdef uint64_t *dead = <uint64_t *> calloc(n, sizeof(uint64_t))
    cdef bint void
    if dead == NULL:
        raise MemoryError("no memory for the map of a shard")
    try:
        with nogil:
            void = flush_pending(v, s)
            if not void:
                add_dead(v, s, dead, n)
            free_pieces(s, &runs, &largest)
        return Occupancy(s.number, a.granule_bytes, runs, largest, _cells(s, dead, n, void))
    finally:
        free(dead)


cdef tuple _cells(Shard *s, uint64_t *dead, uint32_t n, bint void):
    """The stretches; with `void` every record is dead."""
    cdef uint32_t border = records_end(s), i, start, end, middle
    cdef uint64_t records, index, gone
    out = []
    for i in range(n):
        start = begin_of(i, n, s.records.granules)
        end = begin_of(i + 1, n, s.records.granules)
        middle = min(max(start, border), end)
        records = taken(&s.records, start, middle)
        index = taken(&s.records, middle, end)
        gone = records if void else min(dead[i], records)
        out.append(Cell(records - gone, gone, index, end - start - records - index))
    return tuple(out)


cdef inline uint32_t begin_of(uint32_t cell, uint32_t n, uint32_t granules) noexcept nogil:
    """The first granule of a cell of `n`."""
    return <uint32_t> (<uint64_t> granules * cell // n)


cdef inline uint32_t cell_of(uint32_t granule, uint32_t n, uint32_t granules) noexcept nogil:
    """The cell of `n` that a granule lies in: the last that begins there or before."""
    return <uint32_t> (((<uint64_t> granule + 1) * n - 1) // granules)


cdef uint32_t taken(Arena *a, uint32_t start, uint32_t end) noexcept nogil:
    """How many granules of [start, end) the free map has as in use."""
    cdef uint32_t n = 0, stop
    cdef uint64_t w
    while start < end:
        stop = min((start | 63) + 1, end)
        w = load_relaxed64(&a.bitmap[start >> 6]) >> (start & 63)
        if stop - start < 64:
            w &= (<uint64_t> 1 << (stop - start)) - 1
        n += <uint32_t> __builtin_popcountll(w)
        start = stop
    return n


cdef void free_pieces(Shard *s, uint32_t *runs, uint32_t *largest) noexcept nogil:
    """Count the free runs among the records, and tell the longest."""
    cdef uint32_t end = records_end(s), at = 0, stop
    while at < end:
        at = next_free(&s.records, at, end)
        stop = next_used(&s.records, at, end)
        if stop > at:                   # else taken between the two looks
            runs[0] += 1
            largest[0] = max(largest[0], stop - at)
        at = stop + 1


cdef void add_dead(View *v, Shard *s, uint64_t *dead, uint32_t n) noexcept nogil:
    """Count the granules of dead records in the cells they lie in. While the index grows or shrinks, a record may be met twice or not."""
    cdef uint32_t b = 0, i, now = ticks(table_ns(v))
    cdef uint64_t w, cutoff = load_acquire64(&s.control.cutoff)
    cdef Path p
    cdef Runs runs
    while b < bucket_count(v, s):       # looked up each time: it may grow meanwhile
        if b + AHEAD < bucket_count(v, s):
            fetch_records(s, b + AHEAD)
        walk(s, b, &p)
        while p.slots != NULL:
            for i in range(p.n):
                w = load_acquire64(p.slots + i)
                if word_kind(w) == KIND_ENTRY and is_dead(v, s, p.slots + i, w, cutoff, now, &runs):
                    add_runs(&s.records, &runs, dead, n)
            if not follow(s, &p, w):
                break
        b += 1


cdef bint is_dead(View *v, Shard *s, uint64_t *slot, uint64_t w, uint64_t cutoff, uint32_t now, Runs *runs) noexcept nogil:
    """Whether the record that slot word `w` leads to was flushed or has expired; where it lies. False, too, for what makes no sense
    or was replaced while it was looked at."""
    cdef Record *r = record_at(&s.records, word_granule(w))
    cdef uint64_t version
    cdef uint32_t expiry
    if r == NULL:
        return False
    version = load_acquire64(&r.version)
    expiry = load_relaxed32(&r.expiry)
    if not word_matches(v, w, version) or (version > cutoff and (expiry == 0 or expiry > now)):
        return False
    if not are_sane(v, &s.records, r, sizes_of(r)) or not record_runs(v, &s.records, r, runs):
        return False
    fence_acquire()
    return (load_acquire64(slot) ^ w) & ~hit_mask() == 0 and load_relaxed64(&r.version) == version


cdef void add_runs(Arena *a, Runs *runs, uint64_t *dead, uint32_t n) noexcept nogil:
    """Count the granules of a record in their cells; its runs lie within the arena."""
    cdef uint32_t i, cell, at, end, stop
    for i in range(runs.n):
        at = runs.start[i]
        end = at + runs.granules[i]
        while at < end:
            cell = cell_of(at, n, a.granules)
            stop = min(begin_of(cell + 1, n, a.granules), end)
            dead[cell] += stop - at
            at = stop
