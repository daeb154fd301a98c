# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""Words and numbers of a text line, with memcached's rules for them.

Numbers follow memcached's safe_strto*: blanks and a sign in front are allowed, a blank inside a word ends it, and so
"-0" is an unsigned number while "-1" is none.
"""

from libc.stdint cimport INT64_MAX, UINT64_MAX, int32_t, int64_t, uint64_t
from libc.string cimport memcpy

from memcache_shm.protocol.text cimport MAX_DECIMAL, MAX_TOKENS, Token, is_space


cdef int tokenize(const char *at, const char *end, Token *tokens) noexcept nogil:
    """Split at spaces. Returns the number of words, or MAX_TOKENS when there are at least that many."""
    cdef int count = 0
    while count < MAX_TOKENS:
        while at < end and at[0] == 32:
            at += 1
        if at == end:
            break
        tokens[count].at = at
        while at < end and at[0] != 32:
            at += 1
        tokens[count].len = at - tokens[count].at
        count += 1
    return count


cdef bint _magnitude(const Token *token, uint64_t *out, bint *negative) noexcept nogil:
    """strtoull without its sign rule: False for no digits, an overflow, or anything but a blank after the digits."""
    cdef const char *at = token.at
    cdef const char *end = at + token.len
    cdef const char *digits
    cdef uint64_t number = 0
    cdef uint64_t digit
    while at < end and is_space(at[0]):
        at += 1
    negative[0] = at < end and at[0] == c'-'
    if at < end and (at[0] == c'-' or at[0] == c'+'):
        at += 1
    digits = at
    while at < end and c'0' <= at[0] <= c'9':
        digit = at[0] - c'0'
        if number > (UINT64_MAX - digit) // 10:
            return False
        number = number * 10 + digit
        at += 1
    out[0] = number
    return at != digits and (at == end or is_space(at[0]))


cdef bint parse_u64(const Token *token, uint64_t *out) noexcept nogil:
    """An unsigned number; a negative one counts as its two's complement, and passes if that is below 2^63."""
    cdef bint negative
    if not _magnitude(token, out, &negative):
        return False
    if negative:
        out[0] = 0 - out[0]
        return out[0] <= <uint64_t> INT64_MAX
    return True


cdef bint parse_i64(const Token *token, int64_t *out) noexcept nogil:
    """A signed number within 64 bits."""
    cdef bint negative
    cdef uint64_t number
    if not _magnitude(token, &number, &negative):
        return False
    if number > <uint64_t> INT64_MAX + negative:
        return False
    out[0] = <int64_t> (0 - number) if negative else <int64_t> number
    return True


cdef bint parse_exptime(const Token *token, int64_t *out) noexcept nogil:
    """An expiry time: memcached keeps 32 bits of it."""
    cdef bint good = parse_i64(token, out)
    out[0] = <int32_t> out[0]
    return good


cdef bint parse_digits(const Token *token, uint64_t *out) noexcept nogil:
    """The simple dialect's number: decimal digits and nothing else, up to INT64_MAX."""
    cdef bint negative
    if token.len == 0 or not c'0' <= token.at[0] <= c'9':
        return False
    if not _magnitude(token, out, &negative) or out[0] > <uint64_t> INT64_MAX:
        return False
    return c'0' <= token.at[token.len - 1] <= c'9'


cdef size_t format_u64(char *dst, uint64_t number) noexcept nogil:
    """Decimal text without a terminator; returns its length, at most MAX_DECIMAL."""
    cdef char digits[MAX_DECIMAL]
    cdef int at = MAX_DECIMAL
    while True:
        at -= 1
        digits[at] = <char> (c'0' + number % 10)
        number //= 10
        if number == 0:
            break
    memcpy(dst, digits + at, MAX_DECIMAL - at)
    return MAX_DECIMAL - at
