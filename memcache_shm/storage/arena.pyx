# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""The free map of an arena: a bitmap with one bit a granule, and over it one byte a block of 512 that bounds its longest free run.

By these bytes a search finds the best fit among thousands of blocks without looking at the bitmap: the block whose longest run is the
shortest that is long enough. A run belongs to the block in which it begins, and what of it lies in the next block to that one, too. The
bytes are upper bounds: giving back raises them at once, a search that finds less lowers them. Bitmap, bytes, use count and search
position are derivable: repair rebuilds them from the index. All calls hold the shard's lock.
"""

from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.string cimport memchr, memset

from memcache_shm.storage.atomics cimport __builtin_clzll, __builtin_ctzll, invariant, load_relaxed32
from memcache_shm.storage.layout cimport BLOCK, LONGEST_MOST, MAX_RUNS, RunLink
from memcache_shm.storage.view cimport Arena

cdef enum:
    GROUP = 64                  # blocks whose bytes are looked at together: a cache line
    GROUPS_A_SEARCH = 8         # looked at for a better fit once one was found
    FEW_RUNS = 3                # what a record of several runs should do with, if possible


cdef struct Wanted:             # what several runs are to carry
    uint64_t payload            # bytes still to be placed
    uint32_t overhead_first     # bytes of the first run before the value
    uint32_t shortest           # granules of a run that is worth its link


cdef inline uint32_t next_bit(Arena *a, uint32_t at, uint32_t end, uint64_t flipped) noexcept nogil:
    """First granule in [at, end) whose bit is set once those of `flipped` are turned over in each word, or end."""
    cdef uint64_t w
    while at < end:
        w = (a.bitmap[at >> 6] ^ flipped) >> (at & 63)
        if w != 0:
            at += <uint32_t> __builtin_ctzll(w)
            return at if at < end else end
        at = (at | 63) + 1
    return end


cdef uint32_t next_used(Arena *a, uint32_t at, uint32_t end) noexcept nogil:
    """First granule in use in [at, end), or end."""
    return next_bit(a, at, end, 0)


cdef uint32_t next_free(Arena *a, uint32_t at, uint32_t end) noexcept nogil:
    """First free granule in [at, end), or end."""
    return next_bit(a, at, end, ~<uint64_t> 0)


cdef uint32_t free_start(Arena *a, uint32_t at, uint32_t low) noexcept nogil:
    """Where the free run that ends right before `at` begins, or `low` when it begins before that."""
    cdef uint64_t w
    while at > low:
        w = a.bitmap[(at - 1) >> 6] << (63 - ((at - 1) & 63))
        if w != 0:
            at -= <uint32_t> __builtin_clzll(w)
            return at if at > low else low
        at = (at - 1) & ~<uint32_t> 63
    return low


cdef bint all_free(Arena *a, uint32_t start, uint32_t n) noexcept nogil:
    return next_used(a, start, start + n) == start + n


cdef inline uint32_t block_end(Arena *a, uint32_t block) noexcept nogil:
    cdef uint32_t end = (block + 1) << BLOCK_LOG2
    return end if end < a.granules else a.granules


cdef inline uint8_t bounded(uint32_t length) noexcept nogil:
    return <uint8_t> (length if length < LONGEST_MOST else LONGEST_MOST)


cdef inline uint32_t run_end(Arena *a, uint32_t at, uint32_t end) noexcept nogil:
    """Where a free run ends that begins at `at` in the block that ends at `end`, followed as far as a bound tells."""
    end += LONGEST_MOST
    return next_used(a, at, end if end < a.granules else a.granules)


cdef uint32_t longest_in(Arena *a, uint32_t block) noexcept nogil:
    """Granules of the longest free run that begins in a block, or before it; counted to 255 granules behind the block."""
    cdef uint32_t at = block << BLOCK_LOG2, end = block_end(a, block), stop, longest = 0
    while True:
        at = next_free(a, at, end)
        if at >= end:
            return longest
        stop = run_end(a, at, end)
        if stop - at > longest:
            longest = stop - at
        at = stop


cdef void forget_longest(Arena *a) noexcept nogil:
    """Let every block seem free, until a search has looked."""
    memset(a.longest, LONGEST_MOST, blocks(a, a.granules))
    a.most[0] = LONGEST_MOST


cdef inline void raise_to(Arena *a, uint32_t block, uint32_t length) noexcept nogil:
    if bounded(length) > a.longest[block]:
        a.longest[block] = bounded(length)
    if bounded(length) > a.most[0]:
        a.most[0] = bounded(length)


cdef void raise_longest(Arena *a, uint32_t start, uint32_t n) noexcept nogil:
    """Tell of a run just given back, with what is free beside it."""
    cdef uint32_t at = start, block = start >> BLOCK_LOG2, low = block << BLOCK_LOG2, first, end
    first = free_start(a, start, low)
    if first == low and block > 0 and not is_used(a, low - 1):      # it began in the block before
        first = free_start(a, low, low - BLOCK)
        raise_to(a, block - 1, run_end(a, first, low) - first)
        first = low
    while at < start + n:
        end = block_end(a, block)
        raise_to(a, block, run_end(a, first, end) - first)
        at = first = end
        block += 1


cdef int64_t fit_in_block(Arena *a, uint32_t block, uint32_t high, uint32_t n) noexcept nogil:
    """The shortest free run of at least `n` granules below `high` that begins in a block, about to be taken; -1 when there is none. The
    block's byte is exact afterwards."""
    cdef uint32_t at = block << BLOCK_LOG2, end = block_end(a, block), stop, length, rest, longest = 0, best_length = 0
    cdef int64_t best = -1
    while True:
        at = next_free(a, at, end)
        if at >= end:
            break
        stop = run_end(a, at, end)
        length = stop - at
        if (stop if stop < high else high) >= at + n and (best < 0 or length < best_length):
            longest = max(longest, best_length)
            best = at
            best_length = length
        else:
            longest = max(longest, length)
        at = stop
    if best >= 0 and best + n < end:
        rest = best_length - n
        longest = max(longest, rest)
    a.longest[block] = bounded(longest)
    return best


cdef inline uint32_t top_of_group(const uint8_t *p) noexcept nogil:
    """The largest of a group's bytes. Written so that the compiler compares sixteen at a time, like the next."""
    cdef uint8_t top = 0, byte
    cdef int i
    for i in range(GROUP):
        byte = p[i]
        top = byte if byte > top else top
    return top


cdef inline uint32_t fit_of_group(const uint8_t *p, uint8_t n) noexcept nogil:
    """The smallest of a group's bytes that is at least `n`; LONGEST_MOST also when there is none."""
    cdef uint8_t fit = LONGEST_MOST, byte
    cdef int i
    for i in range(GROUP):
        byte = p[i]
        byte = byte if byte >= n else <uint8_t> LONGEST_MOST
        fit = byte if byte < fit else fit
    return fit


cdef int64_t block_with(Arena *a, uint32_t from_, uint32_t to, uint32_t length) noexcept nogil:
    cdef uint8_t *found = <uint8_t *> memchr(a.longest + from_, <int> length, to - from_)
    return found - a.longest if found != NULL else -1


cdef int64_t best_block(Arena *a, uint32_t first, uint32_t last, uint32_t n, uint32_t *most) noexcept nogil:
    """The block in [first, last) whose longest run is said to be the shortest of at least `n` granules; -1 when none has one: then
    `most` is what the longest has. Begins where the last search ended; in a full arena some 500 blocks are compared, else 64."""
    cdef uint32_t low = first // GROUP, groups = (last + GROUP - 1) // GROUP - low
    cdef uint32_t enough = GROUPS_A_SEARCH if a.used[0] > a.granules // 8 * 7 else 0
    cdef uint32_t g = (load_relaxed32(a.next_fit) >> BLOCK_LOG2) // GROUP, seen, from_, to, i, top, fit, best = LONGEST_MOST + 1
    cdef int64_t block = -1
    if g < low or g >= low + groups:
        g = low
    most[0] = 0
    for seen in range(groups):
        from_ = g * GROUP
        to = from_ + GROUP
        top = 0
        fit = LONGEST_MOST
        if from_ >= first and to <= last:
            top = top_of_group(a.longest + from_)
            if top >= n:
                fit = fit_of_group(a.longest + from_, <uint8_t> n)
        else:
            from_ = from_ if from_ > first else first
            to = to if to < last else last
            for i in range(from_, to):
                if a.longest[i] > top:
                    top = a.longest[i]
                if n <= a.longest[i] < fit:
                    fit = a.longest[i]
        if top > most[0]:
            most[0] = top
        if top >= n and fit < best:
            best = fit
            block = block_with(a, from_, to, fit)
        if block >= 0 and (best == n or seen >= enough):
            break
        g = g + 1 if g + 1 < low + groups else low
    return block


cdef int64_t find_short(Arena *a, uint32_t low, uint32_t high, uint32_t n, bint whole) noexcept nogil:
    """A free run of at most 255 granules: beginning in a whole block, else in one that a border cuts."""
    cdef uint32_t first = blocks(a, low), last = high >> BLOCK_LOG2, most = 0
    cdef int64_t block, at = -1
    cdef uint32_t tries = 2 * blocks(a, a.granules)     # more only when somebody scribbles on and on
    if high == a.granules:
        last = blocks(a, high)
    while first < last and tries > 0:
        tries -= 1
        block = best_block(a, first, last, n, &most)
        if block < 0:
            break
        at = fit_in_block(a, <uint32_t> block, high, n)
        if at >= 0:
            return at
        if block == last - 1 and a.longest[block] >= n:
            last -= 1                           # its run reaches over the border
    if first > last:                            # one block, cut twice
        return find_aligned(a, low, high, n, 1)
    at = find_aligned(a, low, min(first << BLOCK_LOG2, high), n, 1)
    if at < 0 and last << BLOCK_LOG2 < high:
        at = find_aligned(a, last << BLOCK_LOG2, high, n, 1)
    if at < 0 and most < n and whole:
        a.most[0] = n - 1                       # whole blocks have less, cut ones have none
    return at


cdef int64_t find_long(Arena *a, uint32_t low, uint32_t high, uint32_t n, bint whole) noexcept nogil:
    """A free run of more than 255 granules: the first that begins in a block which has one of 255."""
    cdef uint32_t at = low, block, end, start, stop
    cdef bint any = False
    while at < high and high - at >= n:
        block = at >> BLOCK_LOG2
        end = block_end(a, block)
        if at == block << BLOCK_LOG2:
            if block % GROUP == 0 and top_of_group(a.longest + block) < LONGEST_MOST:
                at += GROUP * BLOCK
                continue
            if a.longest[block] == LONGEST_MOST:
                a.longest[block] = bounded(longest_in(a, block))
        if a.longest[block] < LONGEST_MOST:
            at = end
            continue
        any = True
        start = next_free(a, at, end)
        if start >= end:
            at = end
            continue
        if start >= high or high - start < n:
            return -1
        stop = next_used(a, start, start + n)
        if stop == start + n:
            return start
        at = stop
    if not any and whole and at >= high:
        a.most[0] = LONGEST_MOST - 1
    return -1


cdef int64_t find_run(Arena *a, uint32_t low, uint32_t high, uint32_t n, bint whole) noexcept nogil:
    """A free run of `n` granules in [low, high), about to be taken; -1 when none is found. Up to 255 granules the best fit. `whole`: those
    are all that the arena's bound `most` speaks of, so that a search in vain may lower it."""
    cdef int64_t at
    if n == 0 or high < low or high - low < n or (n > a.most[0] and a.most[0] < LONGEST_MOST):
        return -1
    at = find_short(a, low, high, n, whole) if n <= LONGEST_MOST else find_long(a, low, high, n, whole)
    if at >= 0:
        a.next_fit[0] = <uint32_t> at
    return at


cdef int64_t find_aligned(Arena *a, uint32_t low, uint32_t high, uint32_t n, uint32_t alignment) noexcept nogil:
    """The first free run of `n` granules in [low, high) that starts at a multiple of `alignment`; -1 when there is none."""
    cdef uint32_t at = low, start, stop
    while at < high:
        start = (next_free(a, at, high) + alignment - 1) & ~(alignment - 1)
        if start >= high or high - start < n:
            return -1
        stop = next_used(a, start, start + n)
        if stop == start + n:
            return start
        at = stop + 1
    return -1


cdef int64_t run_around(Arena *a, uint32_t granule, uint32_t high, uint32_t n) noexcept nogil:
    """A free run of `n` granules below `high` that has this free granule in it; -1 when what is free there is less."""
    cdef uint32_t start = free_start(a, granule, granule - n + 1 if granule >= n else 0)
    if high - start < n or next_used(a, granule, start + n) < start + n:
        return -1
    return start


cdef void collect(Arena *a, uint32_t from_, uint32_t to, Wanted *w, Runs *out) noexcept nogil:
    """Take the free runs in [from_, to) that are long enough, in address order, until they carry what is wanted."""
    cdef uint32_t at = from_, start, stop, block, end
    cdef uint64_t overhead, carried
    while at < to and w.payload > 0 and out.n < MAX_RUNS:
        block = at >> BLOCK_LOG2
        end = block_end(a, block)
        start = next_free(a, at, end) if a.longest[block] >= bounded(w.shortest) else end
        if start >= end:
            at = end
            continue
        at = stop = next_used(a, start, to)
        if start >= to or stop - start < w.shortest:
            continue
        overhead = w.overhead_first if out.n == 0 else sizeof(RunLink)
        carried = <uint64_t> (stop - start) * a.granule_bytes - overhead
        if carried > w.payload:
            carried = w.payload
            stop = start + granules_for(a, carried + overhead)
        w.payload -= carried
        out.start[out.n] = start
        out.granules[out.n] = stop - start
        out.n += 1


cdef bint gather_runs(Arena *a, uint32_t high, uint64_t payload, uint32_t overhead_first, Runs *out) noexcept nogil:
    """Several runs below `high`, a few if possible, that together carry `payload` bytes beside their links; `overhead_first` is header,
    link and key, which the first has to hold."""
    cdef uint32_t hint = load_relaxed32(a.next_fit), least = granules_for(a, overhead_first) + 1
    cdef uint32_t parts = FEW_RUNS
    cdef Wanted w
    if payload == 0 or a.used[0] > high or (<uint64_t> (high - a.used[0])) * a.granule_bytes < payload:
        return False
    if hint > high:
        hint = 0
    while True:
        w.payload = payload
        w.overhead_first = overhead_first
        w.shortest = <uint32_t> (payload // parts // a.granule_bytes) + 2
        if w.shortest < least:
            w.shortest = least
        out.n = 0
        collect(a, hint, high, &w, out)
        collect(a, 0, hint, &w, out)
        if w.payload == 0 or parts == MAX_RUNS - 2:
            return w.payload == 0
        parts = MAX_RUNS - 2


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
    raise_longest(a, start, n)
