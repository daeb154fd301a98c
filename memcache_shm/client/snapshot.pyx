# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False, auto_pickle=False
"""All live items of an attached table as they were at one instant, in memory of this process.

Writers wait while it is taken, about 0.1 us an item and 0.2 ms a MiB on an idle host (docs/performance.md); readers do not. So a table with
more than 256 MiB in use is copied shard by shard, each at an instant of its own; but one of a single shard (up to 65,536 elements) is
always copied as a whole.
"""

from cpython.buffer cimport PyBuffer_FillInfo
from libc.stdint cimport uint32_t, uint64_t
from libc.string cimport memset
from posix.mman cimport MAP_ANONYMOUS, MAP_FAILED, MAP_POPULATE, MAP_PRIVATE, PROT_READ, PROT_WRITE, mmap, munmap

from memcache_shm.client.reading cimport Reading
from memcache_shm.storage.results cimport NO_SPACE, OK, RETIRED
from memcache_shm.storage.snapshot cimport Copied, ample_room_for, copy_shards, room_for
from memcache_shm.storage.table cimport Table

from memcache_shm.client.items import unpack as _unpack
from memcache_shm.errors import TableRemovedError

ONE_INSTANT_BYTES = 256 << 20

cdef enum:
    TRIES = 16              # a table may grow faster than room is made; what the shards count is wrong in scribbled memory only
    NO_MEMORY = -2          # beside the table's own results


cdef int _copy(Table table, uint32_t first, uint32_t end, Copied *copied) noexcept nogil:
    """Make room, which nobody waits for, then copy. OK and other results of the table, NO_MEMORY."""
    cdef void *room
    cdef int result = NO_SPACE
    cdef int _try
    for _try in range(TRIES):
        copied.room = max(ample_room_for(&table.view, first, end), copied.room + copied.room // 4)
        room = mmap(NULL, copied.room, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0)
        if room == MAP_FAILED:
            return NO_MEMORY
        copied.data = <unsigned char *>room
        result = copy_shards(&table.view, first, end, copied)
        if result == OK:
            return OK
        munmap(room, copied.room)
        copied.data = NULL
        if result != NO_SPACE:
            break
    return result


cdef class Snapshot:
    """The items of the table of `cache`, which is attached for writing, or those of its shard of that number.

    Iterates over `Item`s; `data` has them packed (see `memcache_shm.client.items`). Raises ReadOnlyError, BusyError, MemoryError,
    ClosedError; TableRemovedError, too, when the table made place for another amid several shards.
    """

    cdef Copied copied
    cdef readonly bint whole            # all of the table

    def __cinit__(self, *args, **options):
        memset(&self.copied, 0, sizeof(Copied))

    def __init__(self, Reading cache not None, shard=None):
        self.take(cache, cache.live(), -1 if shard is None else shard)

    def __dealloc__(self):
        if self.copied.data != NULL:
            munmap(self.copied.data, self.copied.room)

    cdef int take(self, Reading cache, Table table, int shard) except -1:
        """Copy all of `table`, or (from 0 up) one of its shards."""
        cdef uint32_t first, end
        cdef bint renewed = shard >= 0      # another table's shards do not go with those of this one
        cdef int result = RETIRED
        if shard >= <int>table.view.shards:
            raise ValueError(f"there is no shard {shard}: the table has {table.view.shards}")
        while result == RETIRED:
            first = 0 if shard < 0 else <uint32_t>shard
            end = table.view.shards if shard < 0 else first + 1
            with nogil:
                result = _copy(table, first, end, &self.copied)
            if result == NO_MEMORY:
                raise MemoryError(f"no room for a copy of {self.copied.room} bytes of table {cache.name!r}")
            if result == RETIRED and renewed:
                raise TableRemovedError(f"table {cache.name!r} was removed or made anew while it was copied; begin again")
            cache.settle(table, result, &renewed)
            if result == RETIRED:
                table = cache.live()
        self.whole = shard < 0 or table.view.shards == 1
        return 0

    def __getbuffer__(self, Py_buffer *buffer, int flags):
        PyBuffer_FillInfo(buffer, self, self.copied.data, <Py_ssize_t>self.copied.size, 1, flags)

    @property
    def data(self):
        """Its packed items, one after the other: a memoryview of bytes."""
        return memoryview(self)

    @property
    def bytes(self):
        """Of `data`."""
        return self.copied.size

    @property
    def items(self):
        """How many there are."""
        return self.copied.items

    @property
    def taken_ns(self):
        """The instant, unix time."""
        return self.copied.taken_ns

    @property
    def held_ns(self):
        """For how long writers of the last shard had to wait, those of earlier ones for a part of it."""
        return self.copied.held_ns

    @property
    def highest_cas(self):
        """The highest that the table had given out or taken over by then; those that nobody but a client can have chosen are left out."""
        return self.copied.highest_cas

    def __len__(self):
        return self.copied.items

    def __iter__(self):
        return _unpack(self.data)


def snapshots(Reading cache not None):
    """Snapshots that together are the table: one while at most ONE_INSTANT_BYTES are in use, else one a shard, one after the other.
    Raises as `Snapshot`."""
    cdef Table table = cache.current()
    cdef Snapshot part
    cdef uint32_t shard
    if room_for(&table.view, 0, table.view.shards) <= <uint64_t>ONE_INSTANT_BYTES or table.view.shards == 1:
        yield Snapshot(cache)
        return
    for shard in range(table.view.shards):
        part = Snapshot.__new__(Snapshot)
        part.take(cache, table, <int>shard)
        yield part
