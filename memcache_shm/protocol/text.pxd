"""Words and numbers of a text line, with memcached's rules for them."""

from libc.stdint cimport int64_t, uint8_t, uint64_t
from libc.string cimport memcpy

cdef enum:
    MAX_TOKENS = 20         # more arguments than any command takes; a line with more has "too many"
    MAX_DECIMAL = 20        # digits of 2^64 - 1


cdef struct Token:
    const char *at
    size_t len


cdef int tokenize(const char *at, const char *end, Token *tokens) noexcept nogil
cdef bint parse_u64(const Token *token, uint64_t *out) noexcept nogil
cdef bint parse_i64(const Token *token, int64_t *out) noexcept nogil
cdef bint parse_exptime(const Token *token, int64_t *out) noexcept nogil
cdef bint parse_digits(const Token *token, uint64_t *out) noexcept nogil
cdef size_t format_u64(char *dst, uint64_t number) noexcept nogil


cdef inline bint is_word(const Token *token, const char *word, size_t size) noexcept nogil:
    """Whether the token is exactly that word."""
    cdef size_t at
    if token.len != size:
        return False
    for at in range(size):
        if token.at[at] != word[at]:
            return False
    return True


cdef inline size_t put_bytes(char *dst, const char *source, size_t size) noexcept nogil:
    """Copy and say how much, so that formatters add up."""
    memcpy(dst, source, size)
    return size


cdef inline bint is_space(uint8_t byte) noexcept nogil:
    """C's isspace in the C locale."""
    return byte == 32 or 9 <= byte <= 13
