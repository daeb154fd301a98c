# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""The table of commands. Each dialect's module registers its words when it is imported; nothing is added later."""

from libc.stdint cimport uint8_t
from libc.string cimport memcmp, strlen

from memcache_shm.protocol.request cimport REPLY, Request

cdef enum:
    SLOTS = 256             # open addressing, far from full; a power of two

cdef Command table[SLOTS]
cdef int registered = 0


cdef inline unsigned int _slot(const char *word, size_t size) noexcept nogil:
    """Length, first, middle and last byte tell all of memcached's words apart well enough."""
    cdef unsigned int mixed = <uint8_t> word[0] * 31 + <uint8_t> word[size - 1] * 7 + <uint8_t> word[size >> 1] + size * 53
    return mixed & (SLOTS - 1)


cdef int register(bytes word, const char *usage, ReadArguments read, int op, int mode, int least, int most) except -1:
    """Add a command; word and usage are literals, which live as long as their module. Raises ValueError when the word is taken or the
    table is half full."""
    global registered
    cdef Command command
    cdef unsigned int slot
    if registered * 2 >= SLOTS or find_command(word, len(word)) != NULL:
        raise ValueError(f"cannot register the command {word!r}")
    command.word = word
    command.usage = usage
    command.read = read
    command.size = <uint8_t> len(word)
    command.op = <uint8_t> op
    command.mode = <uint8_t> mode
    command.least = <uint8_t> least
    command.most = <uint8_t> most
    slot = _slot(command.word, command.size)
    while table[slot].word != NULL:
        slot = (slot + 1) & (SLOTS - 1)
    table[slot] = command
    registered += 1
    return 0


cdef const Command *find_command(const char *word, size_t size) noexcept nogil:
    """The command of that word, or NULL."""
    cdef unsigned int slot
    if size == 0:
        return NULL
    slot = _slot(word, size)
    while table[slot].word != NULL:
        if table[slot].size == size and memcmp(table[slot].word, word, size) == 0:
            return &table[slot]
        slot = (slot + 1) & (SLOTS - 1)
    return NULL


cdef int answer(Request *request, const char *text) noexcept nogil:
    """The step of a request that is answered by a fixed text, or by silence where it said noreply."""
    request.reply = text
    request.reply_len = 0 if request.noreply else strlen(text)
    return REPLY
