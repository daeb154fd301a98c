# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False, auto_pickle=False
"""A place in the feed of an attached table and in the walk through its items, for some of its keys: what a poll does without the GIL.

The walk goes round: it begins at a mark, goes on through the table's end, and is over at the mark again.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from libc.stdint cimport uint32_t, uint64_t
from libc.stdlib cimport calloc, free, malloc
from libc.string cimport memcmp, memset

from memcache_shm.client.place cimport AGAIN, Pattern
from memcache_shm.client.reading cimport Reading
from memcache_shm.storage.atomics cimport load_acquire64
from memcache_shm.storage.feed cimport FEED_FLUSH
from memcache_shm.storage.listening cimport next_event
from memcache_shm.storage.results cimport NOT_FOUND, OK, POLL
from memcache_shm.storage.walk cimport Walk, next_batch

from memcache_shm.client.changes import check_patterns, encode_pattern


cdef class Place:
    """Of `cache`'s table; `patterns` are keys, or prefixes with ``*`` at the end (none: all keys). IllegalInputError, MemoryError."""

    def __cinit__(self, Reading cache not None, tuple patterns not None, bint copies=False):
        options = cache.options
        self.encoded = tuple([
            encode_pattern(pattern, options["allow_unicode_keys"], options["key_prefix"]) for pattern in check_patterns(patterns)
        ])
        self.patterns = <Pattern *> calloc(len(self.encoded), sizeof(Pattern))
        if self.patterns == NULL:
            raise MemoryError("no room to listen")
        for pattern in self.encoded:
            self.patterns[self.pattern_count].data = PyBytes_AS_STRING(pattern)
            self.patterns[self.pattern_count].prefix = (<bytes> pattern).endswith(b"*")
            self.patterns[self.pattern_count].size = PyBytes_GET_SIZE(pattern) - self.patterns[self.pattern_count].prefix
            self.pattern_count += 1
        self.prefix_size = len(options["key_prefix"])

    def __dealloc__(self):
        self.drop()
        free(self.patterns)

    cdef int note_goal(self) except -1:
        """How far the shards' feeds go now."""
        cdef uint32_t i
        self.goal = <uint64_t *> malloc(self.listener.shards * sizeof(uint64_t))
        if self.goal == NULL:
            raise MemoryError("no room to listen")
        for i in range(self.listener.shards):
            self.goal[i] = load_acquire64(&self.table.view.shard[i].control.feed_head)
        return 0

    cdef bint reached(self) noexcept nogil:
        cdef uint32_t i
        for i in range(self.listener.shards):
            if self.listener.at[i] < self.goal[i]:
                return False
        return not self.pending

    cdef bint wants(self, const char *key, size_t klen) noexcept nogil:
        cdef Pattern *pattern
        cdef size_t i
        for i in range(self.pattern_count):
            pattern = self.patterns + i
            if (klen >= pattern.size if pattern.prefix else klen == pattern.size) and memcmp(key, pattern.data, pattern.size) == 0:
                return True
        return False

    cdef int seek(self, uint32_t most) noexcept nogil:
        """Go on to the next event that is wanted: OK; NOT_FOUND, AGAIN after so many others, LOST, RETIRED, WOULD_BLOCK, BUSY."""
        cdef uint32_t _n
        cdef int result
        for _n in range(most):
            result = next_event(&self.table.view, self.listener, &self.event, POLL)
            if result != OK or self.event.kind == FEED_FLUSH or self.wants(self.event.key, self.event.klen):
                return result
        return AGAIN

    cdef int walk_on(self, uint32_t most) noexcept nogil:
        """Go on to the next item that is wanted, `at` in the batch: OK; NOT_FOUND at the end, AGAIN after so many buckets, or a failure."""
        cdef uint32_t _n
        cdef int result
        for _n in range(most):
            while self.at < self.batch.n:
                if self.wants(self.batch.item[self.at].key, self.batch.item[self.at].klen):
                    return OK
                self.at += 1
            self.at = 0
            self.batch.n = 0
            if self.walked():
                return NOT_FOUND
            result = next_batch(&self.table.view, &self.walk, self.batch, POLL)
            if result != OK:
                return result
        return AGAIN

    cdef bint walked(self) noexcept nogil:
        """Whether the walk has been all around; behind the table's end it goes on at its beginning."""
        if self.walk.shard >= self.listener.shards and not self.wrapped:
            self.wrapped = True
            memset(&self.walk, 0, sizeof(Walk))
        if not self.wrapped or self.walk.shard < self.mark.shard:
            return False
        return self.walk.shard > self.mark.shard or self.walk.at >= self.mark.at

    cdef void drop(self) noexcept:
        """Without a place from now on."""
        free(self.listener)
        self.listener = NULL
        self.drop_copy()
        self.started = False
        self.pending = False

    cdef void drop_copy(self) noexcept:
        """What only a copy needs."""
        free(self.batch)
        free(self.goal)
        self.batch = NULL
        self.goal = NULL
        self.at = 0
