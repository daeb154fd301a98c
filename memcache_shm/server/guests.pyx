# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False, auto_pickle=False
"""Clients that have not said who they are, where the daemon asks for that (``-Y``).

A guest can do nothing but log in. It is cut off after REFUSALS_MAX wrong requests or GUEST_BYTES_MAX bytes of them, whatever comes
first, so nobody guesses passwords over one connection or has the worker hold much for him.
"""

import logging

from libc.string cimport strlen

from memcache_shm.protocol.auth cimport next_login
from memcache_shm.protocol.request cimport CLOSE, NEED_MORE, REPLY, Request
from memcache_shm.server.buffers cimport Buffer, waiting
from memcache_shm.server.connection cimport Connection
from memcache_shm.server.executor cimport Executor
from memcache_shm.server.guests cimport GUEST_BYTES_MAX, REFUSALS_MAX

cdef object log = logging.getLogger(__name__)

cdef const char *ADMITTED = b"STORED\r\n"
cdef const char *FAILURE = b"CLIENT_ERROR authentication failure\r\n"


cdef class Guests:

    def __init__(self, Executor executor, admits):
        self.executor = executor
        self.figures = executor.figures
        self.asks = admits is not None
        self.admits = admits

    cdef bint hear(self, Connection *c, Buffer *source) noexcept nogil:
        """One request of a guest, answered. False: there is no further one, or the connection is to be closed."""
        cdef Request request
        cdef int step = next_login(&c.parser, source.data + source.start, waiting(source), &request)
        source.start += request.used
        c.need = request.need
        c.at_eof = NULL
        if step == NEED_MORE:
            return False
        if step == CLOSE or step == REPLY:
            if request.reply_len:
                self.executor.put(request.reply, request.reply_len)
            c.closing = step == CLOSE
            self._refused(c, request.used)
        elif self._admits(&request):
            self.executor.put(ADMITTED, strlen(ADMITTED))
            c.guest = False
        else:
            self.executor.put(FAILURE, strlen(FAILURE))
            self._refused(c, request.used)
        return source.start < source.end and not c.closing and not self.executor.failed

    cdef void _refused(self, Connection *c, size_t size) noexcept nogil:
        c.refusals += 1
        c.guest_bytes += size       # a request is far below what overflows this
        if c.refusals >= REFUSALS_MAX or c.guest_bytes > GUEST_BYTES_MAX:
            c.closing = True

    cdef bint _admits(self, const Request *request) noexcept with gil:
        """A check that fails lets nobody in."""
        cdef bint admitted = False
        try:
            admitted = self.admits(request.value[:request.vlen])
        except Exception:
            log.exception("authentication failed")
        self.figures.auth_cmds += 1
        self.figures.auth_errors += not admitted
        return admitted
