# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""Commands about the feed of changes: subscribe, unsubscribe, sync.

A pattern is a key, or the beginning of keys with a `*` behind it; a `*` elsewhere is a character like others. A line may have any number of
them: like the keys of a get line they are read one at a time. No reply goes out before the line's last one, so a bad pattern refuses the
whole line, wherever it was cut.
"""

from memcache_shm.protocol.commands cimport ANY_NUMBER, KEY_MAX, Command, Line, register
from memcache_shm.protocol.keys cimport skip_to_next
from memcache_shm.protocol.request cimport (
    IN_PATTERNS, NEED_MORE, OP_SUBSCRIBE, OP_SYNC, OP_UNSUBSCRIBE, PATTERN_KEY, PATTERN_NONE, PATTERN_PREFIX, PATTERN_TOO_LONG, REQUEST,
    SKIPPING_LINE, Parser, Request,
)

cdef enum:
    MORE_MAX = KEY_MAX + 2      # bytes of a word that may still turn out to be good: a longest prefix, its `*`, a carriage return

cdef const char *ERROR = b"ERROR\r\n"


cdef int next_pattern(Parser *parser, const char *start, const char *end, Request *request) noexcept nogil:
    """Read the next pattern at ``start``, and with the last one the line's end. A Step."""
    cdef const char *word = start
    cdef const char *at
    cdef size_t size
    while word < end and word[0] == 32:
        word += 1
    at = word
    while at < end and at[0] != 32 and at[0] != c'\n':
        at += 1
    request.key = word
    request.op = parser.op
    if at == end and at - word <= MORE_MAX:
        request.used = word - start
        return NEED_MORE
    if at < end and at[0] == c'\n' and at > word and (at - 1)[0] == c'\r':
        at -= 1
    size = at - word
    request.mode = PATTERN_KEY if size else PATTERN_NONE
    if size and word[size - 1] == c'*':
        request.mode = PATTERN_PREFIX
        size -= 1
    if size > KEY_MAX:
        request.mode = PATTERN_TOO_LONG
        request.first = parser.first
        request.last = True
        parser.mode = SKIPPING_LINE
        request.used = at - start
        return REQUEST
    request.klen = <unsigned char> size
    at = skip_to_next(parser, at, end, request)
    request.used = at - start
    return REQUEST


cdef int begin_patterns(Parser *parser, int op, const char *line, const char *args, const char *end, Request *request) noexcept nogil:
    """The first pattern of a line that begins at `line` and whose command ends at `args`. A Step."""
    cdef int step
    parser.mode = IN_PATTERNS
    parser.op = <unsigned char> op
    parser.first = True
    step = next_pattern(parser, args, end, request)
    request.used += args - line
    return step


cdef int read_patterns(Parser *parser, const Command *command, const Line *line, Request *request) noexcept nogil:
    """subscribe <pattern> [...], unsubscribe [<pattern> ...]: a line that is whole. From its first pattern on it is read as any other."""
    if line.count:
        return begin_patterns(parser, command.op, line.data - request.used, line.args[0].at, line.data + line.available, request)
    request.first = request.last = True
    request.mode = PATTERN_NONE
    return REQUEST


cdef int read_sync(Parser *parser, const Command *command, const Line *line, Request *request) noexcept nogil:
    return REQUEST


register(b"subscribe", ERROR, read_patterns, OP_SUBSCRIBE, 0, 0, ANY_NUMBER)
register(b"unsubscribe", ERROR, read_patterns, OP_UNSUBSCRIBE, 0, 0, ANY_NUMBER)
register(b"sync", ERROR, read_sync, OP_SYNC, 0, 0, 0)
