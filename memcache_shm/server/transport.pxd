"""The seam between connections and sockets: recv and send, in plain text, through a TLS layer, or through rings in their place."""

cimport cython

from libc.stdint cimport uint8_t

from memcache_shm.server.channels cimport Channels
from memcache_shm.server.connection cimport Connection
from memcache_shm.server.counters cimport WorkerFigures
from memcache_shm.server.executor cimport Executor
from memcache_shm.server.handover cimport LISTENERS_MAX
from memcache_shm.server.linux cimport MSG_DONTWAIT, MSG_NOSIGNAL, recv, send
from memcache_shm.server.tlsstream cimport TlsStream

cdef enum:
    CIPHER_SIZE = 17 << 10      # received at a time: a largest record and its frame
    SEND_SIZE = 64 << 10        # ciphertext is sent once there is so much, so little more than that waits for a slow client


@cython.final
cdef class Transport:
    cdef WorkerFigures *figures
    cdef Channels channels
    cdef object credentials     # has the context of new connections
    cdef uint8_t speaks_tls[LISTENERS_MAX]  # by a listener's place: connections that came through it
    cdef char cipher[CIPHER_SIZE]           # what was received last

    cdef inline ssize_t receive(self, Connection *c, char *dst, size_t size) noexcept nogil:
        """As recv(2), without waiting. Where it leaves something behind that the kernel does not know of, `unread` says so."""
        if c.channel != NULL:
            return self.channels.receive(c, dst, size)
        if not c.tls:
            return recv(c.fd, dst, size, MSG_DONTWAIT)
        return self.receive_tls(c, dst, size)

    cdef inline ssize_t transmit(self, Connection *c, const char *src, size_t size) noexcept nogil:
        """As send(2), without waiting. What it has taken and the socket has not makes the connection `lagging`: call again when it
        is writable, if only with a size of 0. It may take nothing then, and yet the client has got something."""
        if c.channel != NULL:
            return self.channels.transmit(c, src, size)
        if not c.tls:
            return send(c.fd, src, size, MSG_NOSIGNAL | MSG_DONTWAIT)
        return self.transmit_tls(c, src, size)

    cdef inline void end(self, Connection *c) noexcept nogil:
        """Before its descriptor is closed."""
        if c.stream != NULL:
            self.end_tls(c)
        if c.channel != NULL:
            self.channels.end(c)

    cdef ssize_t receive_tls(self, Connection *c, char *dst, size_t size) noexcept nogil
    cdef ssize_t transmit_tls(self, Connection *c, const char *src, size_t size) noexcept nogil
    cdef void end_tls(self, Connection *c) noexcept with gil
    cdef ssize_t _decrypt(self, Connection *c, size_t came, char *dst, size_t size) noexcept with gil
    cdef ssize_t _decrypt_or_raise(self, Connection *c, size_t came, char *dst, size_t size) except? -3
    cdef ssize_t _encrypt(self, Connection *c, const char *src, size_t size) noexcept with gil
    cdef ssize_t _encrypt_or_raise(self, Connection *c, const char *src, size_t size) except? -3
    cdef int _flush(self, Connection *c, TlsStream stream) except -2
    cdef ssize_t _give_up(self, Connection *c, object error)
