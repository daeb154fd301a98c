# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False, auto_pickle=False
"""Telling the event log and the prefix counts what was done.

A handler that has done something looks at `executor.wanted`, one word; only where it is not 0 does it call one of these. They look again,
for what of it is wanted. Evictions happen inside the table, which calls `saw_eviction` of events.pyx for those of this process.
"""

from libc.stdint cimport int64_t, uint8_t, uint64_t
from libc.string cimport memcpy
from libc.time cimport time

from memcache_shm.protocol.request cimport (
    Request, WATCH_CONNEVENTS, WATCH_DELETIONS, WATCH_FETCHERS, WATCH_MUTATIONS,
)
from memcache_shm.server.connection cimport Connection
from memcache_shm.server.events cimport (
    CONN_CLOSE, CONN_NEW, DETAIL, Event, ITEM_DELETED, ITEM_GET, ITEM_STORE, begin_event, end_event, is_wanted,
)
from memcache_shm.server.executor cimport Executor
from memcache_shm.server.observing cimport GET_FOUND

cdef enum:
    RELATIVE_MAX_S = 60 * 60 * 24 * 30      # a larger exptime is a Unix time


cdef Event *_begin(Executor self, int type, int kind, const char *key, size_t klen) noexcept nogil:
    cdef Event *event = begin_event(&self.log, type, kind)
    event.klen = <uint8_t> klen
    memcpy(event.text, key, klen)
    event.number = self.client.seat.number if self.client != NULL and self.client.seat != NULL else 0
    event.ttl_s = 0
    return event


cdef void saw_get(Executor self, const char *key, size_t klen, int status, uint64_t size) noexcept nogil:
    """A key was asked for; a GetStatus, and the value's bytes where it was found."""
    cdef Event *event
    if is_wanted(&self.log, WATCH_FETCHERS):
        event = _begin(self, ITEM_GET, WATCH_FETCHERS, key, klen)
        event.status = <uint8_t> status
        event.size = size
        end_event(&self.log)
    if is_wanted(&self.log, DETAIL):
        self.prefixes.count(key, klen, 1, status == GET_FOUND, 0, 0)


cdef int64_t _ttl_s(int64_t exptime) noexcept nogil:
    """Seconds an item of that exptime lives, 0 for ever."""
    return exptime - time(NULL) if exptime > RELATIVE_MAX_S else exptime


cdef void saw_store(Executor self, const Request *request, int result, uint64_t size) noexcept nogil:
    """A storage command came to this Result; `request.mode` says which. Its value has so many bytes."""
    cdef Event *event
    if is_wanted(&self.log, WATCH_MUTATIONS):
        event = _begin(self, ITEM_STORE, WATCH_MUTATIONS, request.key, request.klen)
        event.status = <uint8_t> result
        event.command = request.mode
        event.ttl_s = _ttl_s(request.exptime)
        event.size = size
        end_event(&self.log)
    if is_wanted(&self.log, DETAIL):
        self.prefixes.count(request.key, request.klen, 0, 0, 1, 0)


cdef void saw_deletion(Executor self, const char *key, size_t klen, bint found, bint meta) noexcept nogil:
    """A delete (`meta`: an md) found its item, or did not."""
    cdef Event *event
    if found and is_wanted(&self.log, WATCH_DELETIONS):
        event = _begin(self, ITEM_DELETED, WATCH_DELETIONS, key, klen)
        event.command = meta
        event.size = self.table.view.removed_length
        end_event(&self.log)
    if is_wanted(&self.log, DETAIL):
        self.prefixes.count(key, klen, 0, 0, 0, 1)


cdef void saw_connection(Executor self, const Connection *c, bint opened) noexcept nogil:
    """A connection came, or goes for `c.reason`."""
    cdef Event *event
    if c.seat != NULL and is_wanted(&self.log, WATCH_CONNEVENTS):
        event = begin_event(&self.log, CONN_NEW if opened else CONN_CLOSE, WATCH_CONNEVENTS)
        event.number = c.seat.number
        event.port = c.seat.port
        event.family = c.seat.family
        event.status = c.reason
        memcpy(event.text, c.seat.address, sizeof(c.seat.address))
        end_event(&self.log)
