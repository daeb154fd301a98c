# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""A table that follows another: who may change it, how it stands, and how it becomes independent.

The header's word `follows` says that the table is a copy, kept in step by one process, whose view is `exempt`. All others are refused with
READ_ONLY as long as it is set, and that one as soon as it is not (`refuses` in view.pxd). Eviction, expiry and repair go on: they change
what a copy may lose, not what it says.

Items of a copy have the CAS ids of their leader, foreign ones here; a write to an independent table gets its shard's next version. So
that the order of CAS ids is kept across `promote`, that first raises every version counter above all ids in the table.
"""

from libc.stdint cimport uint32_t, uint64_t
from libc.stdlib cimport free, malloc

from memcache_shm.storage.atomics cimport (
    CLOCK_BOOTTIME, clock_ns, load_relaxed32, load_relaxed64, store_relaxed64, store_release32,
)
from memcache_shm.storage.holding cimport give_shards, show_progress, take_shards
from memcache_shm.storage.locks cimport LOCKED, give, take
from memcache_shm.storage.results cimport BUSY, NOT_FOUND, OK, READ_ONLY, RETIRED, TOO_MANY, TRY, WAIT
from memcache_shm.storage.table cimport Table
from memcache_shm.storage.versions cimport CAS_SANE, raise_version
from memcache_shm.storage.view cimport View
from memcache_shm.storage.walk cimport Batch, Walk, next_batch

from memcache_shm.errors import BusyError, MemcacheError, NoSpaceError, ReadOnlyError, TableRemovedError

cdef enum:
    SLICE_BUCKETS = 4096        # after so many, about 4 ms, those who wait for a lock are shown progress


cdef int find_highest(View *v, uint64_t *highest) noexcept nogil:
    """The highest CAS id in the table, all of whose shards are held, or the highest version given out if that is more."""
    cdef Batch *batch = <Batch *> malloc(sizeof(Batch))
    cdef Walk walk
    cdef uint32_t i, buckets = 0
    cdef int r
    if batch == NULL:
        return BUSY
    walk.shard = walk.tries = 0
    walk.at = 0
    highest[0] = 0
    while True:
        r = next_batch(v, &walk, batch, TRY)
        if r != OK:
            break
        for i in range(batch.n):
            if batch.item[i].cas <= CAS_SANE:
                highest[0] = max(highest[0], batch.item[i].cas)
        buckets += 1
        if buckets % SLICE_BUCKETS == 0:
            show_progress(v, 0, v.shards, NULL)
    free(batch)
    for i in range(v.shards):
        highest[0] = max(highest[0], load_relaxed64(&v.shard[i].control.version))
    return OK if r == NOT_FOUND else r


cdef void end_following(View *v, uint64_t highest) noexcept nogil:
    """Every shard is held: raise the version counters, which stay congruent to their shards' numbers, then let everybody write. A death
    amid this leaves a table that follows, with versions left out."""
    cdef uint32_t i
    for i in range(v.shards):
        raise_version(v, i, highest)
    store_relaxed64(&v.header.followed_online, 0)
    store_relaxed64(&v.header.followed_ns, 0)
    store_release32(&v.header.follows, 0)


cdef int promote(View *v, uint64_t *highest) noexcept nogil:
    """Make a table independent that follows another; `highest`: CAS ids go on above it. OK, NOT_FOUND when it does not follow, READ_ONLY,
    RETIRED, BUSY, TOO_MANY.

    All shards are held for it, so that nothing of the leader comes in between: for about 0.1 us an item. Reads go on.
    """
    cdef int r
    if v.readonly:
        return READ_ONLY
    if load_relaxed32(&v.header.follows) == 0:
        return NOT_FOUND
    r = take_shards(v, NULL)
    if r != LOCKED:
        return r
    if load_relaxed32(&v.header.follows) == 0:
        r = NOT_FOUND                   # another was faster
    else:
        r = find_highest(v, highest)
    if r == OK:
        end_following(v, highest[0])
    give_shards(v, NULL)
    return r


cdef int check_writable(Table table) except -1:
    table.check_open()
    if table.view.readonly:
        raise ReadOnlyError("the table is attached with readonly=True")
    return 0


def follow(Table table not None):
    """From now on nobody may change the table but who keeps it in step. Changes that others are amid are waited for, about a second at most
    for one that is stopped. ReadOnlyError: no right to write to it."""
    cdef View *v = &table.view
    cdef uint32_t i
    check_writable(table)
    store_relaxed64(&v.header.followed_online, 0)
    store_release32(&v.header.follows, 1)
    with nogil:
        for i in range(v.shards):
            if take(v, v.shard + i, WAIT) == LOCKED:
                give(v, v.shard + i)


def promote_table(Table table not None):
    """Make a table independent that follows another; the number above which its CAS ids go on. Takes about 0.1 us an item, for which
    writers and the copying process wait. MemcacheError when it does not follow; ReadOnlyError, TableRemovedError, BusyError,
    NoSpaceError (too many processes write to it)."""
    cdef uint64_t highest = 0
    cdef int r
    check_writable(table)
    with nogil:
        r = promote(&table.view, &highest)
    if r == NOT_FOUND:
        raise MemcacheError("the table follows no other")
    if r == RETIRED:
        raise TableRemovedError("the table was removed")
    if r == TOO_MANY:
        raise NoSpaceError("too many processes write to the table")
    if r != OK:
        raise BusyError(f"process {table.busy_pid()} keeps a shard locked; it is stopped or hung: continue or kill it")
    return highest


# What the process tells that keeps the table in step


def note_connected(Table table not None, bint connected):
    """It has a connection to the leader, or lost it. ReadOnlyError."""
    check_writable(table)
    store_relaxed64(&table.view.header.followed_online, connected)


def note_in_step(Table table not None, uint64_t position, uint64_t refused):
    """All that the leader had done up to this position of its feed was just done here, but for so many items that do not fit, since the
    process began. ReadOnlyError."""
    check_writable(table)
    store_relaxed64(&table.view.header.followed_refused, refused)
    store_relaxed64(&table.view.header.followed_position, position)
    store_relaxed64(&table.view.header.followed_ns, clock_ns(CLOCK_BOOTTIME))


def note_copy(Table table not None):
    """A full copy is complete. ReadOnlyError."""
    check_writable(table)
    store_relaxed64(&table.view.header.followed_copies, load_relaxed64(&table.view.header.followed_copies) + 1)


def figures(Table table not None):
    """How the following goes: a dict of int. `follow_lag_ms` is the time since the table was last in step, -1 when it never was; what is
    in step says so once a second."""
    table.check_open()
    in_step_ns = load_relaxed64(&table.view.header.followed_ns)
    return {
        "following": int(table.view.header.follows != 0),
        "follow_connected": load_relaxed64(&table.view.header.followed_online),
        "follow_lag_ms": max(0, (<object> clock_ns(CLOCK_BOOTTIME) - in_step_ns) // 1000000) if in_step_ns else -1,
        "follow_copies": load_relaxed64(&table.view.header.followed_copies),
        "follow_refused": load_relaxed64(&table.view.header.followed_refused),
        "follow_position": load_relaxed64(&table.view.header.followed_position),
    }
