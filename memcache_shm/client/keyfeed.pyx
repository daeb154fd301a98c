# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False, auto_pickle=False
"""Listening to single keys, of any bytes, that are added and taken away while one listens: one place in the feed for many who ask.

What is told is what happened, and to which version of the item; what the key holds is looked at by who is told (`look`). So he can tell a
change that came before he began to listen from a later one: the versions of a key only grow.
"""

import os

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free, malloc
from libc.string cimport memcmp, memcpy, memset

from memcache_shm.client.feed cimport AttachedFeed
from memcache_shm.client.reading cimport Reading
from memcache_shm.storage.atomics cimport load_acquire64
from memcache_shm.storage.feed cimport FEED_FLUSH
from memcache_shm.storage.layout cimport KEY_MAX
from memcache_shm.storage.results cimport NO_COUNT, NO_TRACE, NOT_FOUND, OK, POLL, Found
from memcache_shm.storage.siphash cimport siphash13
from memcache_shm.storage.unixtime cimport exptime_of

from memcache_shm.client.changes import Change as _Change
from memcache_shm.errors import BusyError, IllegalInputError, ReadOnlyError

cdef enum:
    BUCKETS = 65536             # a power of two; the pages of those that are empty cost nothing
    LOOKED_BYTES = 64           # that `look` tells of a value

cdef tuple _KINDS = ("", "set", "touch", "delete", "expire", "evict", "flush")     # by feed.Kind


def listen_to_keys(cache):
    """A KeyFeed of `cache`'s table without any key yet. It has its place in the feed from its first `poll` on. Raises ReadOnlyError."""
    return KeyFeed(cache, ())


cdef class KeyFeed(AttachedFeed):
    """A place in the feed for single keys; made by `listen_to_keys`, for one thread (and others that only `wait`).

    `poll` tells `set`, `touch`, `delete`, `expire`, `evict` with the key and, as `cas`, the record's own version, without a value; `flush`;
    and `lost`, after which nothing is told anew: look at every key. `poll` never waits; `started` is whether it has its place.
    """

    def __cinit__(self, Reading cache not None, tuple patterns not None, bint copies=False):
        cdef bytes secret = os.urandom(16)
        memcpy(&self.hash_key0, <const char *> secret, 8)
        memcpy(&self.hash_key1, <const char *> secret + 8, 8)

    def __init__(self, cache, patterns, copies=False):
        if self.cache.readonly:
            raise ReadOnlyError(f"table {self.cache.name!r} is attached with readonly=True, and who listens has to write that it does")

    def __dealloc__(self):
        cdef Wanted *at
        cdef size_t i
        if self.bucket == NULL:
            return
        for i in range(BUCKETS):
            while self.bucket[i] != NULL:
                at = self.bucket[i]
                self.bucket[i] = at.next
                free(at)
        free(self.bucket)

    @property
    def has_place(self):
        """Whether nothing is missed from now on: it is so from some `poll` on, which has to find each shard unlocked."""
        return self.started

    @property
    def table_uuid(self):
        """Of the table in whose feed it has its place, or had it last; versions are of that one. None before the first `poll`."""
        return None if self.table is None else self.table.uuid

    def add(self, bytes key not None):
        """Tell of `key` from now on; once for all who add it. IllegalInputError for a key that no table has."""
        cdef Wanted *new
        cdef Wanted **at
        cdef size_t klen = PyBytes_GET_SIZE(key)
        if not 1 <= klen <= KEY_MAX:
            raise IllegalInputError(f"a key has 1 to {KEY_MAX} bytes, not {klen}")
        self.lock.acquire()
        try:
            if self.bucket == NULL:
                self.bucket = <Wanted **> calloc(BUCKETS, sizeof(Wanted *))
            if self.bucket == NULL:
                raise MemoryError("no room to listen")
            at = self.find_wanted(PyBytes_AS_STRING(key), klen)
            if at[0] != NULL:
                return
            new = <Wanted *> malloc(sizeof(Wanted) + klen)
            if new == NULL:
                raise MemoryError("no room to listen")
            new.next = NULL
            new.hash = self.hash_of(PyBytes_AS_STRING(key), klen)
            new.klen = <uint8_t> klen
            memcpy(new.key, PyBytes_AS_STRING(key), klen)
            at[0] = new
        finally:
            self.release()

    def discard(self, bytes key not None):
        """Tell of `key` no more."""
        cdef Wanted *old
        cdef Wanted **at
        self.lock.acquire()
        try:
            if self.bucket == NULL:
                return
            at = self.find_wanted(PyBytes_AS_STRING(key), PyBytes_GET_SIZE(key))
            old = at[0]
            if old != NULL:
                at[0] = old.next
                free(old)
        finally:
            self.release()

    def look(self, bytes key not None):
        """What `key` holds now: (the value's first 64 bytes, the record's own version, the version up to which its shard was flushed,
        exptime), None when there is none. BusyError: not now, try again after the next `poll`. No use of the item."""
        self.own()
        self.lock.acquire()
        try:
            return self.seen(key)
        finally:
            self.release()

    # Beneath

    cdef object seen(self, bytes key):
        cdef char head[LOOKED_BYTES]
        cdef Found found
        cdef uint32_t size = 0
        cdef int result = OK
        cdef bint valid = False
        memset(&found, 0, sizeof(Found))
        found.omit = NO_TRACE | NO_COUNT
        while self.started and result == OK and not valid:
            result = self.table.find(&found, PyBytes_AS_STRING(key), PyBytes_GET_SIZE(key), POLL)
            if result == OK:
                size = found.vlen = min(found.vlen, <uint32_t> LOOKED_BYTES)
                self.table.copy(&found, head)
                valid = self.table.confirm(&found)
        if result == NOT_FOUND:
            return None
        if not valid:
            raise BusyError(f"table {self.cache.name!r}: a shard is locked, or it is just made anew")
        return (
            PyBytes_FromStringAndSize(head, size), found.stamp,
            load_acquire64(&self.table.view.shard[found.shard].control.cutoff), exptime_of(found.expiry),
        )

    cdef object tell(self, int *result):
        """The pending event as it is."""
        self.pending = False
        if self.event.kind == FEED_FLUSH:
            return _Change("flush", None)
        return _Change(_KINDS[self.event.kind], self.event.key[:self.event.klen], cas=self.event.version)

    cdef object lose(self, uint64_t first, uint64_t last):
        """LOST, without a copy."""
        self.interrupted = False
        self.pending = False
        return _Change("lost", None, first=first, last=last)

    cdef bint wants(self, const char *key, size_t klen) noexcept nogil:
        return self.bucket != NULL and self.find_wanted(key, klen)[0] != NULL

    cdef uint64_t hash_of(self, const char *key, size_t klen) noexcept nogil:
        return siphash13(self.hash_key0, self.hash_key1, key, klen)

    cdef Wanted **find_wanted(self, const char *key, size_t klen) noexcept nogil:
        """Where the key's entry is linked, or would be."""
        cdef uint64_t hash = self.hash_of(key, klen)
        cdef Wanted **at = &self.bucket[hash & (BUCKETS - 1)]
        while at[0] != NULL and not (at[0].hash == hash and at[0].klen == klen and memcmp(at[0].key, key, klen) == 0):
            at = &at[0].next
        return at
