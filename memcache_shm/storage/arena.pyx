# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""The free map of an arena: a bitmap with one bit a granule, searched next-fit.

The bitmap, the use count and the search position are derivable: repair rebuilds them from the index. All calls hold the shard's lock.
"""

from libc.stdint cimport int64_t, uint32_t, uint64_t

from memcache_shm.storage.atomics cimport __builtin_ctzll, invariant
from memcache_shm.storage.layout cimport MAX_RUNS, RunLink
from memcache_shm.storage.view cimport Arena

cdef enum:
    FIRST_RUN_MIN = 20          # granules: header, links and the longest key must fit into the first run


cdef uint32_t next_used(Arena *a, uint32_t at, uint32_t end) noexcept nogil:
    """First granule in use in [at, end), or end."""
    cdef uint64_t w
    while at < end:
        w = a.bitmap[at >> 6] >> (at & 63)
        if w != 0:
            at += <uint32_t> __builtin_ctzll(w)
            return at if at < end else end
        at = (at | 63) + 1
    return end


cdef uint32_t next_free(Arena *a, uint32_t at, uint32_t end) noexcept nogil:
    """First free granule in [at, end), or end."""
    cdef uint64_t w
    while at < end:
        w = ~a.bitmap[at >> 6] >> (at & 63)
        if w != 0:
            at += <uint32_t> __builtin_ctzll(w)
            return at if at < end else end
        at = (at | 63) + 1
    return end


cdef uint32_t free_before(Arena *a, uint32_t at, uint32_t most) noexcept nogil:
    """How many granules right before `at` are free, counting at most `most`."""
    cdef uint32_t n = 0
    while n < most and at > n and not is_used(a, at - n - 1):
        n += 1
    return n


cdef bint all_free(Arena *a, uint32_t start, uint32_t n) noexcept nogil:
    return next_used(a, start, start + n) == start + n


cdef int64_t scan(Arena *a, uint32_t at, uint32_t end, uint32_t limit, uint32_t n, uint32_t alignment,
                  uint32_t *budget_words) noexcept nogil:
    """A free run of `n` granules below `limit` that starts in [at, end) at a multiple of `alignment`; -1: none, or the budget is gone."""
    cdef uint32_t start, stop, words
    while at < end:
        start = next_free(a, at, end)
        start = (start + alignment - 1) & ~(alignment - 1)
        if start >= end or start + n > limit:
            return -1
        stop = next_used(a, start, start + n)
        if stop == start + n:
            return start
        words = ((stop - at) >> 6) + 1
        if words >= budget_words[0]:
            a.next_fit[0] = stop
            budget_words[0] = 0
            return -1
        budget_words[0] -= words
        at = stop + 1
    return -1


cdef int64_t find_run(Arena *a, uint32_t low, uint32_t high, uint32_t n, uint32_t alignment, uint32_t budget_words) noexcept nogil:
    """Next-fit in [low, high): a free run of `n` granules, looking through at most about `budget_words` bitmap words; -1 when none
    was found."""
    if high < low or a.used[0] > high - low or high - low - a.used[0] < n:
        return -1
    return search_run(a, low, high, n, alignment, budget_words)


cdef int64_t search_run(Arena *a, uint32_t low, uint32_t high, uint32_t n, uint32_t alignment, uint32_t budget_words) noexcept nogil:
    """`find_run` for a part of where the arena's use is counted."""
    cdef uint32_t hint = a.next_fit[0]
    cdef uint32_t budget = budget_words
    cdef int64_t start
    if n == 0 or high < low or high - low < n:
        return -1
    if hint >= high or hint < low:
        hint = low
    start = scan(a, hint, high, high, n, alignment, &budget)
    if start < 0 and budget > 0 and hint > low:
        start = scan(a, low, hint, high, n, alignment, &budget)
    if start >= 0:
        a.next_fit[0] = <uint32_t> start + n
    return start


cdef uint64_t collect(Arena *a, uint32_t high, uint64_t payload, uint32_t overhead_first, uint32_t shortest, Runs *out) noexcept nogil:
    """Take free runs of at least `shortest` granules in address order until they carry `payload`; returns what they carry."""
    cdef uint32_t at = 0, start, stop
    cdef uint64_t got = 0, overhead
    out.n = 0
    while got < payload and out.n < MAX_RUNS:
        start = next_free(a, at, high)
        if start >= high:
            break
        stop = next_used(a, start, high)
        at = stop
        if stop - start < shortest:
            continue
        overhead = overhead_first if out.n == 0 else sizeof(RunLink)
        out.start[out.n] = start
        if got + <uint64_t> (stop - start) * a.granule_bytes - overhead > payload:
            stop = start + granules_for(a, payload - got + overhead)
        out.granules[out.n] = stop - start
        got += <uint64_t> (stop - start) * a.granule_bytes - overhead
        out.n += 1
    return got


cdef bint gather_runs(Arena *a, uint32_t high, uint64_t payload, uint32_t overhead_first, Runs *out) noexcept nogil:
    """Several runs below `high` that together carry `payload` bytes beside their links; `overhead_first` is header, link and key."""
    cdef uint64_t per_run = payload // (MAX_RUNS - 2) // a.granule_bytes + 2
    cdef uint32_t shortest = FIRST_RUN_MIN if per_run < FIRST_RUN_MIN else <uint32_t> per_run
    if payload == 0 or a.used[0] > high or (<uint64_t> (high - a.used[0])) * a.granule_bytes < payload:
        return False
    return collect(a, high, payload, overhead_first, shortest, out) >= payload


cdef void fill_bits(Arena *a, uint32_t start, uint32_t n, bint used) noexcept nogil:
    cdef uint32_t at = start, end = start + n, take
    cdef uint64_t bits
    while at < end:
        take = 64 - (at & 63)
        if take > end - at:
            take = end - at
        bits = (~<uint64_t> 0 if take == 64 else ((<uint64_t> 1 << take) - 1)) << (at & 63)
        if used:
            a.bitmap[at >> 6] |= bits
        else:
            a.bitmap[at >> 6] &= ~bits
        at += take


cdef void mark(Arena *a, uint32_t start, uint32_t n) noexcept nogil:
    """Take a free run."""
    invariant(all_free(a, start, n), "a run is taken only while free")
    fill_bits(a, start, n, True)
    a.used[0] += n


cdef void clear(Arena *a, uint32_t start, uint32_t n) noexcept nogil:
    """Give a run back."""
    invariant(next_free(a, start, start + n) == start + n, "a run is given back only while in use")
    fill_bits(a, start, n, False)
    a.used[0] -= n
