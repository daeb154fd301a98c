"""Telling a client why it cannot hear of changes."""

from memcache_shm.protocol.request cimport Request
from memcache_shm.server.executor cimport Executor

cdef void say_why(Executor self, const Request *request, int result) noexcept nogil
