"""Telling a subscriber everything that is there."""

from memcache_shm.protocol.request cimport Request
from memcache_shm.server.executor cimport Executor

cdef void retell(Executor self, const Request *request) noexcept nogil
