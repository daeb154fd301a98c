"""A channel's end in the client (see channel.pyx)."""

from libc.stdint cimport int64_t, uint32_t, uint64_t

from memcache_shm.storage.patience cimport Patience
from memcache_shm.storage.rings cimport End


cdef class Channel:
    cdef End _end               # all zeros when the memory is gone
    cdef int _bell              # the worker's eventfd, or -1
    cdef int _fd                # the socket's
    cdef object _socket
    cdef object _path
    cdef int _pid               # of the process that connected
    cdef int64_t _timeout_ns    # -1: for ever; 0: calls do not wait
    cdef Patience _patience     # of a wait
    cdef int _waiting           # calls that use the memory without the GIL
    cdef bint _closed
    cdef bint _said_closed      # nothing more is sent
    cdef char *_early           # replies that were taken in while a request waited for room: bytes start..end
    cdef size_t _early_start
    cdef size_t _early_end
    cdef size_t _early_cap

    cdef size_t _send(self, const char *src, size_t size, int64_t limit_ns) except? 0
    cdef int _take_in(self) except -1
    cdef size_t _available(self, size_t wanted) except? 0
    cdef int _take(self, char *dst, size_t size) except -1
    cdef size_t _pull(self, char *dst, size_t size) except? 0
    cdef int64_t _deadline(self) noexcept
    cdef int _wait(self, uint32_t bits, int64_t deadline_ns) except -1
    cdef int _wait_until(self, uint32_t bits, int64_t deadline_ns) except -1
    cdef int _ring(self) noexcept
    cdef int _check_open(self) except -1
    cdef int _check_whole(self) except -1
    cdef void _release(self) noexcept
