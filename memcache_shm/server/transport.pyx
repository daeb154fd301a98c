# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False, auto_pickle=False
"""The seam between connections and sockets: recv and send, in plain text, through a TLS layer, or through rings in their place.

Plain connections make the system call and nothing else, and `channels` looks after those with rings. The others have a `TlsStream`, from
their first byte on, so that one who only connects costs nothing. What goes wrong in there breaks that connection: no exception gets out,
since the loop has no place for one.
"""

import logging

from cpython.ref cimport Py_DECREF, Py_INCREF
from libc.errno cimport EAGAIN, EINTR, EPROTO, errno
from libc.string cimport memset

from memcache_shm.server.connection cimport Connection
from memcache_shm.server.executor cimport Executor
from memcache_shm.server.linux cimport MSG_DONTWAIT, MSG_NOSIGNAL, recv, send
from memcache_shm.server.tlsstream cimport TlsStream
from memcache_shm.server.transport cimport CIPHER_SIZE, SEND_SIZE

cdef enum:
    BROKEN = -1                 # instead of a number of bytes
    NOT_NOW = -2

cdef object log = logging.getLogger(__name__)


cdef inline ssize_t _as_call(ssize_t result) noexcept nogil:
    """A number of bytes, or -1 with errno set as a system call does."""
    if result >= 0:
        return result
    (&errno)[0] = EAGAIN if result == NOT_NOW else EPROTO
    return -1


cdef class Transport:

    def __init__(self, Executor executor, credentials, tls):
        self.figures = executor.figures
        self.channels = executor.channels
        self.credentials = credentials
        memset(self.speaks_tls, 0, sizeof(self.speaks_tls))
        for place, speaks in enumerate(tls):
            self.speaks_tls[place] = bool(speaks)

    cdef ssize_t receive_tls(self, Connection *c, char *dst, size_t size) noexcept nogil:
        """What came already, else what one or a few recvs bring."""
        cdef ssize_t got = NOT_NOW
        cdef ssize_t came = 0
        cdef size_t total = 0
        if c.unread:
            return _as_call(self._decrypt(c, 0, dst, size))
        while True:
            came = recv(c.fd, self.cipher, CIPHER_SIZE, MSG_DONTWAIT)
            if came <= 0:
                return <ssize_t> total if total else came
            got = self._decrypt(c, came, dst + total, size - total)
            if got > 0:
                total += got
            elif got == 0:
                c.unread = total > 0    # the end is for the next call
            if got == BROKEN or got == 0 or came < CIPHER_SIZE or c.unread or c.lagging or total == size:
                break
        return <ssize_t> total if total else _as_call(got)

    cdef ssize_t transmit_tls(self, Connection *c, const char *src, size_t size) noexcept nogil:
        return _as_call(self._encrypt(c, src, size))

    cdef ssize_t _decrypt(self, Connection *c, size_t came, char *dst, size_t size) noexcept with gil:
        """Bytes for `dst`, 0 at the end, NOT_NOW or BROKEN."""
        try:
            return self._decrypt_or_raise(c, came, dst, size)
        except Exception as error:
            return self._give_up(c, error)

    cdef ssize_t _decrypt_or_raise(self, Connection *c, size_t came, char *dst, size_t size) except? -3:
        cdef TlsStream stream
        cdef ssize_t got
        cdef bint was_established
        if c.stream == NULL:
            stream = TlsStream(self.credentials.context)
            Py_INCREF(stream)           # the connection's reference, until end_tls
            c.stream = <void *> stream
        stream = <TlsStream> c.stream
        if stream.broken:
            return BROKEN
        was_established = stream.established
        if came:
            stream.feed(self.cipher, came)
        if stream.established and not was_established:
            self.figures.tls_sessions += not stream.resumed
        got = stream.read(dst, size)
        c.unread = stream.has_unread() if got else False
        if not self._flush(c, stream):
            return BROKEN
        if got:
            return got
        return 0 if stream.ended else NOT_NOW

    cdef ssize_t _encrypt(self, Connection *c, const char *src, size_t size) noexcept with gil:
        """How many bytes were taken, also none while older ones wait, or BROKEN."""
        try:
            return self._encrypt_or_raise(c, src, size)
        except Exception as error:
            return self._give_up(c, error)

    cdef ssize_t _encrypt_or_raise(self, Connection *c, const char *src, size_t size) except? -3:
        cdef TlsStream stream
        cdef size_t taken = 0
        if c.stream == NULL:
            return BROKEN               # no byte has come, so nothing can be told to anybody
        stream = <TlsStream> c.stream
        if stream.broken or not self._flush(c, stream):
            return BROKEN
        if not stream.established:      # the handshake's answer is all that may wait
            return 0 if size == 0 else BROKEN
        while taken < size and not c.lagging:
            taken += stream.write(src + taken, size - taken)
            if taken == size and c.closing:
                stream.say_goodbye()    # now, so that it waits for the client with the rest
            if (taken == size or len(stream.output) >= SEND_SIZE) and not self._flush(c, stream):
                return BROKEN
        return <ssize_t> taken

    cdef int _flush(self, Connection *c, TlsStream stream) except -2:
        """Send the ciphertext that waits; `lagging`: some of it goes on waiting. False: the connection is broken."""
        cdef const char *data
        cdef ssize_t taken
        c.lagging = False
        if stream.output is None:
            return True
        data = stream.output
        taken = send(c.fd, data + stream.sent, len(stream.output) - stream.sent, MSG_NOSIGNAL | MSG_DONTWAIT)
        if taken < 0 and errno != EAGAIN and errno != EINTR:
            return False
        stream.sent += max(taken, 0)
        if stream.sent == len(stream.output):
            stream.output = None
        else:
            c.lagging = True
        return True

    cdef ssize_t _give_up(self, Connection *c, object error):
        """Count it where it ended a handshake, and send the alert that TLS has for it, if the socket takes it at once."""
        cdef TlsStream stream
        try:
            log.info("TLS of a client: %s", error)
            if c.stream == NULL:
                return BROKEN
            stream = <TlsStream> c.stream
            if stream.established:
                self.figures.tls_broken += 1
            else:
                self.figures.tls_failures += 1
            stream.broken = True
            stream.collect()
            self._flush(c, stream)
        except Exception:
            log.exception("TLS of a client cannot be ended in order")
        return BROKEN

    cdef void end_tls(self, Connection *c) noexcept with gil:
        """A farewell, if the socket takes it at once."""
        cdef TlsStream stream = <TlsStream> c.stream
        c.stream = NULL
        try:
            if stream.established and not stream.broken:
                stream.say_goodbye()
                self._flush(c, stream)
            elif not stream.broken:
                self.figures.tls_failures += 1      # it left, or had to, before the handshake was done
        except Exception as error:
            log.info("TLS of a client: %s", error)
        Py_DECREF(stream)
