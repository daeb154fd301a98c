# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False, auto_pickle=False
"""The supervisor's accept loop: take connections in batches, hand each to the worker with the fewest.

Native, so that connection churn keeps up with memcached; it returns to Python when a signal was noted, a worker came up or went,
or the time is over. It reads no client byte. A worker counts as ready once it has reached its loop, until it leaves, and unless it is
avoided (the supervisor hears nothing of it) or full (its link takes nothing more); while none is ready, the listeners' backlog
holds the clients.
"""

from libc.errno cimport EAGAIN, ECONNABORTED, EINTR, errno
from libc.limits cimport INT_MAX
from libc.stdint cimport UINT64_MAX, uint8_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcpy, memset

from memcache_shm.server.counters cimport Counters, WorkerFigures
from memcache_shm.server.handover cimport HANDOVER_MAX, LISTENERS_MAX, Handover
from memcache_shm.server.linux cimport (
    CMSG_DATA, CMSG_FIRSTHDR, CMSG_LEN, CMSG_SPACE, MSG_DONTWAIT, MSG_NOSIGNAL, POLLIN, POLLOUT, SCM_RIGHTS, SOCK_CLOEXEC,
    SOCK_NONBLOCK, SOL_SOCKET, accept4, close, cmsghdr, iovec, msghdr, poll, pollfd, recv, send, sendmsg,
)
from memcache_shm.storage.atomics cimport CLOCK_MONOTONIC, clock_ns, load_acquire64

cdef enum:
    BATCH = 64                  # accepted before they are handed over
    PAUSE_MS = 50               # after the kernel refused a descriptor, or at the limit: clients may give some back
    FULL_MS = 1000              # how long all workers' links may be full before accepted connections are given up

cdef bytes refusal = b"ERROR Too many open connections\r\n"
cdef const char *REFUSAL = refusal
cdef size_t REFUSAL_SIZE = len(refusal)


cdef struct Parcel:             # connections on their way to one worker
    int fds[HANDOVER_MAX]
    Handover message
    bint avoided                # by the supervisor: it gets none
    bint full                   # nor now, until its link takes messages again


cdef class Acceptor:

    cdef Counters _counters
    cdef pollfd *_fds           # the wake descriptor, the workers' links, the listeners
    cdef Parcel *_parcels       # one a worker
    cdef int _workers
    cdef int _listeners
    cdef uint64_t _most         # connections, over all workers
    cdef uint64_t _open         # counted at the start of a batch
    cdef bint _refuses          # what is above that; else it waits in the backlog
    cdef bint _waits            # for the end of a connection
    cdef bint _paused

    def __init__(self, Counters counters, listeners, int wake, uint64_t max_connections, bint refuses=True):
        self._counters = counters
        self._workers = counters.workers
        self._listeners = len(listeners)
        self._most = max_connections
        self._refuses = refuses
        self._fds = <pollfd *> calloc(1 + self._workers + self._listeners, sizeof(pollfd))
        self._parcels = <Parcel *> calloc(self._workers, sizeof(Parcel))
        if self._listeners > LISTENERS_MAX:
            raise ValueError(f"{self._listeners} listening sockets are too many; at most {LISTENERS_MAX}")
        if self._fds == NULL or self._parcels == NULL:
            raise MemoryError("no room for the accept loop")
        for at, fd in enumerate([wake, *[-1] * self._workers, *listeners]):
            self._fds[at].fd = fd
            self._fds[at].events = POLLIN

    def __dealloc__(self):
        free(self._fds)
        free(self._parcels)

    def set_link(self, int which, int fd):
        """The supervisor's end of a worker's link; -1 for a worker that is gone."""
        self._fds[1 + which].fd = fd
        self._fds[1 + which].events = POLLIN
        self._parcels[which].avoided = False
        self._parcels[which].full = False

    def avoid(self, int which, bint avoided):
        """Whether new connections go to others."""
        self._parcels[which].avoided = avoided

    def run(self, int timeout_ms=-1):
        """Accept and hand over. Returns when the wake descriptor is readable, a worker came up or went, or the time is over."""
        cdef int result
        with nogil:
            result = self._serve(timeout_ms)
        if result < 0:
            raise OSError(errno, "poll")

    cdef int _serve(self, int timeout_ms) noexcept nogil:
        """0: back to Python; -1: errno says."""
        cdef uint64_t now_ms = clock_ns(CLOCK_MONOTONIC) // 1000000
        cdef uint64_t until_ms = now_ms + timeout_ms if timeout_ms >= 0 else UINT64_MAX
        cdef int count
        cdef int at
        while now_ms <= until_ms:
            count = poll(self._fds, self._watched(), PAUSE_MS if self._paused else <int> min(until_ms - now_ms, INT_MAX))
            if count < 0:
                return 0 if errno == EINTR else -1
            if self._paused:
                self._paused = False
                self._counters.daemon.paused_us += PAUSE_MS * 1000
            elif count == 0:
                return 0
            if self._hear_workers() or self._fds[0].revents:
                return 0
            for at in range(1 + self._workers, self._watched()):
                if self._fds[at].revents:
                    self._accept(at - 1 - self._workers)
            now_ms = clock_ns(CLOCK_MONOTONIC) // 1000000
        return 0

    cdef int _watched(self) noexcept nogil:
        """Without a worker that is ready, or without descriptors, the listeners wait."""
        return 1 + self._workers + (0 if self._paused or not self._any_ready() else self._listeners)

    cdef bint _any_ready(self) noexcept nogil:
        cdef int which
        for which in range(self._workers):
            if self._is_ready(which):
                return True
        return False

    cdef inline bint _is_ready(self, int which) noexcept nogil:
        cdef Parcel *parcel = &self._parcels[which]
        cdef WorkerFigures *figures = &self._counters.worker[which]
        if self._fds[1 + which].fd < 0 or parcel.avoided or parcel.full:
            return False
        return load_acquire64(&figures.up) != 0 and load_acquire64(&figures.leaving) == 0

    cdef bint _hear_workers(self) noexcept nogil:
        """Read the bytes by which workers say that they are up. True: one said so or is gone; its link is watched no longer then."""
        cdef bint heard = False
        cdef char byte
        cdef ssize_t got
        cdef int which
        for which in range(self._workers):
            if self._fds[1 + which].revents & POLLOUT:
                self._set_full(which, False)
            if self._fds[1 + which].revents & ~POLLOUT:
                got = recv(self._fds[1 + which].fd, &byte, 1, MSG_DONTWAIT)
                if got == 0 or (got < 0 and errno != EAGAIN):       # at the end of input errno says nothing
                    self._fds[1 + which].fd = -1
                heard = True
        return heard

    cdef void _set_full(self, int which, bint full) noexcept nogil:
        self._parcels[which].full = full
        self._fds[1 + which].events = POLLIN | POLLOUT if full else POLLIN

    cdef void _accept(self, int listener) noexcept nogil:
        """A batch of connections of one listener, by its place."""
        cdef int source = self._fds[1 + self._workers + listener].fd
        cdef int fd
        cdef int which
        cdef int taken
        self._open = 0
        for which in range(self._workers):
            self._open += self._counters.open_connections(which)
        for taken in range(BATCH):
            if not self._any_ready():
                break
            if self._open >= self._most and not self._refuses:
                if taken == 0:      # else it is not known whether anybody else comes
                    self._counters.daemon.full += not self._waits
                    self._waits = self._paused = True
                break
            self._waits = False
            fd = accept4(source, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC)
            if fd < 0:
                if errno != EAGAIN and errno != EINTR and errno != ECONNABORTED:
                    self._paused = True
                    self._counters.daemon.accept_errno = errno
                    self._counters.daemon.no_descriptor += 1
                break
            self._counters.daemon.accepted += 1
            if self._open >= self._most:
                self._refuse(fd)
            else:
                self._open += 1
                self._assign(fd, listener, 0)
        for which in range(self._workers):
            self._hand_over(which)

    cdef void _refuse(self, int fd) noexcept nogil:
        self._counters.daemon.rejected += 1
        send(fd, REFUSAL, REFUSAL_SIZE, MSG_NOSIGNAL | MSG_DONTWAIT)
        close(fd)

    cdef void _assign(self, int fd, int listener, int fallback) noexcept nogil:
        """Into the parcel of the ready worker that has the fewest connections; `fallback`'s when none is ready any more. What a worker
        lost for want of descriptors counts as if it had them: it would get all the others, too."""
        cdef uint64_t fewest = UINT64_MAX
        cdef uint64_t count
        cdef int best = fallback
        cdef int which
        cdef WorkerFigures *figures
        cdef Parcel *parcel
        for which in range(self._workers):
            if self._is_ready(which):
                figures = &self._counters.worker[which]
                count = self._counters.open_connections(which) + figures.lost - figures.forgiven
                if count < fewest:
                    fewest = count
                    best = which
        figures = &self._counters.worker[best]
        figures.handed += 1
        parcel = &self._parcels[best]
        parcel.fds[parcel.message.count] = fd
        parcel.message.listener[parcel.message.count] = <uint8_t> listener
        parcel.message.count += 1
        if parcel.message.count == HANDOVER_MAX:
            self._hand_over(best)

    cdef void _hand_over(self, int which) noexcept nogil:
        """Send a parcel; the worker owns its connections from then on. What a full link does not take goes to the others."""
        cdef Parcel *parcel = &self._parcels[which]
        cdef WorkerFigures *figures = &self._counters.worker[which]
        cdef bint sent
        cdef int at
        if parcel.message.count == 0:
            return
        sent = self._send(which)
        if not sent and errno == EAGAIN:
            self._set_full(which, True)
            if self._any_ready():
                self._share_out(which)
                return
            sent = self._send_late(which)
        for at in range(parcel.message.count):
            close(parcel.fds[at])
        if not sent:
            figures.handed -= parcel.message.count
            self._counters.daemon.dropped += parcel.message.count
        parcel.message.count = 0

    cdef void _share_out(self, int which) noexcept nogil:
        """A full worker's parcel to those that are ready. Each call makes one worker full, so this ends."""
        cdef Parcel parcel = self._parcels[which]
        cdef WorkerFigures *figures = &self._counters.worker[which]
        cdef int at
        figures.handed -= parcel.message.count
        self._parcels[which].message.count = 0
        for at in range(parcel.message.count):
            self._assign(parcel.fds[at], parcel.message.listener[at], which)
        for at in range(self._workers):
            self._hand_over(at)

    cdef bint _send_late(self, int which) noexcept nogil:
        """All workers are full: wait for this one."""
        cdef pollfd room
        room.fd = self._fds[1 + which].fd
        room.events = POLLOUT
        return poll(&room, 1, FULL_MS) > 0 and self._send(which)

    cdef bint _send(self, int which) noexcept nogil:
        """One message, with the descriptors as ancillary data. False: errno says."""
        cdef Parcel *parcel = &self._parcels[which]
        cdef char control[1024]
        cdef iovec data
        cdef msghdr message
        cdef cmsghdr *header
        memset(&message, 0, sizeof(message))
        memset(control, 0, CMSG_SPACE(sizeof(int) * HANDOVER_MAX))
        data.iov_base = &parcel.message
        data.iov_len = 1 + parcel.message.count
        message.msg_iov = &data
        message.msg_iovlen = 1
        message.msg_control = control
        message.msg_controllen = CMSG_SPACE(sizeof(int) * parcel.message.count)
        header = CMSG_FIRSTHDR(&message)
        header.cmsg_level = SOL_SOCKET
        header.cmsg_type = SCM_RIGHTS
        header.cmsg_len = CMSG_LEN(sizeof(int) * parcel.message.count)
        memcpy(CMSG_DATA(header), parcel.fds, sizeof(int) * parcel.message.count)
        return sendmsg(self._fds[1 + which].fd, &message, MSG_NOSIGNAL | MSG_DONTWAIT) >= 0
