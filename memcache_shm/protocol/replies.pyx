# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""Reply texts that carry figures: where bytes are written, the caller has reserved the stated room."""

from libc.stdint cimport uint32_t, uint64_t
from libc.string cimport strlen

from memcache_shm.protocol.text cimport format_u64, put_bytes


cdef size_t value_header(char *dst, const char *key, size_t klen, uint32_t flags, size_t vlen,
                         bint with_cas, uint64_t cas) noexcept nogil:
    """``VALUE key flags bytes[ cas]`` and CRLF, at most VALUE_HEADER_MAX bytes; returns the length."""
    cdef char *at = dst
    at += put_bytes(at, b"VALUE ", 6)
    at += put_bytes(at, key, klen)
    at[0] = 32
    at += 1 + format_u64(at + 1, flags)
    at[0] = 32
    at += 1 + format_u64(at + 1, vlen)
    if with_cas:
        at[0] = 32
        at += 1 + format_u64(at + 1, cas)
    at += put_bytes(at, b"\r\n", 2)
    return at - dst


cdef size_t number_line(char *dst, const char *text, uint64_t number) noexcept nogil:
    """A fixed text, a number and CRLF, at most NUMBER_LINE_MAX bytes; returns the length."""
    cdef char *at = dst
    at += put_bytes(at, text, strlen(text))
    at += format_u64(at, number)
    at += put_bytes(at, b"\r\n", 2)
    return at - dst
