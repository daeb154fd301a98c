"""The key list of a get line, one key at a time."""

from memcache_shm.protocol.request cimport Parser, Request

cdef int next_key(Parser *parser, const char *start, const char *end, Request *request) noexcept nogil
cdef bint has_long_key(const char *at, const char *stop) noexcept nogil
