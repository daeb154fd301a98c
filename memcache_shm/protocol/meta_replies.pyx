# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""The lines that answer meta commands: a status of two letters, then what the flags asked for, in their order."""

from libc.stdint cimport int64_t, uint64_t
from libc.string cimport strlen

from memcache_shm.protocol.base64 cimport encode_base64
from memcache_shm.protocol.request cimport Request, flag_bit
from memcache_shm.protocol.text cimport format_u64, put_bytes


cdef size_t put_status(char *dst, const char *status) noexcept nogil:
    return put_bytes(dst, status, strlen(status))


cdef size_t put_value_status(char *dst, uint64_t size) noexcept nogil:
    """``VA size``"""
    cdef size_t length = put_bytes(dst, b"VA ", 3)
    return length + format_u64(dst + length, size)


cdef inline size_t _put_number(char *dst, char letter, uint64_t number) noexcept nogil:
    dst[0] = 32
    dst[1] = letter
    return 2 + format_u64(dst + 2, number)


cdef size_t _put_seconds(char *dst, int64_t seconds) noexcept nogil:
    """-1 where there is no end."""
    return put_bytes(dst, b"-1", 2) if seconds < 0 else format_u64(dst, <uint64_t> seconds)


cdef size_t _put_key(char *dst, const Request *request) noexcept nogil:
    """The key as it came."""
    cdef size_t length
    if not request.meta.given & flag_bit(c'b'):
        return put_bytes(dst, request.key, request.klen)
    length = encode_base64(request.key, request.klen, dst)
    return length + put_bytes(dst + length, b" b", 2)


cdef inline int64_t _left_s(char letter, const MetaItem *item, int64_t left_s) noexcept nogil:
    """How long the item has left behind this flag, when it was `left_s` in front of it."""
    if letter == c'T':
        return item.touched_left_s
    if letter == c'N' and item.created:
        return item.birth_left_s
    return left_s


cdef size_t _put_flag(char *dst, char letter, const MetaItem *item, int64_t left_s) noexcept nogil:
    """One figure of the item."""
    if letter == c's':
        return _put_number(dst, letter, item.size)
    if letter == c'c':
        return _put_number(dst, letter, item.cas)
    if letter == c'f':
        return _put_number(dst, letter, item.flags)
    if letter == c'l':
        return _put_number(dst, letter, item.idle_s)
    if letter == c'h':
        return _put_number(dst, letter, item.fetched)
    dst[0] = 32
    dst[1] = c't'
    return 2 + _put_seconds(dst + 2, left_s)


cdef size_t put_flags(char *dst, const Request *request, uint64_t told, const MetaItem *item) noexcept nogil:
    """What the flags ask for of what the command tells (a set of flags); without an item only O and k."""
    cdef const char *at = request.meta.words
    cdef const char *end = at + request.meta.words_size
    cdef const char *word
    cdef char *out = dst
    cdef int64_t left_s = item.left_s if item != NULL else 0
    while at < end:
        while at < end and at[0] == 32:
            at += 1
        word = at
        while at < end and at[0] != 32:
            at += 1
        if word[0] == c'O' or word[0] == c'k':
            out[0] = 32
            out[1] = c'k'
            if word[0] == c'k':
                out += 2 + _put_key(out + 2, request)
            else:
                out += 1 + put_bytes(out + 1, word, at - word)
        elif item != NULL:
            left_s = _left_s(word[0], item, left_s)
            if told & flag_bit(word[0]):
                out += _put_flag(out, word[0], item, left_s)
    return out - dst


cdef size_t put_debug(char *dst, const Request *request, const MetaItem *item, size_t record_bytes) noexcept nogil:
    """``ME key exp=... la=... cas=... fetch=... cls=... size=...``; the class is always 1, since there are none."""
    cdef char *at = dst
    at += put_bytes(at, b"ME ", 3)
    if request.meta.given & flag_bit(c'b'):
        at += encode_base64(request.key, request.klen, at)
    else:
        at += put_bytes(at, request.key, request.klen)
    at += put_status(at, b" exp=")
    at += _put_seconds(at, item.left_s)
    at += put_status(at, b" la=")
    at += format_u64(at, item.idle_s)
    at += put_status(at, b" cas=")
    at += format_u64(at, item.cas)
    at += put_status(at, b" fetch=yes" if item.fetched else b" fetch=no")
    at += put_status(at, b" cls=1 size=")
    at += format_u64(at, record_bytes)
    return at - dst
