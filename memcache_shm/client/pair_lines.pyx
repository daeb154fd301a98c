# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False, auto_pickle=False
"""All pairs of a snapshot as lines for people, sorted by key; without the GIL, since there may be millions."""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from libc.stddef cimport size_t
from libc.stdint cimport uint8_t
from libc.stdlib cimport free, malloc, qsort
from libc.string cimport memcmp, memcpy

from memcache_shm.storage.packing cimport PACKED_HEAD, Packed

cdef enum:
    AROUND_BYTES = 5            # of a line besides key and value: "(", ", ", ")\n"

ctypedef const Packed *Item


cdef inline size_t size_of(Item item) noexcept nogil:
    return PACKED_HEAD + item.key_length + <size_t> item.value_length


cdef inline const char *key_of(Item item) noexcept nogil:
    return <const char *> item + PACKED_HEAD


cdef int compare(const void *left, const void *right) noexcept nogil:
    """By the bytes of the keys; no two are the same."""
    cdef Item a = (<Item *> left)[0]
    cdef Item b = (<Item *> right)[0]
    cdef int order = memcmp(key_of(a), key_of(b), min(a.key_length, b.key_length))
    return order if order != 0 else <int> a.key_length - <int> b.key_length


cdef size_t find_items(const uint8_t *data, size_t size, Item *items, size_t most) noexcept nogil:
    """Fill `items` with the packed ones in `data`; the bytes of their lines."""
    cdef size_t at = 0, n = 0, lines = 0
    while n < most and at < size:
        items[n] = <Item> (data + at)
        lines += AROUND_BYTES + items[n].key_length + <size_t> items[n].value_length
        at += size_of(items[n])
        n += 1
    return lines


cdef char *put(char *at, const char *text, size_t size) noexcept nogil:
    memcpy(at, text, size)
    return at + size


cdef void write_lines(Item *items, size_t n, char *at) noexcept nogil:
    cdef size_t i
    for i in range(n):
        at = put(at, b"(", 1)
        at = put(at, key_of(items[i]), items[i].key_length)
        at = put(at, b", ", 2)
        at = put(at, key_of(items[i]) + items[i].key_length, items[i].value_length)
        at = put(at, b")\n", 2)


def pair_lines(snapshot not None):
    """A line ``(key, value)`` for each item of a `Snapshot`, in the order of the keys' bytes. MemoryError."""
    cdef const uint8_t[::1] data = snapshot.data
    cdef size_t n = snapshot.items, size
    cdef Item *items
    cdef bytes lines
    cdef char *at
    if n == 0:
        return b""
    items = <Item *> malloc(n * sizeof(Item))
    if items == NULL:
        raise MemoryError
    try:
        with nogil:
            size = find_items(&data[0], <size_t> data.shape[0], items, n)
            qsort(items, n, sizeof(Item), compare)
        lines = PyBytes_FromStringAndSize(NULL, <Py_ssize_t> size)
        at = PyBytes_AS_STRING(lines)
        with nogil:
            write_lines(items, n, at)
        return lines
    finally:
        free(items)
