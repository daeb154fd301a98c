"""A thread that rings when the feed has news (see ringer.pyx)."""

from libc.stdint cimport uint32_t

from memcache_shm.storage.view cimport View

cdef enum RopeState:
    SLACK = 0                   # there is no thread
    HELD = 1                    # it runs
    RELEASED = 2                # it ends when it wakes next


cdef struct Rope:               # what worker and thread share
    uint32_t state              # a RopeState; a running thread's way out is to make it SLACK, all else is done by the worker
    int fd                      # readable when it has rung
    View *view                  # of the table whose feed it is; by the worker, while SLACK


cdef class Ringer:
    cdef Rope *_rope
    cdef bint start(self, View *v) noexcept nogil
    cdef void release(self) noexcept nogil
    cdef void stop(self) noexcept nogil
    cdef void answer(self) noexcept nogil
    cdef int fd(self) noexcept nogil
