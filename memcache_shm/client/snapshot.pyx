# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False, auto_pickle=False
"""All live items of an attached table as they were at one instant, in memory of this process.

Writers wait while it is taken, about 0.6 ms a MiB; readers do not. So a table with more than 256 MiB in use is copied shard by shard, each
at an instant of its own.
"""

from libc.stdint cimport uint32_t, uint64_t
from libc.string cimport memset

from memcache_shm.client.reading cimport Reading
from memcache_shm.storage.results cimport NO_SPACE, OK, RETIRED
from memcache_shm.storage.snapshot cimport Copied, copy_shards, room_for
from memcache_shm.storage.table cimport Table

import mmap

from memcache_shm.client.items import unpack as _unpack
from memcache_shm.errors import TableRemovedError

ONE_INSTANT_BYTES = 256 << 20

cdef enum:
    TRIES = 16              # each with twice the room: what the shards count may be wrong in scribbled memory only


cdef class Snapshot:
    """The items of the table of `cache`, which is attached for writing, or those of its shard of that number.

    Iterates over `Item`s; `data` has them packed (see `memcache_shm.client.items`). Raises ReadOnlyError, BusyError, MemoryError,
    ClosedError; TableRemovedError, too, when the table made place for another amid several shards.
    """

    cdef readonly object data           # memoryview: packed items, one after the other
    cdef readonly object items          # how many
    cdef readonly object taken_ns       # the instant, unix time
    cdef readonly object held_ns        # for how long writers had to wait
    cdef readonly object highest_cas    # of these items; those that nobody but a client can have chosen are left out
    cdef readonly bint whole            # all of the table

    def __init__(self, Reading cache not None, shard=None):
        self._take(cache, cache.live(), shard)

    def _take(self, Reading cache, Table table, shard):
        cdef Copied copied
        cdef uint32_t first = 0 if shard is None else shard
        cdef uint32_t end
        cdef bint renewed = shard is not None
        cdef int result = NO_SPACE
        cdef unsigned char[::1] room
        cdef int tries = 0
        if shard is not None and not 0 <= shard < table.view.shards:
            raise ValueError(f"shard {shard} of {table.view.shards}")
        memset(&copied, 0, sizeof(Copied))
        while True:
            end = table.view.shards if shard is None else first + 1
            copied.room = max(room_for(&table.view, first, end), 2 * copied.room if tries else <uint64_t>0)
            room = memory = mmap.mmap(-1, copied.room, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | mmap.MAP_POPULATE)
            copied.data = &room[0]
            with nogil:
                result = copy_shards(&table.view, first, end, &copied)
            if result == OK:
                break
            if result == RETIRED and renewed:
                raise TableRemovedError(f"table {cache.name!r} was removed or made anew while it was copied; begin again")
            tries += result == NO_SPACE
            if result != NO_SPACE or tries == TRIES:
                cache.settle(table, result, &renewed)
                table = cache.live()
        self.data = memoryview(memory)[:copied.size]
        self.items = copied.items
        self.taken_ns = copied.taken_ns
        self.held_ns = copied.held_ns
        self.highest_cas = copied.highest_cas
        self.whole = shard is None or table.view.shards == 1

    @property
    def bytes(self):
        """Of `data`."""
        return len(self.data)

    def __len__(self):
        return self.items

    def __iter__(self):
        return _unpack(self.data)


def snapshots(Reading cache not None):
    """Snapshots that together are the table: one while at most ONE_INSTANT_BYTES are in use, else one a shard, one after the other.
    Raises as `Snapshot`."""
    cdef Table table = cache.current()
    cdef uint32_t shard
    if room_for(&table.view, 0, table.view.shards) <= <uint64_t>ONE_INSTANT_BYTES or table.view.shards == 1:
        yield Snapshot(cache)
        return
    for shard in range(table.view.shards):
        part = Snapshot.__new__(Snapshot)
        part._take(cache, table, shard)
        yield part
