# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False, auto_pickle=False
"""Keys and values as the classic protocol writes them. In Cython: these steps would take as long as the rest of a get over a channel."""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_CheckExact, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.stdint cimport uint64_t
from libc.string cimport memcmp

from memcache_shm.client.reading cimport is_legal

from memcache_shm.client import inputs

cdef extern from "Python.h":
    bint PyUnicode_CheckExact(object thing) noexcept
    bint PyUnicode_IS_ASCII(object text) noexcept
    Py_ssize_t PyUnicode_GET_LENGTH(object text) noexcept
    void *PyUnicode_DATA(object text) noexcept

cdef enum:
    DIGITS_MOST = 10            # of flags and of sizes
    TAIL_BYTES = 7              # CRLF END CRLF


def key_word(key, bytes prefix not None, bint allow_unicode_keys):
    """The key's bytes on the wire, `prefix` included. IllegalInputError, TypeError for what is no key at all."""
    cdef bytes word
    if PyUnicode_CheckExact(key) and PyUnicode_IS_ASCII(key) and PyBytes_GET_SIZE(prefix) == 0:
        word = PyBytes_FromStringAndSize(<const char *> PyUnicode_DATA(key), PyUnicode_GET_LENGTH(key))
    elif PyBytes_CheckExact(key) and PyBytes_GET_SIZE(prefix) == 0:
        word = key
    else:
        word = inputs.encode_key(key, allow_unicode_keys, prefix)
    if not is_legal(PyBytes_AS_STRING(word), <size_t> PyBytes_GET_SIZE(word)):
        inputs.refuse_key(word)
    return word


def whole_value(bytes reply not None, bytes key not None):
    """(value, flags, CAS id or b"") in the reply to a request for `key` alone, if it is all there and nothing else; else None."""
    cdef const char *at = PyBytes_AS_STRING(reply)
    cdef const char *end = at + PyBytes_GET_SIZE(reply)
    cdef const char *cas
    cdef Py_ssize_t klen = PyBytes_GET_SIZE(key)
    cdef uint64_t flags, size
    if end - at < 6 + klen + 1 or memcmp(at, b"VALUE ", 6) != 0:
        return None
    if memcmp(at + 6, PyBytes_AS_STRING(key), klen) != 0 or at[6 + klen] != c' ':
        return None
    at += 6 + klen + 1
    if not (_number(&at, end, &flags) and at < end and at[0] == c' '):
        return None
    at += 1
    if not _number(&at, end, &size):
        return None
    cas = at
    if at < end and at[0] == c' ':
        at += 1
        while at < end and c'0' <= at[0] <= c'9':
            at += 1
    if <uint64_t> (end - at) != 2 + size + TAIL_BYTES or memcmp(at, b"\r\n", 2) != 0:
        return None
    if memcmp(end - TAIL_BYTES, b"\r\nEND\r\n", TAIL_BYTES) != 0:
        return None
    return (
        PyBytes_FromStringAndSize(at + 2, <Py_ssize_t> size), flags,
        b"" if at == cas else PyBytes_FromStringAndSize(cas + 1, at - cas - 1),
    )


cdef bint _number(const char **at, const char *end, uint64_t *number) noexcept nogil:
    """The digits at `at`, behind which it is put; whether there are some, and not too many."""
    cdef int digits = 0
    number[0] = 0
    while at[0] < end and c'0' <= at[0][0] <= c'9' and digits <= DIGITS_MOST:
        number[0] = 10 * number[0] + <uint64_t> (at[0][0] - c'0')
        at[0] += 1
        digits += 1
    return 1 <= digits <= DIGITS_MOST
