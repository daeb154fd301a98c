"""Keys in base64, as meta commands may have them."""

cdef size_t decode_base64(const char *text, size_t size, char *dst) noexcept nogil
cdef size_t encode_base64(const char *data, size_t size, char *dst) noexcept nogil
