# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False, auto_pickle=False
"""A worker's connections: bytes in, requests executed, replies out, in bounded turns.

    readable -> _receive: one recv, as a rule into the buffer that all connections share
             -> _run: parse and execute until the bytes are used up; replies gather in the executor's out buffer
             -> _send: one send; what the client does not take moves to the connection (BLOCKED)

Only what is left of an incomplete request stays with the connection, so an idle one holds no buffer. A connection whose client
does not take its replies is neither read nor parsed until it does. One that has got TURN_SIZE bytes in a row lets
the others go first (YIELDED). One whose request finds a shard's lock taken (WAITING) keeps that request, is not read, and is
tried again every RETRY_MS until the lock is free or the table has lost patience; the replies before it are sent.
Every path ends in `_close`, or with the connection READING, BLOCKED, YIELDED or WAITING.
"""

from libc.errno cimport EAGAIN, EINTR, errno
from libc.stdint cimport uint8_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcpy, memset, strlen

from memcache_shm.protocol.parser cimport next_request
from memcache_shm.protocol.request cimport CLOSE, NEED_MORE, REPLY, Parser, Request
from memcache_shm.server.buffers cimport Buffer, waiting
from memcache_shm.server.clients cimport (
    ALL, DIRECT_NEED, FLUSH_SIZE, INPUT_SIZE, NONE, RETRY_MS, SOME, TURN_SIZE,
)
from memcache_shm.server.connection cimport BLOCKED, READING, WAITING, YIELDED, Connection, Queue
from memcache_shm.server.executor cimport Executor
from memcache_shm.server.linux cimport (
    EPOLL_CTL_ADD, EPOLL_CTL_DEL, EPOLL_CTL_MOD, EPOLLIN, EPOLLOUT, MSG_DONTWAIT, MSG_NOSIGNAL, close, epoll_ctl, epoll_event,
    recv, send,
)
from memcache_shm.storage.atomics cimport CLOCK_MONOTONIC, clock_ns, load_acquire64


cdef class Clients:

    def __init__(self, Executor executor, int epoll):
        self.executor = executor
        self.pool = executor.pool
        self.figures = executor.figures
        self.max_value = executor.table.max_value
        self.epoll = epoll
        memset(&self.input, 0, sizeof(Buffer))
        if not self.pool.reserve(&self.input, INPUT_SIZE):
            raise MemoryError("no room for a worker's input buffer")

    cdef void adopt(self, int fd, int listener, uint64_t serial) noexcept nogil:
        """A new connection; it is closed when memory is out. Who connects has mostly sent something by now, so read at once."""
        cdef Connection *c = <Connection *> calloc(1, sizeof(Connection))
        if c == NULL:
            close(fd)
            self.figures.closed += 1
            return
        c.fd = fd
        c.listener = <uint8_t> listener
        c.serial = serial
        c.next = self.all
        if self.all != NULL:
            self.all.previous = c
        self.all = c
        if self._watch(c, EPOLLIN):
            self._receive(c)
        else:
            self._close(c)

    cdef void ready(self, Connection *c) noexcept nogil:
        """The kernel has something for it, or takes something from it, or it broke."""
        if c.flow == READING:
            self._receive(c)
        elif c.flow == BLOCKED:
            self._send_rest(c)

    cdef int patience_ms(self, int timeout_ms) noexcept nogil:
        """How long the loop may sleep; -1 for ever."""
        if self.turns.first != NULL:
            return 0
        if self.waiters.first != NULL:
            return RETRY_MS if timeout_ms < 0 else min(timeout_ms, RETRY_MS)
        return timeout_ms

    cdef void take_turns(self) noexcept nogil:
        """One turn for each connection that is due."""
        cdef uint64_t now_ns
        if self.waiters.first != NULL:
            now_ns = clock_ns(CLOCK_MONOTONIC)
            if now_ns - self.tried_ns >= RETRY_MS * 1000000:
                self.tried_ns = now_ns
                self._take_turns_of(&self.waiters)
        self._take_turns_of(&self.turns)

    cdef void _take_turns_of(self, Queue *queue) noexcept nogil:
        """Whoever has to queue again is not among them."""
        cdef Connection *c = queue.first
        cdef Connection *following
        queue.first = queue.last = NULL
        while c != NULL:
            following = c.next_turn
            c.next_turn = NULL
            c.flow = READING
            self._run(c, &c.input)
            c = following

    cdef void drain(self) noexcept nogil:
        """A last turn for everyone; whoever has all its replies is closed, now and from now on."""
        cdef Connection *c = self.all
        cdef Connection *following
        self.draining = True
        while c != NULL:
            following = c.next
            if c.flow == READING:
                self._receive(c)
            c = following

    cdef void close_all(self) noexcept nogil:
        while self.all != NULL:
            self._close(self.all)

    cdef void _receive(self, Connection *c) noexcept nogil:
        """One recv, then whatever it completes."""
        cdef Buffer *into = self._input_for(c)
        cdef ssize_t got
        if into == NULL:
            self._close(c)
            return
        got = recv(c.fd, into.data + into.end, min(into.cap - into.end, c.need + INPUT_SIZE), MSG_DONTWAIT)
        if got > 0:
            into.end += got
            self.figures.bytes_read += got
            self._run(c, into)
        elif got == 0:
            self._end_of_input(c)
        elif (errno != EAGAIN and errno != EINTR) or self.draining:
            self._close(c)

    cdef Buffer *_input_for(self, Connection *c) noexcept nogil:
        """Where to receive: the connection's own buffer for a long request, else the shared one.

        The connection keeps its bytes until `_run`, in case nothing comes. NULL: out of memory.
        """
        cdef size_t have = waiting(&c.input)
        if c.need > DIRECT_NEED:
            if c.input.cap - c.input.end == 0 and not self.pool.reserve(&c.input, min(c.need - have, max(have, INPUT_SIZE))):
                return NULL
            return &c.input
        if have:
            memcpy(self.input.data, c.input.data + c.input.start, have)
        self.input.start = 0
        self.input.end = have
        return &self.input

    cdef void _end_of_input(self, Connection *c) noexcept nogil:
        """The client closed its side: all complete requests are answered; an incomplete one may have a reply of its own."""
        if c.at_eof != NULL:
            self.executor.put(c.at_eof, strlen(c.at_eof))
            c.closing = True
            if self._send(c) == SOME:
                return
        self._close(c)

    cdef void _run(self, Connection *c, Buffer *source) noexcept nogil:
        """A turn: the requests in `source`, answered by as few sends as their size allows."""
        cdef size_t turn_size = 0
        cdef int sent = ALL
        cdef bint more = waiting(source) >= c.need
        self.executor.client = c
        self.executor.blocked = False
        self.executor.patient = c.watched != 0 and self.waiters.first == NULL       # once, not for each of a crowd
        while more and sent == ALL and turn_size < TURN_SIZE:
            more = self._next(c, source)
            if self.executor.out.end >= FLUSH_SIZE:
                turn_size += self.executor.out.end
                sent = self._send(c)
        if sent == ALL and self.executor.out.end:
            sent = self._send(c)
        self.executor.shrink()
        if sent == NONE or self.executor.failed or not self._keep(c, source):
            self._close(c)
        elif sent == SOME:
            pass
        elif self.executor.blocked:
            self._watch(c, 0)       # a hangup cannot be awaited away, and takes nothing back that was asked before it
            self._queue(c, &self.waiters, WAITING)
        elif more:
            self.figures.yields += 1
            self._queue(c, &self.turns, YIELDED)
        elif c.closing or self.draining or not self._watch(c, EPOLLIN):
            self._close(c)

    cdef bint _next(self, Connection *c, Buffer *source) noexcept nogil:
        """Parse and execute one request. False: there is no further one."""
        cdef Request request
        cdef Parser before = c.parser
        cdef int step
        self.figures.beats += 1
        step = next_request(&c.parser, source.data + source.start, waiting(source), self.max_value, &request)
        source.start += request.used
        c.need = request.need
        c.at_eof = request.at_eof
        if step == NEED_MORE:
            return False
        if step == CLOSE:
            c.closing = True
            return False
        if step != REPLY:
            self.executor.execute(&c.parser, &request)
            if self.executor.blocked:       # it stays where it is, complete, so that the next turn finds it
                c.parser = before
                source.start -= request.used
                return False
        else:
            if request.unwind:
                self.executor.unwind()
            self.executor.put(request.reply, request.reply_len)
        return source.start < source.end and not self.executor.failed

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
        if not self.pool.reserve(&c.input, left):
            return False
        memcpy(c.input.data, source.data + source.start, left)
        c.input.end = left
        return True

    cdef int _send(self, Connection *c) noexcept nogil:
        """Send the out buffer; what is not taken moves to the connection. Returns a Sent; the out buffer is empty then."""
        cdef Buffer *out = &self.executor.out
        cdef ssize_t taken = send(c.fd, out.data, out.end, MSG_NOSIGNAL | MSG_DONTWAIT)
        cdef size_t left
        self.executor.unwindable = False
        if taken < 0:
            taken = 0 if errno == EAGAIN or errno == EINTR else -1
        left = out.end - taken
        out.end = 0
        if taken < 0:
            return NONE
        self.figures.bytes_written += taken
        if left == 0:
            return ALL
        if not self.pool.reserve(&c.output, left):
            return NONE
        memcpy(c.output.data, out.data + taken, left)
        c.output.end = left
        c.flow = BLOCKED
        return SOME if self._watch(c, EPOLLOUT) else NONE

    cdef void _send_rest(self, Connection *c) noexcept nogil:
        """The client takes bytes again; when it has them all, its waiting requests get their turn."""
        cdef ssize_t taken = send(c.fd, c.output.data + c.output.start, waiting(&c.output), MSG_NOSIGNAL | MSG_DONTWAIT)
        if taken < 0:
            if errno != EAGAIN and errno != EINTR:
                self._close(c)
            return
        self.figures.bytes_written += taken
        c.output.start += taken
        if waiting(&c.output):
            return
        self.pool.release(&c.output)
        if c.closing:
            self._close(c)
            return
        c.flow = READING
        self._run(c, &c.input)

    cdef bint _watch(self, Connection *c, unsigned int events) noexcept nogil:
        """Have epoll report these events and no others; 0: not even a hangup. False: the kernel has no room, close it."""
        cdef epoll_event event
        cdef int what = EPOLL_CTL_MOD
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

    cdef void _queue(self, Connection *c, Queue *queue, int flow) noexcept nogil:
        c.flow = flow
        if queue.last == NULL:
            queue.first = c
        else:
            queue.last.next_turn = c
        queue.last = c

    cdef void _close(self, Connection *c) noexcept nogil:
        """Free it. A YIELDED or WAITING connection is only closed by `close_all`.

        Closing takes it out of epoll, unless the supervisor, which sent the descriptor, still holds its own: then by name.
        """
        if c.next != NULL:
            c.next.previous = c.previous
        if c.previous != NULL:
            c.previous.next = c.next
        else:
            self.all = c.next
        self.pool.release(&c.input)
        self.pool.release(&c.output)
        if load_acquire64(&self.figures.released) <= c.serial:
            epoll_ctl(self.epoll, EPOLL_CTL_DEL, c.fd, NULL)
        close(c.fd)
        free(c)
        self.executor.out.end = 0
        self.executor.unwindable = False
        self.executor.failed = False
        self.figures.closed += 1
