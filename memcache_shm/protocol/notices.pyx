# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""What subscribers and copies are told: where bytes are written, the caller has reserved the stated room."""

from libc.stdint cimport int64_t, uint32_t, uint64_t
from libc.string cimport strlen

from memcache_shm.protocol.base64 cimport encode_base64
from memcache_shm.protocol.encoding cimport is_binary
from memcache_shm.protocol.text cimport format_u64, put_bytes


cdef inline size_t _put_number(char *dst, uint64_t number) noexcept nogil:
    """A blank and the number."""
    dst[0] = 32
    return 1 + format_u64(dst + 1, number)


cdef size_t notice_line(char *dst, const char *kind, const char *key, size_t klen, uint32_t flags, int64_t exptime, size_t vlen,
                        uint64_t cas) noexcept nogil:
    """``NOTIFY kind key flags exptime bytes cas[ b]`` and CRLF, at most NOTICE_MAX bytes; returns the length. `exptime` is a unix time, 0
    for never. A key that the text protocol cannot carry is in base64 and has a ` b` behind it all."""
    cdef char *at = dst
    cdef bint binary = is_binary(key, klen)
    at += put_bytes(at, b"NOTIFY ", 7)
    at += put_bytes(at, kind, strlen(kind))
    at[0] = 32
    at += 1
    at += encode_base64(key, klen, at) if binary else put_bytes(at, key, klen)
    at += _put_number(at, flags)
    at += _put_number(at, <uint64_t> exptime)
    at += _put_number(at, vlen)
    at += _put_number(at, cas)
    if binary:
        at += put_bytes(at, b" b", 2)
    at += put_bytes(at, b"\r\n", 2)
    return at - dst


cdef size_t flush_line(char *dst) noexcept nogil:
    """Everything is gone."""
    return put_bytes(dst, b"NOTIFY flush * 0 0 0 0\r\n", 24)


cdef size_t lost_line(char *dst, uint64_t start, uint64_t end) noexcept nogil:
    """``LOST start end`` and CRLF: what lay between these positions of the feed was not told."""
    cdef char *at = dst
    at += put_bytes(at, b"LOST", 4)
    at += _put_number(at, start)
    at += _put_number(at, end)
    at += put_bytes(at, b"\r\n", 2)
    return at - dst
