"""Reply texts that carry figures: where bytes are written, the caller has reserved the stated room."""

from libc.stdint cimport uint32_t, uint64_t

cdef enum:
    VALUE_HEADER_MAX = 320      # "VALUE ", a 250-byte key, flags, size, CAS id, spaces and CRLF
    NUMBER_LINE_MAX = 64        # a fixed text of at most 40 bytes, a number and CRLF

cdef size_t value_header(char *dst, const char *key, size_t klen, uint32_t flags, size_t vlen,
                         bint with_cas, uint64_t cas) noexcept nogil
cdef size_t number_line(char *dst, const char *text, uint64_t number) noexcept nogil
