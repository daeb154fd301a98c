# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""The simple dialect, in upper case, for telnet and nc: SET, GET, DELETE, QUIT (docs/protocol.md)."""

from libc.stdint cimport uint8_t, uint64_t

from memcache_shm.protocol.commands cimport KEY_MAX, Command, Line, answer, register
from memcache_shm.protocol.request cimport (
    AFTER_DATA, CLOSE, NEED_MORE, OP_SIMPLE_DELETE, OP_SIMPLE_GET, OP_SIMPLE_SET, REQUEST, SWALLOWING, Parser, Request,
)
from memcache_shm.protocol.text cimport Token, parse_digits

cdef const char *INVALID_COMMAND = b"ERR INVALID_COMMAND\r\n"
cdef const char *INVALID_SIZE = b"ERR INVALID_SIZE\r\n"


cdef const char *_name_error(const Token *name) noexcept nogil:
    """NULL: the name is good. A space cannot be in it, since words are split there."""
    cdef size_t at
    cdef uint8_t byte
    if name.len > KEY_MAX:
        return b"ERR NAME_TOO_LONG\r\n"
    for at in range(name.len):
        byte = <uint8_t> name.at[at]
        if byte < 32 or byte == 127:
            return b"ERR BAD_NAME\r\n"
    return NULL


cdef int read_name(Parser *parser, const Command *command, const Line *line, Request *request) noexcept nogil:
    """GET, DELETE <name>"""
    cdef const char *error = _name_error(&line.args[0])
    if error != NULL:
        return answer(request, error)
    request.key = line.args[0].at
    request.klen = <uint8_t> line.args[0].len
    return REQUEST


cdef int read_set(Parser *parser, const Command *command, const Line *line, Request *request) noexcept nogil:
    """SET <name> <size>, then the data and perhaps a newline"""
    cdef const char *error = _name_error(&line.args[0])
    cdef uint64_t size
    if not parse_digits(&line.args[1], &size):
        return answer(request, error if error != NULL else INVALID_SIZE)
    if error == NULL and (size == 0 or size > line.max_value):
        error = INVALID_SIZE
    if error != NULL:
        parser.mode = SWALLOWING
        parser.swallow = size
        parser.newline = True
        return answer(request, error)
    request.key = line.args[0].at
    request.klen = <uint8_t> line.args[0].len
    request.vlen = <size_t> size
    return _take_data(parser, line, request)


cdef inline int _take_data(Parser *parser, const Line *line, Request *request) noexcept nogil:
    """The data behind the line; the newline after it is looked for when more bytes come."""
    cdef size_t whole = request.used + request.vlen
    if line.available < request.vlen:
        request.used = 0
        request.need = whole
        request.at_eof = b"ERR TOO_SMALL\r\n"
        return NEED_MORE
    request.used = whole
    request.value = line.data
    parser.mode = AFTER_DATA
    return REQUEST


cdef int read_quit(Parser *parser, const Command *command, const Line *line, Request *request) noexcept nogil:
    return CLOSE


register(b"SET", INVALID_COMMAND, read_set, OP_SIMPLE_SET, 0, 2, 2)
register(b"GET", INVALID_COMMAND, read_name, OP_SIMPLE_GET, 0, 1, 1)
register(b"DELETE", INVALID_COMMAND, read_name, OP_SIMPLE_DELETE, 0, 1, 1)
register(b"QUIT", INVALID_COMMAND, read_quit, 0, 0, 0, 0)
