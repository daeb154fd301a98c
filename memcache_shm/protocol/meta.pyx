# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""memcached's meta commands: mg ms md ma mn me, a key and flags of one letter, some of which carry a token.

Checked against memcached 1.6.18 and, for what came later, against what 1.6.42 does. Every command takes every flag that exists and passes
over those that mean nothing to it. Differences, on purpose: a mode of more than one letter is refused as 1.6.18 does; client flags above 32
bits are refused; a wrong opaque or mode is refused before anything is done.
"""

from libc.stdint cimport INT32_MAX, UINT32_MAX, int64_t, uint8_t, uint32_t, uint64_t

from memcache_shm.protocol.base64 cimport decode_base64
from memcache_shm.protocol.commands cimport ANY_NUMBER, KEY_MAX, Command, Line, answer, register, take_data, take_key
from memcache_shm.protocol.request cimport (
    MODE_ADD, MODE_APPEND, MODE_CAS, MODE_PREPEND, MODE_REPLACE, MODE_SET, OP_META_ARITH, OP_META_DEBUG, OP_META_DELETE, OP_META_GET,
    OP_META_NOOP, OP_META_SET, OP_TOO_LARGE, REQUEST, SWALLOWING, Meta, Parser, Request, flag_bit,
)
from memcache_shm.protocol.text cimport Token, is_word, parse_exptime, parse_i64, parse_u64

cdef enum:
    WORDS_MAX = 19          # behind the command: memcached counts it in and takes 20
    OPAQUE_MAX = 32         # bytes of the word, its O included

cdef enum Kind:             # what follows a flag's letter
    UNKNOWN = 0
    NOTHING = 1             # whatever follows is not looked at
    EXPTIME = 2
    NUMBER = 3
    CLIENT_FLAGS = 4
    MODE = 5
    OPAQUE = 6
    BASE64 = 7              # nothing; the key is in base64

cdef uint8_t kinds[128]

cdef const char *BAD_LINE = b"CLIENT_ERROR bad command line format\r\n"
cdef const char *BAD_TOKEN = b"CLIENT_ERROR bad token in command line format\r\n"
cdef const char *BAD_INITIAL = b"CLIENT_ERROR invalid numeric initial value\r\n"
cdef const char *BAD_DELTA = b"CLIENT_ERROR invalid numeric delta value\r\n"
cdef const char *BAD_KEY = b"CLIENT_ERROR error decoding key\r\n"
cdef const char *BAD_MODE_LENGTH = b"CLIENT_ERROR incorrect length for M token\r\n"
cdef const char *LONG_OPAQUE = b"CLIENT_ERROR opaque token too long\r\n"
cdef const char *DUPLICATE = b"CLIENT_ERROR duplicate flag\r\n"
cdef const char *INVALID = b"CLIENT_ERROR invalid flag\r\n"
cdef const char *TOO_MANY = b"CLIENT_ERROR options flags are too long\r\n"


cdef inline bint has(const Request *request, char letter) noexcept nogil:
    return request.meta.given & flag_bit(letter) != 0


cdef bint _decode_key(Request *request) noexcept nogil:
    """Take the key from its base64; False when that is none."""
    cdef size_t size = decode_base64(request.key, request.klen, request.meta.decoded)
    request.key = request.meta.decoded
    request.klen = <uint8_t> size
    return size > 0


cdef bint _read_number(Meta *meta, char letter, const Token *token) noexcept nogil:
    if letter == c'C':
        return parse_u64(token, &meta.compare)
    if letter == c'E':
        return parse_u64(token, &meta.explicit_cas)
    if letter == c'D':
        return parse_u64(token, &meta.delta)
    return parse_u64(token, &meta.initial)


cdef bint _read_exptime(Request *request, char letter, const Token *token) noexcept nogil:
    """T, N or R, and which came first: what T sets is what R is compared with, and N's counts unless T's comes later."""
    if letter == c'T':
        request.meta.touches_last = has(request, c'N')
        return parse_exptime(token, &request.exptime)
    if letter == c'N':
        return parse_exptime(token, &request.meta.birth_exptime)
    request.meta.touches_first = has(request, c'T')
    return parse_exptime(token, &request.meta.recache_exptime)


cdef bint _read_client_flags(Request *request, const Token *token) noexcept nogil:
    cdef uint64_t flags = 0
    cdef bint good = parse_u64(token, &flags) and flags <= UINT32_MAX
    request.flags = <uint32_t> flags
    return good


cdef const char *_read_flag(Request *request, char letter, const Token *token) noexcept nogil:
    """What follows a flag's letter. NULL: well read; else the reply."""
    cdef int kind = kinds[<uint8_t> letter]
    if kind == EXPTIME:
        return NULL if _read_exptime(request, letter, token) else BAD_TOKEN
    if kind == NUMBER:
        if _read_number(&request.meta, letter, token):
            return NULL
        return BAD_INITIAL if letter == c'J' else BAD_DELTA if letter == c'D' else BAD_TOKEN
    if kind == CLIENT_FLAGS:
        return NULL if _read_client_flags(request, token) else BAD_LINE
    if kind == MODE:
        request.mode = <uint8_t> token.at[0] if token.len == 1 else 0
        return NULL if token.len == 1 else BAD_MODE_LENGTH
    if kind == OPAQUE:
        return NULL if token.len < OPAQUE_MAX else LONG_OPAQUE
    if kind == BASE64:
        return NULL if _decode_key(request) else BAD_KEY
    return NULL


cdef const char *_read_flags(const Line *line, int first, Request *request) noexcept nogil:
    """All flags, from that word on. NULL: well read; else the reply, as memcached that of the last wrong one, of F only where no other is
    wrong. The mode's letter is left in Request.mode."""
    cdef Meta *meta = &request.meta
    cdef const char *error = NULL
    cdef const char *reply
    cdef Token token
    cdef uint8_t letter
    cdef int at
    meta.given = 0
    meta.delta = 1
    meta.initial = meta.compare = meta.explicit_cas = 0
    meta.touches_first = meta.touches_last = False
    meta.words = line.args[first].at if line.count > first else NULL
    meta.words_size = line.args[line.count - 1].at + line.args[line.count - 1].len - meta.words if line.count > first else 0
    if not take_key(&line.args[0], request):
        return BAD_LINE
    if line.count > WORDS_MAX:
        return TOO_MANY
    for at in range(first, line.count):
        letter = <uint8_t> line.args[at].at[0]
        if letter >= 127:
            return DUPLICATE            # memcached's word for it
        if kinds[letter] == UNKNOWN:
            return INVALID
        if has(request, letter):
            return DUPLICATE
        token.at = line.args[at].at + 1
        token.len = line.args[at].len - 1
        reply = _read_flag(request, letter, &token)
        meta.given |= flag_bit(letter)
        if reply != NULL and (error == NULL or kinds[letter] != CLIENT_FLAGS):
            error = reply
    return error


cdef int read_meta_get(Parser *parser, const Command *command, const Line *line, Request *request) noexcept nogil:
    """mg, md <key> <flags>*"""
    cdef const char *error = _read_flags(line, 1, request)
    return answer(request, error) if error != NULL else REQUEST


cdef int read_meta_arith(Parser *parser, const Command *command, const Line *line, Request *request) noexcept nogil:
    """ma <key> <flags>*"""
    cdef const char *error = _read_flags(line, 1, request)
    if error != NULL and line.args[0].len <= KEY_MAX and line.count <= WORDS_MAX and error != LONG_OPAQUE:
        error = b"CLIENT_ERROR invalid or duplicate flag\r\n"      # memcached has one reply for all wrong flags here
    if error != NULL:
        return answer(request, error)
    request.decr = request.mode == c'D' or request.mode == c'-'
    if request.decr or not has(request, c'M') or request.mode == c'I' or request.mode == c'+':
        return REQUEST
    return answer(request, b"CLIENT_ERROR invalid mode for ma M token\r\n")


cdef bint _take_store_mode(Request *request) noexcept nogil:
    """From the mode's letter to a StoreMode; False when there is none. With a CAS id to compare, set and replace are a cas."""
    cdef uint8_t letter = request.mode
    if letter == 0 or letter == c'S' or letter == c'R':
        request.mode = MODE_CAS if has(request, c'C') else MODE_REPLACE if letter == c'R' else MODE_SET
    elif letter == c'E':
        request.mode = MODE_ADD
    elif letter == c'A' or letter == c'P':
        request.mode = MODE_APPEND if letter == c'A' else MODE_PREPEND
        if has(request, c'N'):
            request.exptime = request.meta.birth_exptime
    else:
        return False
    return True


cdef int read_meta_set(Parser *parser, const Command *command, const Line *line, Request *request) noexcept nogil:
    """ms <key> <bytes> <flags>*, then the data: of a wrong line they are dropped once their size is known"""
    cdef int64_t size
    cdef const char *error
    if not parse_i64(&line.args[1], &size) or not 0 <= size <= INT32_MAX - 2:
        return answer(request, BAD_LINE)
    request.vlen = <size_t> size
    error = _read_flags(line, 2, request)
    if error == NULL and not _take_store_mode(request):
        error = b"CLIENT_ERROR invalid mode for ms M token\r\n"
    if error == NULL and request.vlen <= line.max_value:
        return take_data(line, request)
    parser.mode = SWALLOWING
    parser.swallow = request.vlen + 2
    if error != NULL:
        return answer(request, error)
    request.op = OP_TOO_LARGE
    request.mode = MODE_SET             # whatever the mode, memcached drops the old value
    return REQUEST


cdef int read_meta_debug(Parser *parser, const Command *command, const Line *line, Request *request) noexcept nogil:
    """me <key> [b]"""
    request.meta.given = flag_bit(c'b') if line.count > 1 and is_word(&line.args[1], b"b", 1) else 0
    if not take_key(&line.args[0], request) or (request.meta.given and not _decode_key(request)):
        return answer(request, BAD_LINE)
    return REQUEST


cdef int read_meta_noop(Parser *parser, const Command *command, const Line *line, Request *request) noexcept nogil:
    """mn"""
    return REQUEST


cdef int _know(bytes letters, int kind) except -1:
    for letter in letters:
        kinds[<int> letter] = <uint8_t> kind
    return 0


_know(b"ILPcfhklqstuvx", NOTHING)
_know(b"NRT", EXPTIME)
_know(b"CDEJ", NUMBER)
_know(b"F", CLIENT_FLAGS)
_know(b"M", MODE)
_know(b"O", OPAQUE)
_know(b"b", BASE64)

register(b"mg", BAD_LINE, read_meta_get, OP_META_GET, 0, 1, ANY_NUMBER)
register(b"ms", BAD_LINE, read_meta_set, OP_META_SET, 0, 2, ANY_NUMBER)
register(b"md", BAD_LINE, read_meta_get, OP_META_DELETE, 0, 1, ANY_NUMBER)
register(b"ma", BAD_LINE, read_meta_arith, OP_META_ARITH, 0, 1, ANY_NUMBER)
register(b"mn", BAD_LINE, read_meta_noop, OP_META_NOOP, 0, 0, ANY_NUMBER)
register(b"me", BAD_LINE, read_meta_debug, OP_META_DEBUG, 0, 1, ANY_NUMBER)
