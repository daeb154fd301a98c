# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""Keys in base64 (RFC 4648), as meta commands may have them.

Read as memcached reads it: characters that do not belong to the alphabet are passed over, and nothing behind padding counts.
"""

from libc.stdint cimport uint8_t, uint32_t

cdef enum:
    NOT_IN_IT = 64          # a byte that is none of the 64 digits
    PADDING = 65

cdef const char *DIGITS = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
cdef uint8_t values[256]    # of a byte as a digit


cdef int _fill_values() except -1:
    cdef int at
    for at in range(256):
        values[at] = NOT_IN_IT
    for at in range(64):
        values[<uint8_t> DIGITS[at]] = <uint8_t> at
    values[c'='] = PADDING
    return 0


cdef size_t decode_base64(const char *text, size_t size, char *dst) noexcept nogil:
    """At most `size` * 3 / 4 bytes at `dst`; how many, or 0 when the text is no whole number of groups of four or encodes nothing."""
    cdef size_t at, digits = 0, length = 0
    cdef uint32_t group = 0, pads = 0
    cdef uint8_t value
    for at in range(size):
        digits += values[<uint8_t> text[at]] != NOT_IN_IT
    if digits % 4:
        return 0
    digits = 0
    for at in range(size):
        value = values[<uint8_t> text[at]]
        if value == NOT_IN_IT:
            continue
        pads += value == PADDING
        group = group << 6 | (value if value < NOT_IN_IT else 0)
        digits += 1
        if digits % 4 == 0:
            dst[length] = <char> (group >> 16 & 0xff)
            dst[length + 1] = <char> (group >> 8 & 0xff)
            dst[length + 2] = <char> (group & 0xff)
            if pads > 2:
                return 0
            length += 3 - pads
            if pads:
                break
    return length


cdef size_t encode_base64(const char *data, size_t size, char *dst) noexcept nogil:
    """Four characters for each three bytes, the last ones padded; how many."""
    cdef const uint8_t *source = <const uint8_t *> data
    cdef size_t at = 0, length = 0
    cdef uint32_t group
    while at < size:
        group = <uint32_t> source[at] << 16
        if at + 1 < size:
            group |= <uint32_t> source[at + 1] << 8
        if at + 2 < size:
            group |= source[at + 2]
        dst[length] = DIGITS[group >> 18]
        dst[length + 1] = DIGITS[group >> 12 & 63]
        dst[length + 2] = DIGITS[group >> 6 & 63] if at + 1 < size else c'='
        dst[length + 3] = DIGITS[group & 63] if at + 2 < size else c'='
        at += 3
        length += 4
    return length


_fill_values()
