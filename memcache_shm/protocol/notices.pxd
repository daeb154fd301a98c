"""What subscribers and copies are told: where bytes are written, the caller has reserved the stated room."""

from libc.stdint cimport int64_t, uint32_t, uint64_t

cdef enum:
    NOTICE_MAX = 448            # a line with a 250-byte key in base64, the longest figures and CRLF


cdef size_t notice_line(char *dst, const char *kind, const char *key, size_t klen, uint32_t flags, int64_t exptime, size_t vlen,
                        uint64_t cas) noexcept nogil
cdef size_t flush_line(char *dst) noexcept nogil
cdef size_t lost_line(char *dst, uint64_t start, uint64_t end) noexcept nogil
