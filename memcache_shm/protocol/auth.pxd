"""What a client may say before it has said who it is."""

from memcache_shm.protocol.request cimport Parser, Request

cdef enum:
    LOGIN_MAX = 512             # bytes of "user password"; what announces more is cut off

cdef int next_login(Parser *parser, const char *data, size_t size, Request *request) noexcept nogil
