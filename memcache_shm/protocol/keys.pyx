# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""The key list of a get line, one key at a time, so that an endless line needs no memory."""

from memcache_shm.protocol.commands cimport KEY_MAX, answer
from memcache_shm.protocol.keys cimport skip_to_next
from memcache_shm.protocol.request cimport NEED_MORE, REQUEST, SKIPPING_LINE, Parser, Request


cdef int next_key(Parser *parser, const char *start, const char *end, Request *request) noexcept nogil:
    """Read the next key at ``start``, and with the last one the line's end. A Step."""
    cdef const char *key = start
    cdef const char *at
    while key < end and key[0] == 32:
        key += 1
    at = key
    while at < end and at[0] != 32 and at[0] != c'\n':
        at += 1
    request.key = key
    request.op = parser.op
    request.with_cas = parser.with_cas
    request.exptime = parser.exptime
    if at == end and at - key <= KEY_MAX + 1:       # one more: it may turn out to be the carriage return
        request.used = key - start
        return NEED_MORE
    if at < end and at[0] == c'\n' and at > key and (at - 1)[0] == c'\r':
        at -= 1
    if at - key > KEY_MAX:
        return _refuse_line(parser, at - start, request)
    request.klen = <unsigned char> (at - key)
    at = skip_to_next(parser, at, end, request)
    request.used = at - start
    return REQUEST


cdef int _refuse_line(Parser *parser, size_t used, Request *request) noexcept nogil:
    """An over-long key spoils its whole line, as in memcached: values already prepared are taken back.

    (Only a line longer than the input buffer comes here; `has_long_key` sees to the others.)
    """
    parser.mode = SKIPPING_LINE
    request.used = used
    request.unwind = not parser.first
    return answer(request, b"CLIENT_ERROR bad command line format\r\n")


cdef bint has_long_key(const char *at, const char *stop) noexcept nogil:
    """Whether a complete line has a key that `next_key` would refuse; then nothing of the line is answered."""
    cdef const char *key = at
    if stop - at <= KEY_MAX:
        return False
    while at < stop:
        if at[0] == 32:
            key = at + 1
        elif at - key >= KEY_MAX:
            return True
        at += 1
    return False
