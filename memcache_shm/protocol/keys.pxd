"""The key list of a get line, one key at a time."""

from memcache_shm.protocol.request cimport AT_LINE, Parser, Request

cdef int next_key(Parser *parser, const char *start, const char *end, Request *request) noexcept nogil
cdef bint has_long_key(const char *at, const char *stop) noexcept nogil


cdef inline const char *skip_to_next(Parser *parser, const char *at, const char *end, Request *request) noexcept nogil:
    """Behind a word of a list: step over spaces and, where it is there, the end of the line."""
    cdef const char *newline
    while at < end and at[0] == 32:
        at += 1
    newline = at + 1 if at + 1 < end and at[0] == c'\r' else at
    request.first = parser.first
    parser.first = False
    request.last = newline < end and newline[0] == c'\n'
    if request.last:
        parser.mode = AT_LINE
        return newline + 1
    return at
