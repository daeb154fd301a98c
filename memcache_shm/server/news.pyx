# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False, auto_pickle=False
"""What a change of the feed reads like: its key's state, read now.

An event says that a key has changed, not what it holds. Where the item is another one by now, or gone, a later event tells of that, and
this one is passed over. But that an item has expired is an event only once somebody finds it, which may be late or never: who finds it here
tells it, and it may be told twice. To be told of is no use of an item: neither its trace nor the counters of gets show it.
"""

from libc.stdint cimport uint64_t
from libc.string cimport memcpy, memset

from memcache_shm.protocol.notices cimport NOTICE_MAX, flush_line, notice_line
from memcache_shm.server.buffers cimport Buffer, Pool
from memcache_shm.server.news cimport NO_MEMORY
from memcache_shm.storage.feed cimport FEED_DELETE, FEED_EXPIRE, FEED_FLUSH, FEED_SET, FEED_TOUCH
from memcache_shm.storage.listening cimport Event
from memcache_shm.storage.results cimport ABSENT, EXPIRED, NO_COUNT, NO_TRACE, NOT_FOUND, OK, TRY, Found
from memcache_shm.storage.table cimport Table
from memcache_shm.storage.unixtime cimport exptime_of


cdef int put_gone(Pool pool, Buffer *out, const char *kind, const char *key, size_t klen, uint64_t cas) noexcept nogil:
    """That an item went. OK, NO_MEMORY."""
    if not pool.reserve(out, NOTICE_MAX):
        return NO_MEMORY
    out.end += notice_line(out.data + out.end, kind, key, klen, 0, 0, 0, cas)
    return OK


cdef int put_present(Table table, Pool pool, Buffer *out, const char *key, size_t klen, int kind, uint64_t version,
                     bint with_cas) noexcept nogil:
    """The item of a key, with its value where `kind` is FEED_SET, if it is of that version (0: of any); that it has expired, if so
    (not with 0). OK; NOT_FOUND: neither; WOULD_BLOCK, RETIRED; NO_MEMORY."""
    cdef Found found
    cdef bint valued = kind == FEED_SET
    cdef bint same
    cdef size_t vlen
    cdef char *at
    cdef int result
    memset(&found, 0, sizeof(Found))
    found.omit = NO_TRACE | NO_COUNT
    while True:
        found.missing = ABSENT
        result = table.find(&found, key, klen, TRY)
        if result == NOT_FOUND and found.missing == EXPIRED and version != 0:
            return put_gone(pool, out, b"expire", key, klen, version if with_cas else 0)
        if result != OK:
            return result
        same = version == 0 or found.stamp == version
        vlen = found.vlen if valued and same else 0
        if not pool.reserve(out, NOTICE_MAX + vlen + 2):
            table.confirm(&found)
            return NO_MEMORY
        at = out.data + out.end
        if same:
            at += notice_line(at, b"set" if valued else b"touch", key, klen, found.flags, exptime_of(found.expiry), vlen,
                              found.version if with_cas else 0)
        if same and valued:
            table.copy(&found, at)
            at += vlen
            memcpy(at, b"\r\n", 2)
            at += 2
        if table.confirm(&found):
            out.end = at - out.data
            return OK if same else NOT_FOUND


cdef int put_item(Table table, Pool pool, Buffer *out, const char *key, size_t klen, bint with_cas) noexcept nogil:
    """A key's item as if it had just been stored, whatever its version. Results as of `put_change`."""
    return put_present(table, pool, out, key, klen, FEED_SET, 0, with_cas)


cdef int put_change(Table table, Pool pool, Buffer *out, const Event *e, bint with_cas) noexcept nogil:
    """A change, behind what is in `out`. OK; NOT_FOUND: it is passed over; WOULD_BLOCK: a lock is taken, the same again later; RETIRED;
    NO_MEMORY."""
    cdef const char *kind
    if e.kind == FEED_SET or e.kind == FEED_TOUCH:
        return put_present(table, pool, out, e.key, e.klen, e.kind, e.version, with_cas)
    if e.kind == FEED_FLUSH:
        if not pool.reserve(out, NOTICE_MAX):
            return NO_MEMORY
        out.end += flush_line(out.data + out.end)
        return OK
    kind = b"delete" if e.kind == FEED_DELETE else b"expire" if e.kind == FEED_EXPIRE else b"evict"
    return put_gone(pool, out, kind, e.key, e.klen, e.version if with_cas else 0)


cdef int is_outdated(Table table, const Event *e) noexcept nogil:
    """Whether the key of an item that went is there again, so that a later event tells of it: OK it is, NOT_FOUND it is not; WOULD_BLOCK,
    RETIRED."""
    cdef Found found
    cdef bint newer
    cdef int result
    memset(&found, 0, sizeof(Found))
    found.omit = NO_TRACE | NO_COUNT
    while True:
        result = table.find(&found, e.key, e.klen, TRY)
        if result != OK:
            return result
        newer = found.stamp > e.version
        if table.confirm(&found):
            return OK if newer else NOT_FOUND
