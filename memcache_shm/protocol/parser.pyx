# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""Bytes in, one request (or a ready reply) and the number of bytes used out: pure, no socket, no table.

`next_request` keeps between calls only the few words of a `Parser`; bytes of an incomplete request stay with the caller.
A line is cut into words once and handed to the function that its first word names in the table of commands.
"""

from libc.stdint cimport int64_t, uint8_t
from libc.string cimport memchr, memcmp, memset

# Imported for what their import does: each registers its words.
import memcache_shm.protocol.admin  # noqa: F401
import memcache_shm.protocol.classic  # noqa: F401
import memcache_shm.protocol.feeding  # noqa: F401
import memcache_shm.protocol.meta  # noqa: F401
import memcache_shm.protocol.simple  # noqa: F401

from memcache_shm.protocol.commands cimport ANY_NUMBER, Command, Line, answer, find_command
from memcache_shm.protocol.feeding cimport begin_patterns, next_pattern, takes_patterns
from memcache_shm.protocol.keys cimport has_long_key, next_key
from memcache_shm.protocol.parser cimport BINARY_PROTOCOL, LINE_MAX
from memcache_shm.protocol.request cimport (
    AFTER_DATA, AT_LINE, CLOSE, IN_KEYS, IN_PATTERNS, NEED_MORE, OP_GAT, SKIPPING_LINE, SWALLOWING, Meta, Parser, Request,
)
from memcache_shm.protocol.text cimport MAX_TOKENS, Token, parse_exptime, tokenize

cdef const char *BAD_LINE = b"CLIENT_ERROR bad command line format\r\n"
cdef const char *UNKNOWN = b"ERROR\r\n"
cdef const char *SIMPLE_UNKNOWN = b"ERR INVALID_COMMAND\r\n"
cdef const char *TOO_LONG = b"CLIENT_ERROR line too long\r\n"


cdef int next_request(Parser *parser, const char *data, size_t size, size_t max_value, Request *request) noexcept nogil:
    """Look at the head of ``size`` bytes. Fills the request and returns a Step; ``used`` bytes are done with.

    After NEED_MORE nothing changes until more bytes come. All pointers of the request lead into ``data``.
    """
    cdef size_t dropped = 0
    cdef int step
    memset(request, 0, sizeof(Request) - sizeof(Meta))
    while parser.mode > IN_PATTERNS:
        if not _drop(parser, data, size, &dropped):
            request.used = dropped
            return NEED_MORE
    if parser.mode == AT_LINE:
        step = _read_line(parser, data + dropped, data + size, max_value, request)
    elif parser.mode == IN_KEYS:
        step = next_key(parser, data + dropped, data + size, request)
    else:
        step = next_pattern(parser, data + dropped, data + size, request)
    request.used += dropped
    return step


cdef bint _drop(Parser *parser, const char *data, size_t size, size_t *dropped) noexcept nogil:
    """Pass over bytes that nobody wants, from ``dropped`` on. False: more of them are to come."""
    cdef const char *at = data + dropped[0]
    cdef size_t left = size - dropped[0]
    cdef const char *newline
    if parser.mode == SWALLOWING:
        if left < parser.swallow:
            parser.swallow -= left
            dropped[0] = size
            return False
        dropped[0] += parser.swallow
        parser.mode = AFTER_DATA if parser.newline else AT_LINE
        parser.newline = False
        return True
    if parser.mode == SKIPPING_LINE:
        newline = <const char *> memchr(at, c'\n', left)
        dropped[0] = size if newline == NULL else <size_t> (newline + 1 - data)
        if newline != NULL:
            parser.mode = AT_LINE
        return newline != NULL
    return _drop_newline(parser, at, left, dropped)


cdef bint _drop_newline(Parser *parser, const char *at, size_t left, size_t *dropped) noexcept nogil:
    """Behind data of the simple dialect one newline, if there is one, belongs to it. False: it cannot be told yet."""
    if left == 0 or (left == 1 and at[0] == c'\r'):
        return False
    if at[0] == c'\n':
        dropped[0] += 1
    elif at[0] == c'\r' and at[1] == c'\n':
        dropped[0] += 2
    parser.mode = AT_LINE
    return True


cdef int _read_line(Parser *parser, const char *start, const char *end, size_t max_value, Request *request) noexcept nogil:
    """A command line at ``start``, and the value behind it where it is a storage command.

    What a line means does not depend on how its bytes are cut: one above LINE_MAX is too long even when its end is there.
    """
    cdef const char *newline = <const char *> memchr(start, c'\n', end - start)
    cdef const char *word = start
    cdef const char *word_end
    cdef const char *stop
    cdef const Command *command
    cdef bint whole
    if start < end and not parser.started:
        parser.started = True
        if <uint8_t> start[0] == BINARY_PROTOCOL:
            return CLOSE
    if newline == NULL and end - start <= LINE_MAX:
        return NEED_MORE
    stop = newline if newline != NULL else end
    request.used = (newline + 1 if newline != NULL else end) - start
    whole = stop - start <= LINE_MAX
    if newline != NULL and stop > start and (stop - 1)[0] == c'\r':
        stop -= 1
    while word < stop and word[0] == 32:
        word += 1
    word_end = word
    while word_end < stop and word_end[0] != 32:
        word_end += 1
    command = find_command(word, word_end - word)
    if command != NULL and command.read == NULL and word_end - start <= LINE_MAX:
        return _begin_get(parser, command, start, word_end, stop, end, request)
    if not whole and command != NULL and takes_patterns(command.op) and word_end - start <= LINE_MAX:
        return begin_patterns(parser, command.op, start, word_end, end, request)
    if not whole:
        return _refuse_long(parser, newline != NULL, word < stop and c'A' <= word[0] <= c'Z', request)
    if command == NULL:
        return _refuse_unknown(word, stop, request)
    return _read_arguments(parser, command, word_end, stop, newline + 1, end, max_value, request)


cdef inline int _read_arguments(Parser *parser, const Command *command, const char *args, const char *stop, const char *data,
                                const char *end, size_t max_value, Request *request) noexcept nogil:
    """The words after a command, counted, then read by the command's own function."""
    cdef Token tokens[MAX_TOKENS]
    cdef Line line
    line.args = tokens
    line.count = tokenize(args, stop, tokens)
    if line.count < command.least or (line.count > command.most and command.most != ANY_NUMBER):
        return CLOSE if _is_http(tokens, line.count) else answer(request, command.usage)
    line.data = data
    line.available = end - data
    line.max_value = max_value
    request.op = command.op
    return command.read(parser, command, &line, request)


cdef int _begin_get(Parser *parser, const Command *command, const char *start, const char *args, const char *stop,
                    const char *end, Request *request) noexcept nogil:
    """get and its kin: from here on keys are read one at a time, whether the line is complete or not."""
    cdef int step
    cdef bint good = True
    cdef const char *first
    cdef const char *at = args
    while at < stop and at[0] == 32:
        at += 1
    first = at
    parser.exptime = 0
    if command.op == OP_GAT:
        good = _read_exptime(&at, stop, &parser.exptime)
    if at - start > LINE_MAX:
        return _refuse_long(parser, stop < end, False, request)
    if first == stop:
        return answer(request, command.usage)
    if not good:
        parser.mode = AT_LINE if stop < end else SKIPPING_LINE
        return answer(request, b"CLIENT_ERROR invalid exptime argument\r\n")
    if stop < end and has_long_key(at, stop):
        return answer(request, BAD_LINE)
    parser.mode = IN_KEYS
    parser.op = command.op
    parser.with_cas = command.mode != 0
    parser.first = True
    step = next_key(parser, at, end, request)
    request.used += at - start
    return step


cdef bint _read_exptime(const char **at, const char *stop, int64_t *exptime) noexcept nogil:
    """The word of a gat line that is no key; `at` moves behind it. False: no number."""
    cdef Token token
    token.at = at[0]
    while at[0] < stop and at[0][0] != 32:
        at[0] += 1
    token.len = at[0] - token.at
    return parse_exptime(&token, exptime)


cdef int _refuse_unknown(const char *word, const char *stop, Request *request) noexcept nogil:
    cdef Token tokens[MAX_TOKENS]
    cdef int count = tokenize(word, stop, tokens)
    if _is_http(tokens, count):
        return CLOSE
    return answer(request, SIMPLE_UNKNOWN if word < stop and c'A' <= word[0] <= c'Z' else UNKNOWN)


cdef int _refuse_long(Parser *parser, bint ended, bint simple, Request *request) noexcept nogil:
    """A line above LINE_MAX; what is still to come of it is dropped."""
    if not ended:
        parser.mode = SKIPPING_LINE
    return answer(request, SIMPLE_UNKNOWN if simple else TOO_LONG)


cdef inline bint _is_http(const Token *tokens, int count) noexcept nogil:
    """A web client (or a page that abuses one): its headers would read as commands, so memcached closes too."""
    return count > 0 and tokens[count - 1].len >= 5 and memcmp(tokens[count - 1].at, b"HTTP/", 5) == 0
