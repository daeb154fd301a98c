"""The table of commands: a word, how many arguments it takes, and the function that reads them."""

from libc.stdint cimport uint8_t

from memcache_shm.protocol.request cimport NEED_MORE, REQUEST, Parser, Request
from memcache_shm.protocol.text cimport Token

cdef enum:
    KEY_MAX = 250           # bytes, memcached's limit
    ANY_NUMBER = 255        # as a command's most arguments


cdef struct Line:           # one command line and what has come behind it
    const Token *args       # the words after the command
    int count
    const char *data        # behind the newline
    size_t available        # bytes there are at data
    size_t max_value        # the table's largest value


# Fills the request from the line; Request.used is the line's length on entry. Returns a Step. Never fails otherwise.
ctypedef int (*ReadArguments)(Parser *parser, const Command *command, const Line *line, Request *request) noexcept nogil


cdef struct Command:
    const char *word
    const char *usage       # the reply to a wrong number of arguments
    ReadArguments read      # NULL: a get line, whose keys are read one at a time
    uint8_t size            # of the word
    uint8_t op
    uint8_t mode            # StoreMode, or the command's own small number
    uint8_t least           # arguments
    uint8_t most


cdef int register(bytes word, const char *usage, ReadArguments read, int op, int mode, int least, int most) except -1
cdef const Command *find_command(const char *word, size_t size) noexcept nogil
cdef int answer(Request *request, const char *text) noexcept nogil


cdef inline bint take_key(const Token *token, Request *request) noexcept nogil:
    """False: longer than 250 bytes."""
    request.key = token.at
    request.klen = <uint8_t> token.len
    return token.len <= KEY_MAX


cdef inline int take_data(const Line *line, Request *request) noexcept nogil:
    """The value behind the line, its carriage return and newline."""
    cdef size_t whole = request.used + request.vlen + 2
    if line.available < request.vlen + 2:
        request.used = 0
        request.need = whole
        return NEED_MORE
    request.used = whole
    request.value = line.data
    if line.data[request.vlen] != c'\r' or line.data[request.vlen + 1] != c'\n':
        return answer(request, b"CLIENT_ERROR bad data chunk\r\n")
    return REQUEST
