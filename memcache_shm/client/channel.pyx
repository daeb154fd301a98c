# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False, auto_pickle=False
"""A channel's end in the client: a socket's methods on two rings in shared memory (storage/rings.pyx).

    connect to the daemon's UNIX socket -> `channel`, with the sizes wanted -> the rings' memory and the worker's bell come as descriptors

From then on bytes go through the rings, and a system call is made only to wake a worker that sleeps or to sleep until it has something. The
socket stays open: its end tells each side that the other is gone.
"""

import array
import os
import socket
from contextlib import suppress

from cpython.buffer cimport PyBUF_SIMPLE, PyBUF_WRITABLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from cpython.exc cimport PyErr_CheckSignals
from libc.errno cimport EINVAL, EMFILE, errno
from libc.stdint cimport INT64_MAX, int64_t, uint32_t, uint64_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcpy, memmove
from posix.unistd cimport close, write

from memcache_shm.client.channel_waits cimport GONE, INTERRUPTED, LATE, READY, has_hung_up, is_ready, look, sleep
from memcache_shm.storage.atomics cimport CLOCK_MONOTONIC, clock_ns, futex_wake
from memcache_shm.storage.patience cimport init_patience, slept_too_early
from memcache_shm.storage.rings cimport (
    RING_MOST, RING_USUAL, WAITS_BYTES, WAITS_ROOM, arrived, is_emptied, is_over, is_ring_size, map_block, must_tell_room, must_wake, pull,
    push, say_closed, shares_processor, unmap_block,
)

from memcache_shm.client.admission import denial, shown
from memcache_shm.errors import IllegalInputError, RemoteError

cdef enum:
    DESCRIPTORS = 2             # that come with the answer: the rings' memory and the bell
    REPLY_MAX = 2048            # bytes of the answer to `channel`
    KEPT_MAX = 1 << 20          # bytes of the buffer of early replies that are kept when it is empty


cdef class Channel:
    """A connection to a daemon's worker, through shared memory. Not for several threads at a time."""

    def __cinit__(self, *args, **kwargs):
        self._bell = -1
        self._timeout_ns = -1

    def __init__(self, path, timeout=None, *, request_bytes=RING_USUAL, reply_bytes=RING_USUAL):
        """Connect to the daemon at the UNIX socket `path`; `timeout` in seconds as in `settimeout`. The sizes of the rings are powers of
        two from 4096 to 1048576. Raises OSError as socket.connect does, IllegalInputError, RemoteError when the daemon refuses or is
        none."""
        if not all(0 < size <= RING_MOST and is_ring_size(size) for size in (request_bytes, reply_bytes)):
            raise IllegalInputError(f"a ring's size must be a power of two from 4096 to 1048576, not {request_bytes} and {reply_bytes}")
        if self._socket is not None:
            raise OSError(106, f"the channel was connected to {self._path} before; make another one")
        self._path = path
        self.settimeout(timeout)
        self._pid = os.getpid()
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            self._socket.settimeout(timeout)
            self._socket.connect(path)
            self._ask(request_bytes, reply_bytes)
        except BaseException:
            self.close()
            raise
        self._fd = self._socket.fileno()
        init_patience(&self._patience)

    def _ask(self, request_bytes, reply_bytes):
        """For the rings."""
        self._socket.sendall(b"channel %d %d\r\n" % (request_bytes, reply_bytes))
        line, descriptors = _receive_answer(self._socket)
        try:
            if line.startswith(b"CHANNEL ") and len(descriptors) < DESCRIPTORS:
                raise OSError(EMFILE, "no descriptors left for a channel's memory and bell; raise the limit (ulimit -n)", self._path)
            if not line.startswith(b"CHANNEL "):
                raise _refusal(f"channel:{self._path}", line)
            mapped = map_block(&self._end, descriptors[0])
            if mapped == -1:
                raise OSError(errno, os.strerror(errno), self._path)
            if mapped:
                raise RemoteError(f"channel:{self._path}: what came for a channel is none of this version")
            self._bell = descriptors.pop()
        finally:
            for descriptor in descriptors:
                os.close(descriptor)

    def __dealloc__(self):
        self._release()

    # Sending

    def send(self, data):
        """Put in as much of `data` as there is room for, at least one byte; how many. Raises TimeoutError, BrokenPipeError, and in
        non-blocking mode BlockingIOError."""
        cdef Py_buffer view
        PyObject_GetBuffer(data, &view, PyBUF_SIMPLE)
        try:
            return self._send(<const char *> view.buf, view.len, self._deadline())
        finally:
            PyBuffer_Release(&view)

    def sendall(self, data):
        """Put in all of `data`, however long: replies that come meanwhile are taken in and kept for `recv`. The timeout is for all of it.
        Raises as `send`."""
        cdef Py_buffer view
        cdef Py_ssize_t done = 0
        cdef int64_t limit_ns = self._deadline()
        PyObject_GetBuffer(data, &view, PyBUF_SIMPLE)
        try:
            while done < view.len:
                done += self._send(<const char *> view.buf + done, view.len - done, limit_ns)
        finally:
            PyBuffer_Release(&view)

    cdef size_t _send(self, const char *src, size_t size, int64_t limit_ns) except? 0:
        cdef size_t taken
        if size == 0:
            return 0
        self._check_open()
        while True:
            if is_over(&self._end) or self._said_closed:
                raise BrokenPipeError(32, "the channel was closed")
            taken = push(&self._end, src, size)
            if taken:
                if must_wake(&self._end, WAITS_BYTES):
                    self._ring()
                return taken
            self._check_whole()
            if arrived(&self._end):     # whoever waits for us to take replies reads no requests
                self._take_in()
            else:
                self._wait(WAITS_ROOM | WAITS_BYTES, limit_ns)

    cdef int _take_in(self) except -1:
        """Move what has arrived to the early replies."""
        cdef size_t count = arrived(&self._end)
        cdef size_t have = self._early_end - self._early_start
        cdef char *larger
        if self._early_cap - self._early_end < count:
            if self._early_cap < 2 * (have + count):
                larger = <char *> malloc(2 * (have + count))
                if larger == NULL:
                    raise MemoryError
                memcpy(larger, self._early + self._early_start, have)
                free(self._early)
                self._early = larger
                self._early_cap = 2 * (have + count)
            else:
                memmove(self._early, self._early + self._early_start, have)
            self._early_start, self._early_end = 0, have
        self._early_end += self._pull(self._early + self._early_end, count)
        return 0

    # Receiving

    def recv(self, Py_ssize_t size):
        """Up to `size` bytes of what has come, waiting for the first; b"" when the server has ended the channel. Raises TimeoutError,
        ConnectionResetError (the worker died), and in non-blocking mode BlockingIOError."""
        cdef bytes found
        if size < 0:
            raise ValueError("negative buffersize in recv")
        size = min(size, self._available(size))
        if size == 0:
            return b""
        found = PyBytes_FromStringAndSize(NULL, size)
        self._take(PyBytes_AS_STRING(found), size)
        return found

    def recv_into(self, buffer, Py_ssize_t nbytes=0):
        """The same into `buffer`, all of it or its first `nbytes` bytes; how many came."""
        cdef Py_buffer view
        cdef size_t size
        PyObject_GetBuffer(buffer, &view, PyBUF_WRITABLE)
        try:
            if not 0 <= nbytes <= view.len:
                raise ValueError(f"nbytes must be from 0 to {view.len}, not {nbytes}")
            size = self._available(nbytes or view.len)
            size = min(size, <size_t> (nbytes or view.len))
            self._take(<char *> view.buf, size)
            return size
        finally:
            PyBuffer_Release(&view)

    cdef size_t _available(self, size_t wanted) except? 0:
        """Bytes that have come, after a wait for the first unless none is wanted; 0: the end."""
        cdef size_t count = self._early_end - self._early_start
        cdef bint ended
        cdef int64_t limit_ns
        self._check_open()
        if count or wanted == 0:
            return count
        ended = is_over(&self._end)
        count = arrived(&self._end)
        if count or ended:
            return count
        self._check_whole()
        limit_ns = self._deadline()
        self._wait(WAITS_BYTES, limit_ns)
        self._check_whole()
        return arrived(&self._end)

    cdef int _take(self, char *dst, size_t size) except -1:
        """`size` bytes of those that are available."""
        if self._early_end == self._early_start:
            self._pull(dst, size)
            return 0
        memcpy(dst, self._early + self._early_start, size)
        self._early_start += size
        if self._early_start == self._early_end:
            self._early_start = self._early_end = 0
            if self._early_cap > KEPT_MAX:
                free(self._early)
                self._early = NULL
                self._early_cap = 0
        return 0

    cdef size_t _pull(self, char *dst, size_t size) except? 0:
        cdef size_t count = pull(&self._end, dst, size)
        if is_emptied(&self._end):      # meanwhile, perhaps: these may be zeros
            raise ConnectionResetError(104, "the server ended the channel before its replies were taken")
        if must_tell_room(&self._end):
            self._ring()
        return count

    # Waiting

    cdef int64_t _deadline(self) noexcept:
        """When the wait that begins now has lasted long enough; monotonic clock."""
        return INT64_MAX if self._timeout_ns < 0 else <int64_t> clock_ns(CLOCK_MONOTONIC) + self._timeout_ns

    cdef int _wait(self, uint32_t bits, int64_t deadline_ns) except -1:
        """Until bytes have come, or there is room. Raises TimeoutError, ConnectionResetError, BlockingIOError."""
        cdef int outcome
        if self._timeout_ns != 0:
            outcome = self._wait_until(bits, deadline_ns)
        elif not has_hung_up(self._fd):
            raise BlockingIOError(11, "the channel has nothing for now")
        else:
            outcome = READY if is_ready(&self._end, bits) else GONE
        self._check_open()
        if outcome == LATE:
            raise TimeoutError("timed out")
        if outcome == GONE:
            raise ConnectionResetError(104, "the worker at the other end of the channel is gone")
        return 0

    cdef int _wait_until(self, uint32_t bits, int64_t deadline_ns) except -1:
        """An Outcome, or what a signal's handler raises."""
        cdef uint64_t begun_ns = clock_ns(CLOCK_MONOTONIC)
        cdef int64_t limit_ns = deadline_ns - <int64_t> begun_ns
        cdef int outcome
        self._waiting += 1
        try:
            with nogil:
                outcome = look(&self._end, bits, &self._patience, begun_ns, limit_ns)
                if outcome != READY:
                    outcome = sleep(&self._end, bits, self._fd, &self._closed, begun_ns, limit_ns)
                    if outcome == READY and not shares_processor(&self._end):
                        slept_too_early(&self._patience, clock_ns(CLOCK_MONOTONIC) - begun_ns)
            while outcome == INTERRUPTED:
                PyErr_CheckSignals()
                with nogil:
                    outcome = sleep(&self._end, bits, self._fd, &self._closed, begun_ns, limit_ns)
        finally:
            self._waiting -= 1
            if self._closed and self._waiting == 0:
                self._release()
        return outcome

    cdef int _ring(self) noexcept:
        """Wake the worker."""
        cdef uint64_t one = 1
        return write(self._bell, &one, sizeof(one)) < 0     # cannot fail: only 2^64 rings would fill it

    cdef int _check_open(self) except -1:
        if self._closed or self._end.block == NULL:
            raise OSError(9, "the channel is closed" if self._closed else "the channel is not connected")
        return 0

    cdef int _check_whole(self) except -1:
        if self._end.broken and not is_over(&self._end):
            raise ConnectionResetError(104, "the rings of the channel are damaged")
        return 0

    # The rest of a socket

    def settimeout(self, seconds):
        """How long a call waits: for ever (None), not at all (0: BlockingIOError), or so many seconds (TimeoutError)."""
        if seconds is not None and not 0 <= seconds < 1 << 32:
            raise ValueError("Timeout value out of range")
        self._timeout_ns = -1 if seconds is None else max(int(seconds * 1e9), 1 if seconds else 0)

    def gettimeout(self):
        """What `settimeout` was told, in seconds."""
        return None if self._timeout_ns < 0 else self._timeout_ns / 1e9

    def fileno(self):
        """The socket's descriptor: it becomes readable at the channel's end, not when bytes come. -1 after `close`."""
        return -1 if self._socket is None else self._socket.fileno()

    def shutdown(self, how):
        """As a socket's: with SHUT_WR or SHUT_RDWR nothing more is sent, and the server ends the channel when it has answered."""
        self._check_open()
        if how not in (socket.SHUT_RD, socket.SHUT_WR, socket.SHUT_RDWR):
            raise OSError(EINVAL, f"shutdown takes SHUT_RD, SHUT_WR or SHUT_RDWR, not {how!r}")
        if how != socket.SHUT_RD:
            self._said_closed = True
            say_closed(&self._end)
            if must_wake(&self._end, WAITS_BYTES):
                self._ring()

    def close(self):
        """Idempotent. A call that waits in another thread ends with OSError. The channel ends, although forked children have descriptors
        of it; by a child's `close` only the child lets go of it."""
        if self._closed:
            return
        self._closed = True
        if self._waiting:
            futex_wake(self._end.my_waits, 1)
        else:
            self._release()
        if self._socket is not None:
            if self._pid == os.getpid():
                with suppress(OSError):     # it was not connected, or has ended
                    self._socket.shutdown(socket.SHUT_RDWR)
            self._socket.close()

    cdef void _release(self) noexcept:
        """The memory and the bell; the socket's end tells the worker."""
        unmap_block(&self._end)
        free(self._early)
        self._early = NULL
        self._early_cap = self._early_start = self._early_end = 0
        if self._bell >= 0:
            close(self._bell)
            self._bell = -1

    def __enter__(self):
        return self

    def __exit__(self, kind, error, trace):
        self.close()

    def __repr__(self):
        return f"<memcache_shm.client.channel.Channel {self._path!r}{' closed' if self._closed else ''}>"


def _receive_answer(sock):
    """What came, and the descriptors beside it. (Python 3.11 loses the flags of socket.recv_fds.)"""
    descriptors = array.array("i")
    line, control, _, _ = sock.recvmsg(REPLY_MAX, socket.CMSG_SPACE(DESCRIPTORS * descriptors.itemsize), socket.MSG_CMSG_CLOEXEC)
    for level, kind, data in control:
        if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
            descriptors.frombytes(data[:len(data) - len(data) % descriptors.itemsize])
    return line, descriptors.tolist()


def _refusal(where, bytes line):
    """The error that the answer of the daemon at `where` means."""
    if not line:
        return RemoteError(f"{where}: the connection was closed at once; no memcache_shm daemon there, or one that speaks TLS only")
    words = line.partition(b"\n")[0].rstrip(b"\r")
    if words == b"ERROR":
        return RemoteError(f"{where}: no channels there; a memcache_shm daemon of this version has them")
    return denial(where, words) or RemoteError(f"{where}: {shown(words)}")
