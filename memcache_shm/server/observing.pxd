"""Telling the event log and the prefix counts what was done (see observing.pyx)."""

from libc.stdint cimport uint64_t

from memcache_shm.protocol.request cimport Request
from memcache_shm.server.connection cimport Connection
from memcache_shm.server.executor cimport Executor
from memcache_shm.storage.results cimport EXPIRED, FLUSHED, Found


cdef enum GetStatus:            # in memcached's order
    GET_NOT_FOUND = 0
    GET_FOUND = 1
    GET_WAS_FLUSHED = 2
    GET_WAS_EXPIRED = 3


cdef inline int missing_status(const Found *found) noexcept nogil:
    """The GetStatus of a `find` that came to NOT_FOUND."""
    return GET_WAS_FLUSHED if found.missing == FLUSHED else GET_WAS_EXPIRED if found.missing == EXPIRED else GET_NOT_FOUND


# Call these only where `executor.wanted[0]` is not 0.
cdef void saw_get(Executor self, const char *key, size_t klen, int status, uint64_t size) noexcept nogil
cdef void saw_store(Executor self, const Request *request, int result, uint64_t size) noexcept nogil
cdef void saw_deletion(Executor self, const char *key, size_t klen, bint found, bint meta) noexcept nogil
cdef void saw_connection(Executor self, const Connection *c, bint opened) noexcept nogil
