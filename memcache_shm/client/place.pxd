"""A place in the feed of an attached table and in the walk through its items (see place.pyx)."""

from libc.stdint cimport uint32_t, uint64_t

from memcache_shm.storage.listening cimport Event, Listener
from memcache_shm.storage.table cimport Table
from memcache_shm.storage.walk cimport Batch, Walk

cdef enum:
    AGAIN = 100             # beside the table's results: there is more, but this is a good moment for others


cdef struct Pattern:
    const char *data            # belongs to `Place.encoded`
    size_t size
    bint prefix


cdef class Place:
    # what it listens to
    cdef tuple encoded              # the patterns, in bytes
    cdef Pattern *patterns
    cdef size_t pattern_count
    cdef size_t prefix_size         # of the cache's key prefix, without which keys are told
    # the feed
    cdef Table table                # None before the beginning
    cdef Listener *listener         # of that table
    cdef bint started               # else its place means nothing
    cdef Event event                # taken from the feed last, and
    cdef bint pending               # ... not told yet
    # the walk
    cdef Walk walk                  # it has come so far, from
    cdef Walk mark                  # ... here, where it stood when something was missed last (else the beginning),
    cdef bint wrapped               # ... through the table's end already,
    cdef Batch *batch               # ... with these items (NULL: none yet),
    cdef uint32_t at                # ... of which this one comes next
    cdef uint64_t *goal             # the shards' heads when it was through, until they are reached; else NULL

    cdef int note_goal(self) except -1
    cdef bint reached(self) noexcept nogil
    cdef bint wants(self, const char *key, size_t klen) noexcept nogil
    cdef int seek(self, uint32_t most) noexcept nogil
    cdef int walk_on(self, uint32_t most) noexcept nogil
    cdef bint walked(self) noexcept nogil
    cdef void drop(self) noexcept
    cdef void drop_copy(self) noexcept
