"""Keys as they stand in dumps and logs: where bytes are written, the caller has reserved the stated room."""

cdef enum:
    ENCODED_MAX = 3 * 250       # of a key as in a URL

cdef size_t url_encoded(char *dst, const char *source, size_t size) noexcept nogil
cdef bint is_binary(const char *key, size_t size) noexcept nogil
