"""The lines that answer meta commands: where bytes are written, the caller has reserved META_LINE_MAX."""

from libc.stdint cimport int64_t, uint32_t, uint64_t

from memcache_shm.protocol.request cimport Request, flag_bit

cdef enum:
    META_LINE_MAX = 768     # a 250-byte key (340 in base64), an opaque, figures and CRLF


cdef struct MetaItem:       # what a reply may tell; only what the command returns has to be filled
    uint64_t cas
    uint32_t flags
    uint32_t size           # bytes of the value
    int64_t left_s          # until it expires: before the command, ...
    int64_t touched_left_s  # ... behind T ...
    int64_t birth_left_s    # ... and behind N, where the item was made by the command; -1 never
    uint32_t idle_s         # since it was used
    bint fetched            # it was used
    bint created            # by this command


cdef inline uint64_t flag_bits(const char *letters) noexcept nogil:
    """The set of these flags."""
    cdef uint64_t bits = 0
    while letters[0]:
        bits |= flag_bit(letters[0])
        letters += 1
    return bits


cdef size_t put_status(char *dst, const char *status) noexcept nogil
cdef size_t put_value_status(char *dst, uint64_t size) noexcept nogil
cdef size_t put_flags(char *dst, const Request *request, uint64_t told, const MetaItem *item) noexcept nogil
cdef size_t put_debug(char *dst, const Request *request, const MetaItem *item, size_t record_bytes) noexcept nogil
