# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False, auto_pickle=False
"""Who is connected to a worker: the list of its connections, what epoll reports of them, and the end of those who must go."""

from libc.stdint cimport uint8_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcpy

from memcache_shm.server.buffers cimport Buffer, waiting
from memcache_shm.server.connection cimport BLOCKED, DOOMED, READING, Connection, enqueue
from memcache_shm.server.events cimport CLOSED_IDLE
from memcache_shm.server.executor cimport Executor
from memcache_shm.server.linux cimport EPOLL_CTL_ADD, EPOLL_CTL_DEL, EPOLL_CTL_MOD, EPOLLIN, close, epoll_ctl, epoll_event
from memcache_shm.server.observing cimport saw_connection
from memcache_shm.server.streams cimport cut_off
from memcache_shm.server.subscriber cimport Subscriber
from memcache_shm.server.transport cimport Transport


cdef inline size_t news_cap(const Connection *c) noexcept nogil:
    """Bytes of the buffer of a subscriber's news."""
    return (<Subscriber *> c.subscriber).news.cap if c.subscriber != NULL else 0


cdef class Crowd:

    def __init__(self, config, Executor executor, Transport transport, int epoll):
        self.idle_ms = config.idle_timeout_s * 1000
        self.executor = executor
        self.transport = transport
        self.pool = executor.pool
        self.figures = executor.figures
        self.roster = executor.counters.roster
        self.epoll = epoll

    cdef Connection *_enter(self, int fd, int listener) noexcept nogil:
        """A new connection; NULL and closed where memory is out or epoll full."""
        cdef Connection *c = <Connection *> calloc(1, sizeof(Connection))
        if c == NULL:
            close(fd)
            self.figures.closed += 1
            return NULL
        c.fd = fd
        c.listener = <uint8_t> listener
        c.tls = self.transport.speaks_tls[listener]
        c.active_ms = self.now_ms
        c.next = self.all
        if self.all != NULL:
            self.all.previous = c
        self.all = c
        c.seat = self.roster.take_seat(self.executor.which, fd, listener)
        saw_connection(self.executor, c, True)
        if self._watch(c, EPOLLIN):
            return c
        self._close(c)
        return NULL

    cdef bint _watch(self, Connection *c, unsigned int events) noexcept nogil:
        """Have epoll report these events and no others; 0: not even a hangup. False: the kernel has no room, close it."""
        cdef epoll_event event
        cdef int what = EPOLL_CTL_MOD
        if c.channel != NULL:       # the socket tells its end only, and the rings are watched where they are
            c.watched = events
            if events:
                self.executor.channels.watch(c)
            return True
        if events == c.watched:
            return True
        if events == 0:
            what = EPOLL_CTL_DEL
        elif c.watched == 0:
            what = EPOLL_CTL_ADD
        event.events = events
        event.data.ptr = c
        if epoll_ctl(self.epoll, what, c.fd, &event) < 0:
            return False
        c.watched = events
        return True

    cdef void _close_idle(self) noexcept nogil:
        cdef Connection *c = self.all
        self.looked_ms = self.now_ms
        while c != NULL:
            if (c.flow == BLOCKED or (c.flow == READING and c.subscriber == NULL)) and self.now_ms - c.active_ms >= self.idle_ms:
                self.figures.idle_kicks += 1
                c.reason = CLOSED_IDLE
                self._doom(c)
            c = c.next

    cdef bint _keep(self, Connection *c, Buffer *source) noexcept nogil:
        """Bytes not yet used stay with the connection. False: out of memory."""
        cdef size_t left = waiting(source)
        if source == &c.input:
            if left == 0:
                self.pool.release(source)
            return True
        if left > c.input.cap:
            self.pool.release(&c.input)
        c.input.start = c.input.end = 0
        if left == 0:
            self.pool.release(&c.input)
            return True
        if not self._reserve(c, &c.input, left):
            return False
        memcpy(c.input.data, source.data + source.start, left)
        c.input.end = left
        return True

    cdef bint _reserve(self, Connection *c, Buffer *buffer, size_t size) noexcept nogil:
        """Room in a buffer of the connection. Where the pool is at its limit, those who have not moved for longest lose theirs, and are
        closed: who is slow on purpose must not keep others from being served. False: nobody else is to blame."""
        while not self.pool.reserve(buffer, size):
            if not self._doom_idlest(c):
                return False
        return True

    cdef bint _doom_idlest(self, const Connection *other) noexcept nogil:
        cdef Connection *c = self.all
        cdef Connection *idlest = NULL
        while c != NULL:
            if c != other and (c.flow == READING or c.flow == BLOCKED) and c.input.cap + c.output.cap + news_cap(c) > 0:
                if c.active_ms < (self.now_ms if idlest == NULL else idlest.active_ms):
                    idlest = c
            c = c.next
        if idlest == NULL:
            return False
        self._doom(idlest)
        return True

    cdef void _doom(self, Connection *c) noexcept nogil:
        """Take its buffers, and close it when the round is over: until then an event of it may be on its way."""
        self.pool.release(&c.input)
        self.pool.release(&c.output)
        if c.subscriber != NULL:
            self.pool.release(&(<Subscriber *> c.subscriber).news)
        enqueue(&self.doomed, c, DOOMED)

    cdef void _close(self, Connection *c) noexcept nogil:
        """Free it. A YIELDED or WAITING connection is only closed by `close_all`; a LISTENING one is taken from its queue before.

        It leaves epoll by name: closing does not take it out while another process holds the same socket, as the supervisor does that has
        sent it, or a child that writes a backup.
        """
        if c.next != NULL:
            c.next.previous = c.previous
        if c.previous != NULL:
            c.previous.next = c.next
        else:
            self.all = c.next
        self.transport.end(c)
        saw_connection(self.executor, c, False)
        cut_off(c, self.executor)
        self.executor.subscribers.leave(c)
        self.roster.leave_seat(c.seat)
        self.pool.release(&c.input)
        self.pool.release(&c.output)
        epoll_ctl(self.epoll, EPOLL_CTL_DEL, c.fd, NULL)
        close(c.fd)
        free(c)
        self.executor.out.end = 0
        self.executor.unwindable = False
        self.executor.failed = False
        self.figures.closed += 1
