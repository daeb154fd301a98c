"""The one entry of this layer: what is at the head of these bytes?"""

from memcache_shm.protocol.request cimport Parser, Request

cdef enum:
    LINE_MAX = 2048         # bytes without a newline after which a line counts as too long; get lines may go on
    BINARY_PROTOCOL = 0x80  # a connection's first byte in memcached's binary protocol, which is not spoken here

cdef int next_request(Parser *parser, const char *data, size_t size, size_t max_value, Request *request) noexcept nogil
