"""Finding an item and copying it into the replies, for every dialect."""

from memcache_shm.protocol.request cimport Request
from memcache_shm.server.executor cimport Executor
from memcache_shm.storage.results cimport Found

cdef int copy_item(Executor self, const Request *request, size_t extra, Found *found, size_t *header) noexcept nogil
