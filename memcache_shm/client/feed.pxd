"""Listening to an attached table (see feed.pyx); fields of the listener."""

from libc.stdint cimport uint32_t, uint64_t

from memcache_shm.client.reading cimport Reading
from memcache_shm.storage.listening cimport Event, Listener
from memcache_shm.storage.results cimport Found
from memcache_shm.storage.table cimport Table
from memcache_shm.storage.walk cimport Batch, Walk


cdef struct Pattern:
    const char *data            # belongs to `AttachedFeed.encoded`
    size_t size
    bint prefix


cdef class AttachedFeed:
    cdef Reading cache              # where a removed table's successor comes from
    cdef object lock                # held by the thread that polls
    cdef int pid                    # of the process whose lock it is: a forked child has one of its own
    cdef readonly bint closed
    # what it listens to
    cdef tuple encoded              # the patterns, in bytes
    cdef Pattern *patterns
    cdef size_t pattern_count
    cdef size_t prefix_size         # of the cache's key prefix, without which keys are told
    # the place in the feed
    cdef Table table                # None before the beginning
    cdef Listener *listener         # of that table
    cdef bint started               # else its place means nothing
    cdef bint interrupted           # the next thing to tell is LOST, and
    cdef uint64_t told_before       # ... so far it had been told
    cdef Event event                # taken from the feed last, and
    cdef bint pending               # ... not told yet
    cdef bint blocked               # a shard was locked: the same again a little later
    cdef uint64_t renewed_ns        # when it took or renewed the lease (monotonic clock)
    # the copy
    cdef bint copies                # all items are told first, then SYNCED; and ALIVE later on
    cdef bint walking               # a copy is under way,
    cdef Walk walk                  # ... has come so far, from
    cdef Walk mark                  # ... here, where it stood when something was missed last (else the beginning),
    cdef bint wrapped               # ... through the table's end already,
    cdef Batch *batch               # ... with these items (NULL: none yet),
    cdef uint32_t at                # ... of which this one comes next
    cdef uint32_t run               # events told in a row while it waits
    cdef uint64_t *goal             # the shards' heads when it was through, until they are reached; else NULL
    cdef uint64_t alive_ns          # when SYNCED or ALIVE was told last

    cdef int release(self) except -1
    cdef int tidy(self) except -1
    cdef object step(self, bint *again)
    cdef object next_told(self, int *result)
    cdef object tell(self, int *result)
    cdef object tell_present(self, const char *key, size_t klen, uint64_t version, bint touched, int *result)
    cdef bytes name(self, const char *key, size_t klen)
    cdef bytes fetch(self, const char *key, size_t klen, uint64_t version, bint touched, Found *found, int *result)
    cdef object copied(self, int *result)
    cdef object lose(self, uint64_t first, uint64_t last)
    cdef object settled(self)
    cdef int begin(self, int wait) except -1
    cdef int leave(self) except -1
    cdef int own(self) except -1
    cdef int note_goal(self) except -1
    cdef bint reached(self) noexcept nogil
    cdef bint wants(self, const char *key, size_t klen) noexcept nogil
    cdef int seek(self, uint32_t most) noexcept nogil
    cdef int walk_on(self, uint32_t most) noexcept nogil
    cdef bint walked(self) noexcept nogil
    cdef void drop(self) noexcept
    cdef void drop_copy(self) noexcept
