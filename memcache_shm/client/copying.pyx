# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False, auto_pickle=False
"""Filling a table with items as they are elsewhere: same flags, same expiry, same CAS id.

    copier.begin_copy(); put each item of the source; copier.end_copy()

leaves exactly what the source has, whatever was there before: what is put gets a new version here, so what has an older one at the end has
not come again. In between, and afterwards, `put`, `touch`, `drop` and `flush` bring single changes. The table serves meanwhile.

Outside of a copy what is so already is not done again, and not told by this table's feed: two that follow each other would tell each other
one change for ever. Within a copy everything is written, since the new version says that it came.

The rule for the GIL is that of `reading`.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.stdint cimport int64_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free, malloc
from libc.string cimport memcmp, memcpy, memset

from memcache_shm.client.reading cimport LARGE_BYTES, failure
from memcache_shm.storage.atomics cimport load_relaxed64
from memcache_shm.storage.layout cimport STATE_STALE, STATE_TOKEN_SENT
from memcache_shm.storage.packing cimport PACKED_HEAD, Packed, expiry_of
from memcache_shm.storage.results cimport (
    EXISTS, NO_COUNT, NO_SPACE, NO_TRACE, NOT_FOUND, NOT_NUMBER, OK, TOO_LARGE, TRY, WAIT, WOULD_BLOCK, Change, Found,
)
from memcache_shm.storage.table cimport Table
from memcache_shm.storage.unixtime cimport epoch_ns, expiry_at, exptime_of
from memcache_shm.storage.versions cimport COUNTER_MOST, raise_versions
from memcache_shm.storage.view cimport View, table_ns, ticks
from memcache_shm.storage.walk cimport Batch, Walk, Walked, next_batch

from memcache_shm.errors import ClosedError, IllegalInputError

cdef enum:
    KEY_MAX = 250


cdef inline int _aim(Change *change, bytes key) except -1:
    """An empty change of the key, whatever its bytes are."""
    memset(change, 0, sizeof(Change))
    change.key = PyBytes_AS_STRING(key)
    change.klen = <size_t>PyBytes_GET_SIZE(key)
    if change.klen - 1 >= KEY_MAX:
        raise IllegalInputError(f"a key has 1 to 250 bytes, not {change.klen}")
    return 0


cdef bint _is_there(Table table, const Change *change, int64_t exptime, char *room) noexcept nogil:
    """Whether the table has just the item of the change; False when that cannot be told at once. `room` for its value."""
    cdef Found found
    cdef bint same
    memset(&found, 0, sizeof(Found))
    found.omit = NO_TRACE | NO_COUNT
    if table.find(&found, change.key, change.klen, TRY) != OK:
        return False
    same = (
        found.version == change.foreign and found.flags == change.flags and found.vlen == change.vlen
        and exptime_of(found.expiry) == max(exptime, <int64_t> 0) and not found.state & (STATE_STALE | STATE_TOKEN_SENT)
    )
    if same:
        table.copy(&found, room)
        same = memcmp(room, change.value, change.vlen) == 0
    return table.confirm(&found) and same


cdef int _remove_older(Table table, const uint64_t *since, Batch *batch, uint64_t *removed) noexcept nogil:
    """Remove each item whose version its shard had given out by then. OK or what went wrong."""
    cdef View *v = &table.view
    cdef Walk walk
    cdef Walked *item
    cdef Change change
    cdef uint32_t i
    cdef int r
    memset(&walk, 0, sizeof(Walk))
    while True:
        r = next_batch(v, &walk, batch, WAIT)
        if r != OK:
            return OK if r == NOT_FOUND else r
        for i in range(batch.n):
            item = &batch.item[i]
            if item.version > since[item.version & (v.shards - 1)]:
                continue
            memset(&change, 0, sizeof(Change))
            change.key = item.key
            change.klen = item.klen
            change.compare = item.cas           # this very item: where others write, too, it may be another by now
            change.compares = change.uncounted = True
            r = table.remove(&change, WAIT)
            if r > NOT_FOUND and r != EXISTS:
                return r
            removed[0] += r == OK


cdef int _store_alone(Table table, Change *change) noexcept nogil:
    """The table refused the change, for its size or for want of room beside the older value: that one goes in any case, since it is not
    what the source has; then there may be room. OK, TOO_LARGE, NO_SPACE, or what went wrong."""
    cdef Change removal = change[0]
    cdef int result
    removal.uncounted = True
    result = table.remove(&removal, WAIT)
    return table.store(change, WAIT) if result == OK or result == NOT_FOUND else result


cdef struct Tally:              # what came of a block
    uint64_t stored
    uint64_t refused
    uint64_t expired
    uint64_t endless            # stored, but for ever: the clock does not reach to their expiry
    size_t at                   # of the item that has its turn


cdef bint _unpack(const unsigned char *block, size_t size, size_t at, int64_t epoch, Change *change) noexcept nogil:
    """What stores the item that is packed there, `epoch` being that of unixtime; False: there is none."""
    cdef Packed head
    if size - at < PACKED_HEAD:
        return False
    memcpy(&head, block + at, PACKED_HEAD)
    if head.key_length == 0 or head.key_length > KEY_MAX or head.zero != 0:
        return False
    if PACKED_HEAD + <size_t>head.key_length + head.value_length > size - at:
        return False
    memset(change, 0, sizeof(Change))
    change.key = <const char *>block + at + PACKED_HEAD
    change.klen = head.key_length
    change.value = change.key + head.key_length
    change.vlen = head.value_length
    change.flags = head.flags
    change.expiry = expiry_of(head.expires_ms, epoch)
    change.foreign = head.cas
    change.state = head.state
    return True


cdef inline bint _is_endless(const unsigned char *packed, const Change *change) noexcept nogil:
    """Whether the item had an expiry, and the change has none."""
    cdef Packed head
    if change.expiry != 0:
        return False
    memcpy(&head, packed, PACKED_HEAD)
    return head.expires_ms != 0


cdef int _put_packed(Table table, const unsigned char *block, size_t size, Tally *tally) noexcept nogil:
    """Store the items of a block one after the other. OK; NOT_NUMBER: there is no item at `tally.at`; or what went wrong."""
    cdef int64_t epoch = epoch_ns()
    cdef uint32_t now = ticks(table_ns(&table.view))
    cdef Change change
    cdef int result
    while tally.at < size:
        if not _unpack(block, size, tally.at, epoch, &change):
            return NOT_NUMBER
        if change.expiry != 0 and change.expiry <= now:
            tally.expired += 1
        else:
            result = table.store(&change, WAIT)
            if result == TOO_LARGE or result == NO_SPACE:
                result = _store_alone(table, &change)
            if result == OK:
                tally.stored += 1
                tally.endless += _is_endless(block + tally.at, &change)
            elif result == TOO_LARGE or result == NO_SPACE:
                tally.refused += 1
            else:
                return result
        tally.at += PACKED_HEAD + change.klen + change.vlen
    return OK


cdef int _count_missing(Table table, const unsigned char *block, size_t size, uint64_t *missing) noexcept nogil:
    """Of the items of a block whose time is not over, those whose keys the table does not have. OK, NOT_NUMBER or what went wrong."""
    cdef int64_t epoch = epoch_ns()
    cdef uint32_t now = ticks(table_ns(&table.view))
    cdef size_t at = 0
    cdef Change change
    cdef Found found
    cdef int result
    while at < size:
        if not _unpack(block, size, at, epoch, &change):
            return NOT_NUMBER
        at += PACKED_HEAD + change.klen + change.vlen
        if change.expiry != 0 and change.expiry <= now:
            continue
        memset(&found, 0, sizeof(Found))
        found.omit = NO_TRACE | NO_COUNT
        result = table.find(&found, change.key, change.klen, WAIT)
        if result == NOT_FOUND:
            missing[0] += 1
        elif result != OK:
            return result
        else:
            table.confirm(&found)
    return OK


cdef class Copier:
    """Writes to the table of a cache, through a handle of its own.

    `exempt`: as the one who keeps a table in step that follows another (`storage.following`): only a table that follows can be written to
    by it, and only until that is promoted. Without it, any but such a table.

    Raises as `attach` does; each method raises ReadOnlyError (see `exempt`), TableRemovedError (attach anew: the name's next table needs a
    full copy), BusyError, NoSpaceError for too many writers. For one thread.
    """

    cdef Table table            # ours alone, since `exempt` is said in its view
    cdef str name               # for messages
    cdef uint64_t *since        # a shard: its version when the running copy began; NULL: none runs
    cdef readonly object refused    # items that were not stored for want of room, or too large for the table
    cdef readonly object expired    # packed ones that were over before they came
    cdef readonly object endless    # packed ones whose expiry is beyond the clock's reach: stored for ever

    def __cinit__(self):
        self.since = NULL

    def __init__(self, cache, *, bint exempt=False):
        cdef Table table = cache.attached_table
        self.table = Table.attach(table.shmid, table.semid, table.uuid)
        self.table.view.exempt = exempt
        self.name = cache.name
        self.refused = self.expired = self.endless = 0

    def __dealloc__(self):
        free(self.since)

    def put(self, bytes key not None, bytes value not None, uint32_t flags, int64_t exptime, uint64_t cas):
        """Store an item as it was elsewhere. `exptime` in seconds of unix time, 0 never; `cas` its CAS id, 0 for one of this table's.

        False, and counted in `refused`, when the table cannot take it: then there is no older value left either. IllegalInputError.
        """
        cdef Table table = self.live()
        cdef Change change
        cdef int result = WOULD_BLOCK
        _aim(&change, key)
        change.value = PyBytes_AS_STRING(value)
        change.vlen = <size_t>PyBytes_GET_SIZE(value)
        change.flags = flags
        change.expiry = expiry_at(exptime)
        change.foreign = cas
        if self.since == NULL and cas != 0 and self.is_there(table, &change, exptime):
            return True
        if change.vlen < LARGE_BYTES:
            result = table.store(&change, TRY)
        if result == WOULD_BLOCK:
            with nogil:
                result = table.store(&change, WAIT)
        if result == TOO_LARGE or result == NO_SPACE:
            with nogil:
                result = _store_alone(table, &change)
        if result == OK:
            return True
        if result != TOO_LARGE and result != NO_SPACE:
            raise failure(table, result, self.name)
        self.refused += 1
        return False

    def put_packed(self, const unsigned char[::1] block not None):
        """Store the packed items of `block` (see `memcache_shm.client.items`), each with its expiry to 1/8 s, its CAS id and its marks; how
        many. Those whose time is over are counted in `expired`, those the table cannot take in `refused`: then there is no older value left
        either. An expiry beyond the clock's reach is never, and counted in `endless`. ValueError: what is not an item, after those before
        it were stored."""
        cdef Table table = self.live()
        cdef Tally tally
        cdef int result
        memset(&tally, 0, sizeof(Tally))
        if block.shape[0] == 0:
            return 0
        with nogil:
            result = _put_packed(table, &block[0], <size_t>block.shape[0], &tally)
        self.refused += tally.refused
        self.expired += tally.expired
        self.endless += tally.endless
        if result == NOT_NUMBER:
            raise ValueError(f"no item at {tally.at} of the block")
        self.happened(result)
        return tally.stored

    def missing(self, const unsigned char[::1] block not None):
        """How many of the packed items of `block` are not in the table by their keys, though their time is not over. ValueError: what is
        not an item."""
        cdef Table table = self.live()
        cdef uint64_t missing = 0
        cdef int result
        if block.shape[0] == 0:
            return 0
        with nogil:
            result = _count_missing(table, &block[0], <size_t>block.shape[0], &missing)
        if result == NOT_NUMBER:
            raise ValueError("what is no item in the block")
        self.happened(result)
        return missing

    def raise_versions(self, uint64_t above):
        """From now on the table's own CAS ids are above that one, unless no table can have given it out: then nothing is changed."""
        cdef Table table = self.live()
        cdef int result
        if above > <uint64_t>COUNTER_MOST:
            return
        with nogil:
            result = raise_versions(&table.view, above)
        self.happened(result)

    def touch(self, bytes key not None, int64_t exptime):
        """Let the item expire at `exptime`, as for `put`. False when there is none. IllegalInputError."""
        cdef Table table = self.live()
        cdef Change change
        cdef int result
        cdef uint32_t expiry = expiry_at(exptime)
        _aim(&change, key)
        result = table.touch(change.key, change.klen, expiry, TRY)
        if result == WOULD_BLOCK:
            with nogil:
                result = table.touch(change.key, change.klen, expiry, WAIT)
        return self.happened(result)

    def drop(self, bytes key not None):
        """Remove the item. False when there is none. IllegalInputError."""
        cdef Table table = self.live()
        cdef Change change
        cdef int result
        _aim(&change, key)
        change.uncounted = True
        result = table.remove(&change, TRY)
        if result == WOULD_BLOCK:
            with nogil:
                result = table.remove(&change, WAIT)
        return self.happened(result)

    def flush(self):
        """Remove all items."""
        cdef Table table = self.live()
        cdef int result
        if not table.view.exempt and len(table) == 0 and not table.is_removed():
            return              # where others write, too: see above
        with nogil:
            result = table.flush(0, WAIT)
        self.happened(result)

    def begin_copy(self):
        """All items of the source are about to come. A copy that was begun before and not ended is forgotten."""
        cdef Table table = self.live()
        cdef View *v = &table.view
        cdef uint32_t i
        if self.since == NULL:
            self.since = <uint64_t *>calloc(v.shards, sizeof(uint64_t))
            if self.since == NULL:
                raise MemoryError
        for i in range(v.shards):
            self.since[i] = load_relaxed64(&v.shard[i].control.version)

    def end_copy(self):
        """They have come: remove what was there before `begin_copy` and has not come again; how many. ValueError without one."""
        cdef Table table = self.live()
        cdef uint64_t removed = 0
        cdef int result
        cdef Batch *batch
        if self.since == NULL:
            raise ValueError("end_copy without begin_copy")
        batch = <Batch *>malloc(sizeof(Batch))
        if batch == NULL:
            raise MemoryError
        with nogil:
            result = _remove_older(table, self.since, batch, &removed)
        free(batch)
        self.happened(result)
        free(self.since)
        self.since = NULL
        return removed

    def close(self):
        """Detach; other methods raise ClosedError from then on. Idempotent."""
        if self.table is not None:
            self.table.close()
            self.table = None

    cdef Table live(self):
        if self.table is None:
            raise ClosedError(f"the copier of table {self.name!r} is closed")
        return self.table

    cdef bint is_there(self, Table table, const Change *change, int64_t exptime) except -1:
        cdef bytes room = PyBytes_FromStringAndSize(NULL, <Py_ssize_t>change.vlen)
        cdef char *data = PyBytes_AS_STRING(room)
        cdef bint there
        if change.vlen < LARGE_BYTES:
            return _is_there(table, change, exptime, data)
        with nogil:
            there = _is_there(table, change, exptime, data)
        return there

    cdef bint happened(self, int result) except -1:
        """Whether something was changed. Raises what went wrong."""
        if result != OK and result != NOT_FOUND:
            raise failure(self.table, result, self.name)
        return result == OK
