"""What is done with an item, for every dialect but meta: each has replies of its own."""

from memcache_shm.protocol.request cimport Request
from memcache_shm.server.executor cimport Executor
from memcache_shm.storage.results cimport Found

cdef int copy_item(Executor self, const Request *request, size_t extra, Found *found, size_t *header) noexcept nogil
cdef int store_item(Executor self, const Request *request) noexcept nogil
cdef int delete_item(Executor self, const Request *request) noexcept nogil
