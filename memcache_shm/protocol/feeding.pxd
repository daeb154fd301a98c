"""Commands about the feed of changes: subscribe, unsubscribe, sync."""

from memcache_shm.protocol.request cimport OP_SUBSCRIBE, OP_UNSUBSCRIBE, Parser, Request


cdef inline bint takes_patterns(int op) noexcept nogil:
    """Whether a line of that command is a list that may be longer than other lines."""
    return op == OP_SUBSCRIBE or op == OP_UNSUBSCRIBE


cdef int next_pattern(Parser *parser, const char *start, const char *end, Request *request) noexcept nogil
cdef int begin_patterns(Parser *parser, int op, const char *line, const char *args, const char *end, Request *request) noexcept nogil
