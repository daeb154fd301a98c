"""What a change of the feed reads like (see news.pyx)."""

from libc.stdint cimport uint64_t

from memcache_shm.server.buffers cimport Buffer, Pool
from memcache_shm.storage.listening cimport Event
from memcache_shm.storage.table cimport Table

cdef enum:                      # beside the table's results
    NO_MEMORY = 100
    NO_THREAD = 101
    TOO_MANY_PATTERNS = 102

cdef int put_change(Table table, Pool pool, Buffer *out, const Event *e, bint with_cas) noexcept nogil
cdef int put_item(Table table, Pool pool, Buffer *out, const char *key, size_t klen, bint with_cas) noexcept nogil
cdef int is_outdated(Table table, const Event *e) noexcept nogil
