# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""Keys as they stand in dumps and logs: where bytes are written, the caller has reserved the stated room."""

from libc.stdint cimport uint8_t

cdef const char *HEX = b"0123456789ABCDEF"


cdef inline bint _is_plain(uint8_t byte) noexcept nogil:
    """Unreserved in a URL (RFC 3986, 2.3)."""
    if c'a' <= byte <= c'z' or c'A' <= byte <= c'Z' or c'0' <= byte <= c'9':
        return True
    return byte == c'-' or byte == c'.' or byte == c'_' or byte == c'~'


cdef size_t url_encoded(char *dst, const char *source, size_t size) noexcept nogil:
    """All but unreserved bytes as %XX; returns the length, at most three times the size."""
    cdef char *at = dst
    cdef uint8_t byte
    cdef size_t i
    for i in range(size):
        byte = <uint8_t> source[i]
        if _is_plain(byte):
            at[0] = <char> byte
            at += 1
        else:
            at[0] = c'%'
            at[1] = HEX[byte >> 4]
            at[2] = HEX[byte & 15]
            at += 3
    return at - dst


cdef bint is_binary(const char *key, size_t size) noexcept nogil:
    """Whether a text command cannot name the key as it is."""
    cdef size_t i
    for i in range(size):
        if <uint8_t> key[i] <= 32 or key[i] == 127:
            return True
    return False
