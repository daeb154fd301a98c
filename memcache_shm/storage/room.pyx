# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""Making room: runs of granules for records and for the index, by moving and evicting what is in the way.

A record gets one run when one is free. Else an item goes, by its standing; where its place is too small its neighbours in the arena are
moved to where they fit, so that what is free does not end as crumbs. For a large record a whole stretch is cleared: the neighbours go
too. A neighbour is recognised by its key leading back to its own slot. Only when no single run can be had does a record get several.
"""

from libc.stdint cimport int64_t, uint32_t, uint64_t

from memcache_shm.storage.arena cimport (
    Runs, clear, find_aligned, find_run, free_start, gather_runs, granules_for, is_used, mark, next_used, raise_longest, run_around,
)
from memcache_shm.storage.atomics cimport load_relaxed32, store_release32
from memcache_shm.storage.counters cimport SEVERAL_RUN_RECORDS
from memcache_shm.storage.evict cimport drop_victim, evict_one, next_victim, seek
from memcache_shm.storage.index cimport Path, Place, bucket_count, locate, shrink
from memcache_shm.storage.layout cimport (
    BUCKET_SPARSE, GRANULE_MASK, KIND_ENTRY, MIN_BUCKETS, Record, RunLink, SEVERAL_RUNS, STATE_FOREIGN_CAS, ZONE_STEP, word_granule,
    word_kind,
)
from memcache_shm.storage.records cimport (
    Fields, Sizes, are_sane, cas_id, fill, key_of, record_at, record_granules, record_runs, record_sane, sizes_of, value_length,
)
from memcache_shm.storage.reaping cimport is_dead, reap
from memcache_shm.storage.recovery cimport OP_MOVE, publish
from memcache_shm.storage.view cimport Shard, View, count, hash_key, index_start, records_end, shard_of, table_ns, ticks

cdef enum:
    STEPS_BACK = 512                # granules looked at one by one for the start of a record, and one more for four items there are
    MOVED_MOST = 4096               # granules (64 KiB) of a record that is moved while others are evicted
    MOVES = 4                       # neighbours moved to widen a victim's place
    SWEEPS = 16                     # chunks swept for dead records; a large record then has a stretch cleared, of the dead mostly
    VICTIMS = 64                    # evicted one by one until a record has room; then a whole stretch is cleared
    TIMES_AVERAGE = 8               # a record so many times larger than the average has a stretch cleared at once
    LARGE = 256                     # granules (4 KiB) from which on a record may have several runs rather than evict: links cost it nothing
    EVICTIONS_A_LOOK = 16           # the same when all else has failed


cdef uint64_t *slot_of_record(View *v, Shard *s, uint32_t granule, uint32_t *bucket) noexcept nogil:
    """The slot of the item whose record starts at this granule, recognised by its key leading back here; else NULL."""
    cdef Record *r = record_at(&s.records, granule)
    cdef Place place
    cdef Sizes sizes
    cdef uint64_t h
    if r == NULL:
        return NULL
    sizes = sizes_of(r)
    if not are_sane(v, &s.records, r, sizes):
        return NULL
    h = hash_key(v, key_of(r, sizes), sizes.key_length)
    if shard_of(v, h) != s:
        return NULL
    locate(v, s, key_of(r, sizes), sizes.key_length, h, &place)
    if place.slot == NULL or place.granule != granule:
        return NULL
    bucket[0] = place.bucket
    return place.slot


cdef uint64_t *owner_of(View *v, Shard *s, uint32_t granule, uint32_t *bucket, uint32_t *length) noexcept nogil:
    """The slot of the item that has a run starting at this granule, and the run's length; NULL when no run starts there."""
    cdef uint64_t *slot = slot_of_record(v, s, granule, bucket)
    cdef Record *r = record_at(&s.records, granule)
    cdef Runs runs
    cdef uint32_t i, first
    if slot != NULL:
        length[0] = record_granules(&s.records, r, sizes_of(r))
        return slot
    if r == NULL:
        return NULL
    first = load_relaxed32(&(<RunLink *> r).first)
    slot = slot_of_record(v, s, first, bucket)
    if slot == NULL or not record_runs(v, &s.records, record_at(&s.records, first), &runs):
        return NULL
    for i in range(1, runs.n):
        if runs.start[i] == granule:
            length[0] = runs.granules[i]
            return slot
    return NULL


cdef bint move(View *v, Shard *s, uint64_t *slot, uint32_t below) noexcept nogil:
    """Copy a record of one run to a free run under `below`; False when there is none."""
    cdef uint64_t old = slot[0]
    cdef Record *r = record_at(&s.records, word_granule(old))
    cdef Sizes sizes
    cdef uint32_t n
    cdef Fields f
    cdef Runs runs
    cdef int64_t at
    if r == NULL:
        return False
    sizes = sizes_of(r)
    if sizes.length & SEVERAL_RUNS or not are_sane(v, &s.records, r, sizes):
        return False
    n = record_granules(&s.records, r, sizes)
    if n > MOVED_MOST and v.evicts and s.control.hands[0] | s.control.hands[1] != 0:
        return False                    # in a table that is full a large one goes: its copy would take milliseconds
    at = find_run(&s.records, 0, below, n, False)
    if at < 0:
        return False
    runs.n = 1
    runs.start[0] = <uint32_t> at
    runs.granules[0] = n
    mark(&s.records, <uint32_t> at, n)
    f.version = r.version
    f.foreign_cas = cas_id(r, sizes, 0)
    f.key = key_of(r, sizes)
    f.key_length = sizes.key_length
    f.flags = r.flags
    f.expiry = r.expiry
    f.head = f.tail = NULL
    f.head_length = f.tail_length = 0
    f.middle = r
    f.middle_length = value_length(sizes)
    f.blanks = 0
    f.state = sizes.state & ~STATE_FOREIGN_CAS
    fill(&s.records, &runs, &f)
    publish(v, s, OP_MOVE, slot, (old & ~<uint64_t> GRANULE_MASK) | <uint64_t> at)
    clear(&s.records, <uint32_t> word_granule(old), n)
    return True


cdef uint64_t *holder_of(View *v, Shard *s, uint32_t granule, uint32_t *bucket) noexcept nogil:
    """The slot of the item one of whose runs holds this granule, found by looking at all; NULL when none does."""
    cdef uint32_t n_buckets = bucket_count(v, s), b, i, position, k
    cdef Record *r
    cdef Runs runs
    cdef Path p
    for b in range(n_buckets):
        position = 0
        while seek(s, b, position, &p, &i):
            position += 1
            if word_kind(p.slots[i]) != KIND_ENTRY:
                continue
            r = record_at(&s.records, word_granule(p.slots[i]))
            if r == NULL or not record_sane(v, &s.records, r) or not record_runs(v, &s.records, r, &runs):
                continue
            for k in range(runs.n):
                if runs.start[k] <= granule < runs.start[k] + runs.granules[k]:
                    bucket[0] = b
                    return p.slots + i
    return NULL


cdef uint64_t *item_over(View *v, Shard *s, uint32_t granule, bint at_border, uint32_t *bucket) noexcept nogil:
    """The slot of the item that holds a granule. Mostly a run starts right there; elsewhere (`at_border`: where a window begins) it
    started before: a few steps back, or a look at all items when it is a large one."""
    cdef uint32_t start = granule, length
    cdef uint64_t *slot
    while True:
        slot = owner_of(v, s, start, bucket, &length)
        if slot != NULL:
            return slot if start + length > granule else NULL
        if not at_border or start == 0 or not is_used(&s.records, start - 1):
            return NULL
        if granule - start >= STEPS_BACK + s.control.records // 4:
            return holder_of(v, s, granule, bucket)
        start -= 1


cdef bint clear_window(View *v, Shard *s, uint32_t low, uint32_t high, uint64_t pinned, bint moving) noexcept nogil:
    """Free all granules in [low, high): records that reach in are moved below it (if wanted and possible) or evicted. False when the
    pinned record or something unknown stands in the way, or a live one with -M."""
    cdef uint32_t at = low, bucket, expiry
    cdef uint64_t *slot
    while True:
        at = next_used(&s.records, at, high)
        if at == high:
            return True
        slot = item_over(v, s, at, at == low, &bucket)
        if slot == NULL or word_granule(slot[0]) == pinned:
            return False
        if moving and move(v, s, slot, low):
            continue
        if not v.evicts and not is_dead(v, s, slot[0], ticks(table_ns(v)), &expiry):
            return False
        drop_victim(v, s, slot, bucket)


cdef bint meets(View *v, Shard *s, uint64_t pinned, uint32_t low, uint32_t high, uint32_t *end) noexcept nogil:
    """Whether the pinned record has a run in [low, high); where the last such run ends."""
    cdef Record *r
    cdef Runs runs
    cdef uint32_t i
    cdef bint any = False
    if pinned >= s.records.granules:
        return False
    r = record_at(&s.records, pinned)
    if r == NULL or not record_runs(v, &s.records, r, &runs):
        return False
    for i in range(runs.n):
        if runs.start[i] < high and runs.start[i] + runs.granules[i] > low:
            if not any or runs.start[i] + runs.granules[i] > end[0]:
                end[0] = runs.start[i] + runs.granules[i]
            any = True
    return any


cdef bint place_window(View *v, Shard *s, uint32_t n, uint64_t pinned, uint32_t *low) noexcept nogil:
    """Put a window of `n` granules where no record straddles its lower border and the pinned record is not in it: at `low`, behind
    the pinned record, or at the arena's beginning."""
    cdef uint32_t high = records_end(s), behind = 0
    if n > high:
        return False
    if low[0] > high - n:
        low[0] = 0
    if not meets(v, s, pinned, low[0], low[0] + n, &behind):
        return True
    low[0] = behind
    if behind <= high - n and not meets(v, s, pinned, low[0], low[0] + n, &behind):
        return True
    low[0] = 0
    return not meets(v, s, pinned, 0, n, &behind)


cdef bint make_run(View *v, Shard *s, uint64_t size_bytes, uint32_t head_bytes, uint64_t pinned, Runs *out) noexcept nogil:
    """Evict one by its standing; if what is free then does not do, clear a stretch there."""
    cdef uint32_t n = granules_for(&s.records, size_bytes)
    cdef uint32_t _try, bucket, granule, low
    cdef uint64_t *slot
    for _try in range(VICTIMS):
        slot = next_victim(v, s, pinned, &bucket)
        if slot == NULL:
            return False
        granule = <uint32_t> word_granule(slot[0])
        drop_victim(v, s, slot, bucket)
        if one_run(s, n, out) or (n >= LARGE and some_runs(v, s, size_bytes, head_bytes, out)):
            return True
        if granule >= s.records.granules:
            continue
        low = free_start(&s.records, granule, granule - n if granule > n else 0)
        if not place_window(v, s, n, pinned, &low):
            return False
        if clear_window(v, s, low, low + n, pinned, False):
            return one_run_at(low, n, out)
    return False


cdef inline uint64_t free_index(Shard *s) noexcept nogil:
    """Free granules of the index zone."""
    cdef uint32_t zone = s.index.granules - index_start(s)
    return zone - s.index.used[0] if zone > s.index.used[0] else 0


cdef bint reserve_index(View *v, Shard *s, uint32_t n, uint32_t alignment, uint64_t pinned) noexcept nogil:
    """See to `n` free granules for the index, aligned ones in one piece, others for nodes (all there is besides, so any two free ones
    make a node); in the memory geometry its zone grows downwards for them."""
    cdef uint32_t low = index_start(s)
    if alignment == 1 and free_index(s) >= n:
        return True
    if alignment > 1 and find_aligned(&s.index, low, s.index.granules, n, alignment) >= 0:
        return True
    if not s.shared or low < s.records.granules // 2:
        return False
    if not clear_window(v, s, low - ZONE_STEP, low, pinned, True):
        return False
    store_release32(&s.control.zone, low - ZONE_STEP)      # after the records have left: repair relies on it
    raise_longest(&s.index, low - ZONE_STEP, ZONE_STEP)
    return True


cdef inline bint one_run_at(uint32_t at, uint32_t n, Runs *out) noexcept nogil:
    out.n = 1
    out.start[0] = at
    out.granules[0] = n
    return True


cdef bint one_run(Shard *s, uint32_t n, Runs *out) noexcept nogil:
    cdef uint32_t high = records_end(s)
    cdef int64_t at
    if s.records.used[0] > high or high - s.records.used[0] < n:
        return False
    at = find_run(&s.records, 0, high, n, True)
    return at >= 0 and one_run_at(<uint32_t> at, n, out)


cdef bint some_runs(View *v, Shard *s, uint64_t size_bytes, uint32_t head_bytes, Runs *out) noexcept nogil:
    """Several runs of what is free (one, if it happens to do)."""
    if not s.shared or not gather_runs(&s.records, records_end(s), size_bytes - head_bytes, head_bytes + <uint32_t> sizeof(RunLink), out):
        return False
    if out.n == 1:
        out.granules[0] = granules_for(&s.records, size_bytes)      # a single run has no link
    else:
        count(v, SEVERAL_RUN_RECORDS, 1)
    return True


cdef bint widen(View *v, Shard *s, uint32_t granule, uint32_t high, uint32_t n, uint64_t pinned, Runs *out) noexcept nogil:
    """Make a free run of `n` granules below `high` around a free one by moving the records behind it to where they fit below it. A move
    leads to lower granules only: what a reader has copied from the old place can never be taken for whole."""
    cdef uint32_t low, end, bucket, length
    cdef uint64_t *slot
    cdef int64_t at
    cdef int moved
    for moved in range(MOVES + 1):
        at = run_around(&s.records, granule, high, n)
        if at >= 0:
            return one_run_at(<uint32_t> at, n, out)
        low = free_start(&s.records, granule, granule - n if granule > n else 0)
        end = next_used(&s.records, granule, high)
        if moved == MOVES or end == high:
            return False
        slot = owner_of(v, s, end, &bucket, &length)
        if slot == NULL or word_granule(slot[0]) == pinned or not move(v, s, slot, low):
            return False
    return False


cdef bint evict_for(View *v, Shard *s, uint64_t size_bytes, uint32_t head_bytes, uint64_t pinned, Runs *out) noexcept nogil:
    """Evict by standing alone, until the place of one, with what is free around it or can be made so by moving, is large enough."""
    cdef uint32_t n = granules_for(&s.records, size_bytes), bucket, high, _victim
    cdef uint64_t granule
    cdef uint64_t *slot
    for _victim in range(VICTIMS):
        slot = next_victim(v, s, pinned, &bucket)
        if slot == NULL:
            return False
        granule = word_granule(slot[0])
        drop_victim(v, s, slot, bucket)
        high = records_end(s)
        if granule < high and not is_used(&s.records, <uint32_t> granule) and widen(v, s, <uint32_t> granule, high, n, pinned, out):
            return True
        if n >= LARGE and some_runs(v, s, size_bytes, head_bytes, out):
            return True
    return False


cdef bint allocate(View *v, Shard *s, uint64_t size_bytes, uint32_t head_bytes, uint64_t pinned, Runs *out) noexcept nogil:
    """Find (and unless -M make) room for a record of `size_bytes`, `head_bytes` of them in front of the value. The runs are not taken
    yet. `pinned`: granule of a record that must stay. May change the index: search again after it."""
    cdef uint32_t n = granules_for(&s.records, size_bytes), _sweep
    if one_run(s, n, out):
        return True
    for _sweep in range(SWEEPS):
        if not reap(v, s, pinned):
            break
        if one_run(s, n, out):
            return True
    if (n >= LARGE or not v.evicts) and some_runs(v, s, size_bytes, head_bytes, out):
        return True
    if not v.evicts:
        return False
    if <uint64_t> n * s.control.records <= <uint64_t> TIMES_AVERAGE * s.records.used[0] and evict_for(
        v, s, size_bytes, head_bytes, pinned, out
    ):
        return True
    if make_run(v, s, size_bytes, head_bytes, pinned, out) or one_run(s, n, out):
        return True
    return s.shared and several_runs(v, s, size_bytes, head_bytes, pinned, out)


cdef bint thin_out(View *v, Shard *s) noexcept nogil:
    """Evict nothing, but give a sparse index's memory back: False when it is in proportion."""
    cdef uint32_t before = bucket_count(v, s)
    if before <= MIN_BUCKETS or s.control.records >= <uint64_t> BUCKET_SPARSE * before:
        return False
    shrink(v, s)
    return bucket_count(v, s) < before


cdef bint several_runs(View *v, Shard *s, uint64_t size_bytes, uint32_t head_bytes, uint64_t pinned, Runs *out) noexcept nogil:
    """The last way to room: several runs, evicting and shrinking the index with what is left until there are enough."""
    cdef uint32_t n = granules_for(&s.records, size_bytes), _look
    cdef bint more = True
    while True:
        if one_run(s, n, out) or some_runs(v, s, size_bytes, head_bytes, out):
            return True
        if not more:
            return False
        more = False
        for _look in range(EVICTIONS_A_LOOK):
            more |= evict_one(v, s, pinned)
            more |= thin_out(v, s)
