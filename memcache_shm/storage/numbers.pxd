"""Decimal numbers in values, as incr and decr read and write them."""

from libc.stdint cimport uint32_t, uint64_t


cdef inline bint is_space(char c) noexcept nogil:
    return c == 32 or 9 <= c <= 13


cdef inline bint parse_number(const char *text, uint32_t n, uint64_t *out) noexcept nogil:
    """What memcached's `safe_strtoull` accepts: blanks, a sign, digits, then the end, a blank or NUL. False when it is no number."""
    cdef uint32_t i = 0, first
    cdef uint64_t number = 0, digit
    cdef bint minus = False
    while i < n and is_space(text[i]):
        i += 1
    if i < n and (text[i] == 43 or text[i] == 45):
        minus = text[i] == 45
        i += 1
    first = i
    while i < n and 48 <= text[i] <= 57:
        digit = <uint64_t> (text[i] - 48)
        if number > (~<uint64_t> 0 - digit) // 10:
            return False
        number = number * 10 + digit
        i += 1
    if i == first or (i < n and text[i] != 0 and not is_space(text[i])):
        return False
    if minus:
        number = 0 - number
        if number >> 63:
            return False
    out[0] = number
    return True


cdef inline uint32_t format_number(uint64_t number, char *out) noexcept nogil:
    """Decimal digits (at most 20), not terminated; returns how many."""
    cdef char reversed_[20]
    cdef uint32_t n = 0, i
    while True:
        reversed_[n] = <char> (48 + number % 10)
        n += 1
        number //= 10
        if number == 0:
            break
    for i in range(n):
        out[i] = reversed_[n - 1 - i]
    return n
