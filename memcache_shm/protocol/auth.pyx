# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""memcached's ASCII authentication: a `set` whose value is "user password". Pure, as the parser.

Checked against memcached 1.6.18 and its later versions' sources. The differences: each request before the login gets its reply, also when
several come at once; a word that only begins with `set` is none; the value is bounded by LOGIN_MAX.
"""

from libc.stdint cimport UINT32_MAX, uint8_t, uint64_t
from libc.string cimport memchr, memset

from memcache_shm.protocol.auth cimport LOGIN_MAX
from memcache_shm.protocol.commands cimport answer
from memcache_shm.protocol.parser cimport BINARY_PROTOCOL, LINE_MAX
from memcache_shm.protocol.request cimport CLOSE, NEED_MORE, REQUEST, Parser, Request
from memcache_shm.protocol.text cimport MAX_TOKENS, Token, is_word, parse_u64, tokenize

#: Bytes of "user password" that a login may have.
LOGIN_BYTES_MAX = LOGIN_MAX

cdef enum:
    LEAST_WORDS = 5             # set <key> <flags> <exptime> <bytes>, of which only the last one matters
    SIZE_WORD = 4


cdef int next_login(Parser *parser, const char *data, size_t size, Request *request) noexcept nogil:
    """Look at the head of ``size`` bytes. Returns a Step; REQUEST: somebody says who he is, in ``value``.

    CLOSE comes with a reply where the client is told why.
    """
    cdef const char *newline = <const char *> memchr(data, c'\n', size)
    cdef const char *stop
    cdef Token words[MAX_TOKENS]
    cdef uint64_t length
    cdef int count
    memset(request, 0, sizeof(Request))
    if size > 0 and not parser.started:
        parser.started = True
        if <uint8_t> data[0] == BINARY_PROTOCOL:
            return CLOSE
    stop = newline if newline != NULL else data + size
    if stop - data > LINE_MAX:
        return CLOSE
    if newline == NULL:
        return NEED_MORE
    request.used = newline + 1 - data
    if stop > data and (stop - 1)[0] == c'\r':
        stop -= 1
    count = tokenize(data, stop, words)
    if count < LEAST_WORDS or not is_word(&words[0], b"set", 3) or not parse_u64(&words[SIZE_WORD], &length) or length > UINT32_MAX:
        return answer(request, b"CLIENT_ERROR unauthenticated\r\n")
    if length > LOGIN_MAX:
        answer(request, b"CLIENT_ERROR auth token too long\r\n")
        return CLOSE
    return _take_login(newline + 1, data + size, <size_t> length, request)


cdef int _take_login(const char *at, const char *end, size_t length, Request *request) noexcept nogil:
    """What is behind the line: user, one space, password, carriage return, newline."""
    if <size_t> (end - at) < length + 2:
        request.need = request.used + length + 2
        request.used = 0
        return NEED_MORE
    request.used += length + 2
    request.value = at
    request.vlen = length
    if at[length] != c'\r' or at[length + 1] != c'\n':
        return answer(request, b"CLIENT_ERROR bad command line termination\r\n")
    if memchr(at, 32, length) == NULL:
        return answer(request, b"CLIENT_ERROR bad authentication token format\r\n")
    return REQUEST
