# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False, auto_pickle=False
"""Byte buffers that come from a worker's pool and go back to it, so that only busy connections hold any.

Sizes are powers of two. The pool keeps at most KEPT_MAX bytes; what is beyond goes back to the C library. What is handed out at a time
has a limit, so that clients who send or read slowly cannot take a host's memory, however many they are.
"""

from libc.stdint cimport uint64_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcpy, memmove, memset

from memcache_shm.server.buffers cimport CLASSES, KEPT_MAX, SMALLEST_SHIFT, Buffer, FreeBuffer, waiting


cdef inline int _class_of(size_t size) noexcept nogil:
    cdef int number = 0
    while (<size_t> 1 << (SMALLEST_SHIFT + number)) < size:
        number += 1
    return number


cdef class Pool:

    def __init__(self, size_t most):
        memset(self._free, 0, sizeof(self._free))
        self._kept = 0
        self._most = most
        self._used = self._refused = &self._unseen

    cdef void show(self, uint64_t *used, uint64_t *refused) noexcept:
        """Where to keep the figures for others to read. Nothing may be handed out yet: a predecessor's figure is overwritten."""
        self._used = used
        self._refused = refused
        used[0] = 0

    def __dealloc__(self):
        cdef FreeBuffer *head
        cdef int number
        for number in range(CLASSES):
            while self._free[number] != NULL:
                head = self._free[number]
                self._free[number] = head.next
                free(head)

    cdef char *_take(self, size_t size, size_t *cap) noexcept nogil:
        """Memory for at least that many bytes; NULL when there is none."""
        cdef int number = _class_of(size)
        cdef FreeBuffer *head
        cap[0] = <size_t> 1 << (SMALLEST_SHIFT + number)
        if self._used[0] + cap[0] > self._most:
            return NULL
        if number < CLASSES and self._free[number] != NULL:
            head = self._free[number]
            self._free[number] = head.next
            self._kept -= cap[0]
            return <char *> head
        return <char *> malloc(cap[0])

    cdef bint reserve(self, Buffer *buffer, size_t size) noexcept nogil:
        """Room for ``size`` bytes behind ``end``; bytes in use may move. False: out of memory or above the limit, nothing changed."""
        cdef Buffer larger
        if buffer.cap - buffer.end >= size:
            return True
        larger.end = waiting(buffer)
        if buffer.cap - larger.end >= size:
            memmove(buffer.data, buffer.data + buffer.start, larger.end)
            buffer.start = 0
            buffer.end = larger.end
            return True
        larger.start = 0
        larger.data = self._take(larger.end + size, &larger.cap)
        if larger.data == NULL:
            self._refused[0] += 1
            return False
        self._used[0] += larger.cap
        memcpy(larger.data, buffer.data + buffer.start, larger.end)
        self.release(buffer)
        buffer[0] = larger
        return True

    cdef void release(self, Buffer *buffer) noexcept nogil:
        """Give the memory back; the buffer is empty then."""
        cdef int number
        cdef FreeBuffer *head = <FreeBuffer *> buffer.data
        if head == NULL:
            return
        self._used[0] -= buffer.cap
        number = _class_of(buffer.cap)
        if number < CLASSES and self._kept + buffer.cap <= KEPT_MAX:
            head.next = self._free[number]
            self._free[number] = head
            self._kept += buffer.cap
        else:
            free(head)
        memset(buffer, 0, sizeof(Buffer))
