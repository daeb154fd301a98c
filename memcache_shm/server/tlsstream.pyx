# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False, auto_pickle=False
"""The TLS layer of one connection, by Python's ssl over two memory buffers: no socket here, so nothing ever waits.

OpenSSL keeps what a buffer once grew to, so both are filled and emptied in pieces of about a record, and an idle connection stays small.
"""

from cpython.buffer cimport PyBUF_READ, PyBUF_WRITE
from cpython.memoryview cimport PyMemoryView_FromMemory

from memcache_shm.server.tlsstream cimport RECORD_MAX


cdef class TlsStream:

    def __init__(self, context):
        import ssl                      # late: see server/tls.py
        self._ssl = ssl
        self._incoming = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_side=True)

    cdef bint has_unread(self) except -1:
        """Whether `read` would find something that came already: bytes, or the end."""
        return self.ended or self._incoming.pending > 0 or self._tls.pending() > 0

    cdef int feed(self, const char *data, Py_ssize_t size) except -1:
        """Ciphertext of the client; the handshake goes on as far as it goes. Raises ssl.SSLError when that fails."""
        self._incoming.write(PyMemoryView_FromMemory(<char *> data, size, PyBUF_READ))
        if not self.established:
            try:
                self._tls.do_handshake()
                self.established = True
                self.resumed = self._tls.session_reused
            except self._ssl.SSLWantReadError:
                pass
            self.collect()
        return 0

    cdef Py_ssize_t read(self, char *dst, Py_ssize_t size) except -1:
        """Decrypt what came; 0: nothing is complete, or the client ended it. Raises ssl.SSLError."""
        cdef Py_ssize_t total = 0
        cdef Py_ssize_t got
        if not self.established:
            return 0
        while total < size and not self.ended and (self._incoming.pending or self._tls.pending()):
            try:
                got = self._tls.read(size - total, PyMemoryView_FromMemory(dst + total, size - total, PyBUF_WRITE))
            except self._ssl.SSLWantReadError:
                break
            self.ended = got == 0
            total += got
        if self._outgoing.pending:      # TLS answers some messages by itself
            self.collect()
        return total

    cdef Py_ssize_t write(self, const char *src, Py_ssize_t size) except -1:
        """Encrypt, at most a record; returns how much. Raises ssl.SSLError."""
        cdef Py_ssize_t taken = self._tls.write(PyMemoryView_FromMemory(<char *> src, min(size, RECORD_MAX), PyBUF_READ))
        self.collect()
        return taken

    cdef int say_goodbye(self) except -1:
        """Tell the client, once, that nothing more comes; whether it says the same does not matter."""
        if self.parted:
            return 0
        self.parted = True
        try:
            self._tls.unwrap()
        except self._ssl.SSLError:
            pass
        return self.collect()

    cdef int collect(self) except -1:
        """Move new ciphertext to `output`, behind what waits there."""
        cdef bytes fresh = self._outgoing.read()
        if self.output is None:
            self.output = fresh or None
            self.sent = 0
        elif fresh:
            self.output = self.output[self.sent:] + fresh
            self.sent = 0
        return 0
