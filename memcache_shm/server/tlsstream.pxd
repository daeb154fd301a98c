"""The TLS layer of one connection: ciphertext in, bytes out, and the other way round; no socket."""

cdef enum:
    RECORD_MAX = 16 << 10       # bytes of one record, whose ciphertext is a little longer


cdef class TlsStream:
    cdef object _ssl            # the module
    cdef object _tls            # ssl.SSLObject, between the two below
    cdef object _incoming       # ssl.MemoryBIO: ciphertext of the client
    cdef object _outgoing       # ssl.MemoryBIO: ciphertext for it
    cdef bytes output           # ciphertext taken from there, to be sent; None: nothing
    cdef Py_ssize_t sent        # bytes of it that the socket has taken
    cdef bint established       # the handshake is done
    cdef bint resumed           # by a session of an earlier connection
    cdef bint ended             # the client said that nothing more comes
    cdef bint parted            # we said so
    cdef bint broken            # nothing goes through it any more

    cdef bint has_unread(self) except -1
    cdef int feed(self, const char *data, Py_ssize_t size) except -1
    cdef Py_ssize_t read(self, char *dst, Py_ssize_t size) except -1
    cdef Py_ssize_t write(self, const char *src, Py_ssize_t size) except -1
    cdef int say_goodbye(self) except -1
    cdef int collect(self) except -1
