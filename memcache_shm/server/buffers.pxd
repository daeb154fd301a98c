"""Byte buffers that come from a worker's pool and go back to it."""

from libc.stdint cimport uint64_t

cdef enum:
    SMALLEST_SHIFT = 9          # 512 bytes
    CLASSES = 14                # up to 4 MiB; larger ones are not kept
    KEPT_MAX = 8 << 20          # bytes a worker's pool keeps in all


cdef struct Buffer:             # bytes start..end of data are in use; all zero is a buffer without memory
    char *data
    size_t start
    size_t end
    size_t cap


cdef struct FreeBuffer:         # lies in the freed memory itself
    FreeBuffer *next


cdef class Pool:
    cdef FreeBuffer *_free[CLASSES]     # by size, powers of two
    cdef size_t _kept                   # bytes in the lists above
    cdef size_t _most                   # bytes to hand out at a time
    cdef uint64_t *_used                # bytes handed out
    cdef uint64_t *_refused             # times that there was no memory
    cdef uint64_t _unseen               # where these figures are until somebody shows them
    cdef void show(self, uint64_t *used, uint64_t *refused) noexcept
    cdef bint reserve(self, Buffer *buffer, size_t size) noexcept nogil
    cdef void release(self, Buffer *buffer) noexcept nogil
    cdef char *_take(self, size_t size, size_t *cap) noexcept nogil


cdef inline size_t waiting(const Buffer *buffer) noexcept nogil:
    """Bytes in use."""
    return buffer.end - buffer.start
