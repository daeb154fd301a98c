"""Listening to an attached table (see feed.pyx); fields of the listener."""

from libc.stdint cimport uint32_t, uint64_t

from memcache_shm.client.place cimport Place
from memcache_shm.client.reading cimport Reading
from memcache_shm.storage.results cimport Found


cdef class AttachedFeed(Place):
    cdef Reading cache              # where a removed table's successor comes from
    cdef object lock                # held by the thread that polls
    cdef int pid                    # of the process whose lock it is: a forked child has one of its own
    cdef readonly bint closed
    # the place in the feed
    cdef bint interrupted           # the next thing to tell is LOST, and
    cdef uint64_t told_before       # ... so far it had been told
    cdef bint blocked               # a shard was locked: the same again a little later
    cdef uint64_t renewed_ns        # when it took or renewed the lease (monotonic clock)
    # the copy
    cdef bint copies                # all items are told first, then SYNCED; and ALIVE later on
    cdef bint walking               # a copy is under way
    cdef uint32_t run               # events told in a row while it waits
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
