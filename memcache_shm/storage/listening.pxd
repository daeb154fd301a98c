"""Listening to the feed of changes (see listening.pyx)."""

from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t

from memcache_shm.storage.layout cimport KEY_MAX
from memcache_shm.storage.view cimport View

cdef enum:
    LEASE_MS = 5000             # how long writers go on after the last renewal
    RENEW_MS = 1000             # how often to renew


cdef struct Event:
    uint64_t number             # its place in its shard's feed; of a LOST: how far this listener had been told, and
    uint64_t next               # ... where it goes on, both summed over all shards
    uint64_t version            # of the record that came or went; of a flush: its deadline
    uint8_t kind                # a feed.Kind
    uint8_t klen
    char key[KEY_MAX]


cdef struct Listener:
    uint64_t era                # of the lease
    uint64_t flushed            # deadline of the last flush that it was told of, or has no need to be
    int64_t shift_ns            # of the table's clock when that deadline was set
    uint64_t seen_ms            # when it saw to what others left, see `see_to_others`
    uint64_t lost_from          # with `lost`: how far it had been told
    bint lost                   # it has missed something and was not told so yet
    uint32_t shards
    uint32_t turn               # the shard that it reads, and
    uint32_t run                # ... how many events of it in a row
    uint64_t at[1]              # a shard: the number of the next event


cdef Listener *new_listener(View *v) noexcept nogil
cdef int start(View *v, Listener *listener, int wait) noexcept nogil
cdef int next_event(View *v, Listener *listener, Event *out, int wait) noexcept nogil
cdef void renew(View *v, Listener *listener) noexcept nogil
cdef uint64_t told(const Listener *listener) noexcept nogil
cdef uint64_t heads(View *v) noexcept nogil
cdef bint sleep_until_news(View *v, uint64_t known, int64_t limit_ns) noexcept nogil
