# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""memcached's classic text commands: the arguments of each, and the replies to wrong ones.

Checked against memcached 1.6.18, reply by reply. Known differences, all on purpose: flags above 2^32 are refused, as
later versions do, and so is a value size above 2^31, instead of being taken modulo 2^32; ``cache_memlimit`` is accepted without
effect.
"""

from libc.stdint cimport INT32_MAX, UINT32_MAX, int64_t, uint8_t, uint32_t, uint64_t

from memcache_shm.protocol.commands cimport (
    ANY_NUMBER, KEY_MAX, Command, Line, answer, register, take_data, take_key,
)
from memcache_shm.protocol.request cimport (
    CLOSE, MODE_ADD, MODE_APPEND, MODE_CAS, MODE_PREPEND, MODE_REPLACE, MODE_SET, OP_ARITH, OP_DEBUGTIME, OP_DELETE,
    OP_FLUSH_ALL, OP_GAT, OP_GET, OP_MEMLIMIT, OP_REFRESH, OP_SHUTDOWN, OP_STORE, OP_TOO_LARGE, OP_TOUCH, OP_VERBOSITY,
    OP_VERSION, REQUEST, SWALLOWING, Parser, Request,
)
from memcache_shm.protocol.text cimport is_word, parse_exptime, parse_i64, parse_u64

cdef enum:
    WITH_CAS = 1            # Command.mode of gets and gats
    DECR = 1                # Command.mode of decr

cdef const char *ERROR = b"ERROR\r\n"
cdef const char *BAD_LINE = b"CLIENT_ERROR bad command line format\r\n"
cdef const char *BAD_EXPTIME = b"CLIENT_ERROR invalid exptime argument\r\n"


cdef inline bint _says_noreply(const Line *line) noexcept nogil:
    return line.count > 0 and is_word(&line.args[line.count - 1], b"noreply", 7)


cdef int read_store(Parser *parser, const Command *command, const Line *line, Request *request) noexcept nogil:
    """set add replace append prepend <key> <flags> <exptime> <bytes> [noreply], cas ... <bytes> <cas id> [noreply]"""
    cdef uint64_t flags
    cdef int64_t size
    request.noreply = _says_noreply(line)
    if not take_key(&line.args[0], request):
        return answer(request, BAD_LINE)
    if not (parse_u64(&line.args[1], &flags) and flags <= UINT32_MAX and parse_exptime(&line.args[2], &request.exptime)
            and parse_i64(&line.args[3], &size) and 0 <= size <= INT32_MAX - 2):
        return answer(request, BAD_LINE)
    if command.mode == MODE_CAS and not parse_u64(&line.args[4], &request.number):
        return answer(request, BAD_LINE)
    request.flags = <uint32_t> flags
    request.mode = command.mode
    request.vlen = <size_t> size
    if request.vlen > line.max_value:
        request.op = OP_TOO_LARGE
        parser.mode = SWALLOWING
        parser.swallow = request.vlen + 2
        return REQUEST
    return take_data(line, request)


cdef int read_delete(Parser *parser, const Command *command, const Line *line, Request *request) noexcept nogil:
    """delete <key> [0] [noreply]"""
    cdef bint zero = line.count > 1 and is_word(&line.args[1], b"0", 1)
    request.noreply = line.count > 1 and _says_noreply(line)
    if line.count > 1 + zero + request.noreply:
        return answer(request, b"CLIENT_ERROR bad command line format.  Usage: delete <key> [noreply]\r\n")
    return REQUEST if take_key(&line.args[0], request) else answer(request, BAD_LINE)


cdef int read_arith(Parser *parser, const Command *command, const Line *line, Request *request) noexcept nogil:
    """incr, decr <key> <delta> [noreply]"""
    request.noreply = _says_noreply(line)
    request.decr = command.mode == DECR
    if not take_key(&line.args[0], request):
        return answer(request, BAD_LINE)
    if not parse_u64(&line.args[1], &request.number):
        return answer(request, b"CLIENT_ERROR invalid numeric delta argument\r\n")
    return REQUEST


cdef int read_touch(Parser *parser, const Command *command, const Line *line, Request *request) noexcept nogil:
    """touch <key> <exptime> [noreply]"""
    request.noreply = _says_noreply(line)
    if not take_key(&line.args[0], request):
        return answer(request, BAD_LINE)
    return REQUEST if parse_exptime(&line.args[1], &request.exptime) else answer(request, BAD_EXPTIME)


cdef int read_flush_all(Parser *parser, const Command *command, const Line *line, Request *request) noexcept nogil:
    """flush_all [delay] [noreply]"""
    request.noreply = _says_noreply(line)
    if line.count > request.noreply and not parse_exptime(&line.args[0], &request.exptime):
        return answer(request, BAD_EXPTIME)
    return REQUEST


cdef int read_verbosity(Parser *parser, const Command *command, const Line *line, Request *request) noexcept nogil:
    """verbosity <level> [noreply]"""
    request.noreply = _says_noreply(line)
    return REQUEST if parse_u64(&line.args[0], &request.number) else answer(request, BAD_LINE)


cdef int read_memlimit(Parser *parser, const Command *command, const Line *line, Request *request) noexcept nogil:
    """cache_memlimit <megabytes> [noreply]"""
    request.noreply = _says_noreply(line)
    return REQUEST if parse_u64(&line.args[0], &request.number) else answer(request, ERROR)


cdef int read_debugtime(Parser *parser, const Command *command, const Line *line, Request *request) noexcept nogil:
    """debugtime <seconds>: the table's clock is moved by so many, for tests."""
    return REQUEST if parse_i64(&line.args[0], &request.exptime) else answer(request, ERROR)


cdef int read_rest(Parser *parser, const Command *command, const Line *line, Request *request) noexcept nogil:
    """shutdown [mode]: the words are left to whoever does it."""
    if line.count > 0:
        request.key = line.args[0].at
        request.klen = <uint8_t> min(line.args[line.count - 1].at + line.args[line.count - 1].len - request.key, KEY_MAX)
    return REQUEST


cdef int read_nothing(Parser *parser, const Command *command, const Line *line, Request *request) noexcept nogil:
    """version, refresh_certs: whatever follows is of no interest."""
    return REQUEST


cdef int read_quit(Parser *parser, const Command *command, const Line *line, Request *request) noexcept nogil:
    return CLOSE


register(b"get", ERROR, NULL, OP_GET, 0, 1, ANY_NUMBER)
register(b"bget", ERROR, NULL, OP_GET, 0, 1, ANY_NUMBER)
register(b"gets", ERROR, NULL, OP_GET, WITH_CAS, 1, ANY_NUMBER)
register(b"gat", ERROR, NULL, OP_GAT, 0, 1, ANY_NUMBER)
register(b"gats", ERROR, NULL, OP_GAT, WITH_CAS, 1, ANY_NUMBER)
register(b"set", ERROR, read_store, OP_STORE, MODE_SET, 4, 5)
register(b"add", ERROR, read_store, OP_STORE, MODE_ADD, 4, 5)
register(b"replace", ERROR, read_store, OP_STORE, MODE_REPLACE, 4, 5)
register(b"append", ERROR, read_store, OP_STORE, MODE_APPEND, 4, 5)
register(b"prepend", ERROR, read_store, OP_STORE, MODE_PREPEND, 4, 5)
register(b"cas", ERROR, read_store, OP_STORE, MODE_CAS, 5, 6)
register(b"delete", ERROR, read_delete, OP_DELETE, 0, 1, 3)
register(b"incr", ERROR, read_arith, OP_ARITH, 0, 2, 3)
register(b"decr", ERROR, read_arith, OP_ARITH, DECR, 2, 3)
register(b"touch", ERROR, read_touch, OP_TOUCH, 0, 2, 3)
register(b"flush_all", ERROR, read_flush_all, OP_FLUSH_ALL, 0, 0, 2)
register(b"version", ERROR, read_nothing, OP_VERSION, 0, 0, ANY_NUMBER)
register(b"refresh_certs", ERROR, read_nothing, OP_REFRESH, 0, 0, ANY_NUMBER)
register(b"verbosity", ERROR, read_verbosity, OP_VERBOSITY, 0, 1, 2)
register(b"cache_memlimit", ERROR, read_memlimit, OP_MEMLIMIT, 0, 1, 2)
register(b"debugtime", ERROR, read_debugtime, OP_DEBUGTIME, 0, 1, ANY_NUMBER)
register(b"shutdown", ERROR, read_rest, OP_SHUTDOWN, 0, 0, ANY_NUMBER)
register(b"quit", ERROR, read_quit, 0, 0, 0, ANY_NUMBER)
