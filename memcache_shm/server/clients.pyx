# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False, auto_pickle=False
"""A worker's connections: bytes in, requests executed, replies out, in bounded turns.

    readable -> _receive: one recv, as a rule into the buffer that all connections share
             -> _run: parse and execute until the bytes are used up; replies gather in the executor's out buffer
             -> _send: one send; what the client does not take moves to the connection (BLOCKED)

Only what is left of an incomplete request stays with the connection, so an idle one holds no buffer. A connection whose client
does not take its replies is neither read nor parsed until it does. One that has got TURN_SIZE bytes in a row lets
the others go first (YIELDED). One whose request finds a shard's lock taken (WAITING) keeps that request, is not read, and is
tried again every RETRY_MS until the lock is free or the table has lost patience; the replies before it are sent.
Bytes go through the `transport`, which may keep some: received ones that epoll knows nothing of (UNREAD), and replies that it took
while the client did not (`lagging`, so BLOCKED). A guest's requests go to `guests` until it is let in.
Every path ends in `_close`, or with the connection READING, BLOCKED, YIELDED, UNREAD or WAITING.
"""

from libc.errno cimport EAGAIN, EINTR, errno
from libc.stdint cimport UINT32_MAX, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcpy, memset, strlen

from memcache_shm.protocol.parser cimport next_request
from memcache_shm.protocol.request cimport CLOSE, NEED_MORE, REPLY, Parser, Request
from memcache_shm.server.buffers cimport Buffer, waiting
from memcache_shm.server.clients cimport (
    ALL, DIRECT_NEED, FLUSH_SIZE, HEAVY_COST, INPUT_SIZE, LOOK_MS, NONE, REQUEST_COST, RETRY_MS,
    ROUND_COST, SOME, TURN_SIZE,
)
from memcache_shm.server.connection cimport (
    BLOCKED, DOOMED, READING, UNREAD, WAITING, YIELDED, Connection, Queue, dequeue, enqueue,
)
from memcache_shm.server.executor cimport Executor
from memcache_shm.server.guests cimport Guests
from memcache_shm.server.linux cimport (
    EPOLL_CTL_ADD, EPOLL_CTL_DEL, EPOLL_CTL_MOD, EPOLLIN, EPOLLOUT, close, epoll_ctl, epoll_event,
)
from memcache_shm.server.transport cimport Transport
from memcache_shm.storage.atomics cimport load_acquire64


cdef class Clients:

    def __init__(self, config, Executor executor, Transport transport, Guests guests, int epoll):
        self.turn_requests = min(config.requests_per_event, UINT32_MAX)
        self.idle_ms = config.idle_timeout_s * 1000
        self.executor = executor
        self.transport = transport
        self.guests = guests
        self.pool = executor.pool
        self.figures = executor.figures
        self.max_value = executor.table.max_value
        self.epoll = epoll
        memset(&self.input, 0, sizeof(Buffer))
        if not executor.own.reserve(&self.input, INPUT_SIZE):
            raise MemoryError("no room for a worker's input buffer")

    cdef void adopt(self, int fd, int listener, uint64_t serial) noexcept nogil:
        """A new connection; it is closed when memory is out. Who connects has mostly sent something by now, so it gets a turn."""
        cdef Connection *c = <Connection *> calloc(1, sizeof(Connection))
        if c == NULL:
            close(fd)
            self.figures.closed += 1
            return
        c.fd = fd
        c.listener = <uint8_t> listener
        c.serial = serial
        c.tls = self.transport.speaks_tls[listener]
        c.guest = self.guests.asks
        c.active_ms = self.now_ms
        c.next = self.all
        if self.all != NULL:
            self.all.previous = c
        self.all = c
        if self._watch(c, EPOLLIN):
            enqueue(&self.turns, c, UNREAD)
        else:
            self._close(c)

    cdef void ready(self, Connection *c) noexcept nogil:
        """The kernel has something for it, or takes something from it, or it broke."""
        if c.flow == READING and c.heavy:
            enqueue(&self.turns, c, UNREAD)
        elif c.flow == READING:
            self._receive(c)
        elif c.flow == BLOCKED:
            self._send_rest(c)

    cdef int patience_ms(self, int timeout_ms) noexcept nogil:
        """How long the loop may sleep; -1 for ever."""
        if self.turns.first != NULL:
            return 0
        if self.waiters.first != NULL:
            return RETRY_MS if timeout_ms < 0 else min(timeout_ms, RETRY_MS)
        if self.idle_ms and self.all != NULL:
            return LOOK_MS if timeout_ms < 0 else min(timeout_ms, LOOK_MS)
        return timeout_ms

    cdef void take_turns(self) noexcept nogil:
        """The end of a round: some of those whose turn it is, those who wait for a lock, and the end of those who must go."""
        cdef Queue tried = self.waiters
        cdef Connection *c
        if self.waiters.first != NULL and self.now_ms - self.tried_ms >= RETRY_MS:
            self.tried_ms = self.now_ms
            self.waiters.first = self.waiters.last = NULL       # whoever has to wait again is not among them
            c = dequeue(&tried)
            while c != NULL:
                self._take_turn(c)
                c = dequeue(&tried)
        while self.turns.first != NULL:
            self._take_turn(dequeue(&self.turns))
            if self.spent >= ROUND_COST:
                break
        self.spent = 0
        if self.idle_ms and self.now_ms - self.looked_ms >= LOOK_MS:
            self._close_idle()
        while self.doomed.first != NULL:
            self._close(dequeue(&self.doomed))

    cdef void _take_turn(self, Connection *c) noexcept nogil:
        cdef bint unread = c.flow == UNREAD
        c.flow = READING
        if unread:
            self._receive(c)
        else:
            self._run(c, &c.input)

    cdef void _close_idle(self) noexcept nogil:
        cdef Connection *c = self.all
        self.looked_ms = self.now_ms
        while c != NULL:
            if (c.flow == READING or c.flow == BLOCKED) and self.now_ms - c.active_ms >= self.idle_ms:
                self.figures.idle_kicks += 1
                self._doom(c)
            c = c.next

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
        got = self.transport.receive(c, into.data + into.end, min(into.cap - into.end, c.need + INPUT_SIZE))
        if got > 0:
            c.active_ms = self.now_ms
            into.end += got
            self.figures.bytes_read += got
            self._run(c, into)
        elif got == 0:
            self._end_of_input(c)
        elif (errno != EAGAIN and errno != EINTR) or self.draining:
            self._close(c)
        elif c.lagging:         # a handshake's answer
            c.flow = BLOCKED
            if not self._watch(c, EPOLLOUT):
                self._close(c)

    cdef Buffer *_input_for(self, Connection *c) noexcept nogil:
        """Where to receive: the connection's own buffer for a long request, else the shared one.

        The connection keeps its bytes until `_run`, in case nothing comes. NULL: out of memory.
        """
        cdef size_t have = waiting(&c.input)
        if c.need > DIRECT_NEED:
            if c.input.cap - c.input.end == 0 and not self._reserve(c, &c.input, min(c.need - have, max(have, INPUT_SIZE))):
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
        cdef size_t before = waiting(source)
        cdef size_t requests = 0
        cdef size_t cost
        cdef int sent = ALL
        cdef bint more = waiting(source) >= c.need
        self.executor.client = c
        self.executor.blocked = False
        self.executor.patient = c.watched != 0 and self.waiters.first == NULL       # once, not for each of a crowd
        while more and sent == ALL and turn_size < TURN_SIZE and requests < self.turn_requests:
            more = self._next(c, source)
            requests += 1
            if self.executor.out.end >= FLUSH_SIZE:
                turn_size += self.executor.out.end
                sent = self._send(c)
        turn_size += self.executor.out.end
        if sent == ALL and (self.executor.out.end or c.lagging):
            sent = self._send(c)
        cost = before - waiting(source) + turn_size + requests * REQUEST_COST
        c.heavy = requests == self.turn_requests or cost > HEAVY_COST
        self.spent += cost
        self.executor.shrink()
        if sent == NONE or self.executor.failed or not self._keep(c, source):
            self._close(c)
        elif sent == SOME:
            pass
        elif self.executor.blocked:
            self._watch(c, 0)       # a hangup cannot be awaited away, and takes nothing back that was asked before it
            enqueue(&self.waiters, c, WAITING)
        elif more:
            self.figures.yields += 1
            enqueue(&self.turns, c, YIELDED)
        elif c.unread and not c.closing:
            enqueue(&self.turns, c, UNREAD)
        elif c.closing or self.draining or not self._watch(c, EPOLLIN):
            self._close(c)

    cdef bint _next(self, Connection *c, Buffer *source) noexcept nogil:
        """Parse and execute one request. False: there is no further one."""
        cdef Request request
        cdef Parser before = c.parser
        cdef int step
        self.figures.beats += 1
        if c.guest:
            return self.guests.hear(c, source)
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
            if c != other and (c.flow == READING or c.flow == BLOCKED) and c.input.cap + c.output.cap > 0:
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
        enqueue(&self.doomed, c, DOOMED)

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

    cdef int _send(self, Connection *c) noexcept nogil:
        """Send the out buffer; what is not taken moves to the connection. Returns a Sent; the out buffer is empty then."""
        cdef Buffer *out = &self.executor.out
        cdef ssize_t taken = self.transport.transmit(c, out.data, out.end)
        cdef size_t left
        self.executor.unwindable = False
        if taken < 0:
            taken = 0 if errno == EAGAIN or errno == EINTR else -1
        left = out.end - taken
        out.end = 0
        if taken < 0:
            return NONE
        self.figures.bytes_written += taken
        if left == 0 and not c.lagging:
            return ALL
        if left and not self._reserve(c, &c.output, left):
            return NONE
        memcpy(c.output.data, out.data + taken, left)
        c.output.end = left
        c.flow = BLOCKED
        return SOME if self._watch(c, EPOLLOUT) else NONE

    cdef void _send_rest(self, Connection *c) noexcept nogil:
        """The client takes bytes again; when it has them all, its waiting requests get their turn."""
        cdef ssize_t taken = self.transport.transmit(c, c.output.data + c.output.start, waiting(&c.output))
        if taken < 0:
            if errno != EAGAIN and errno != EINTR:
                self._close(c)
            return
        c.active_ms = self.now_ms
        self.figures.bytes_written += taken
        c.output.start += taken
        if waiting(&c.output) or c.lagging:
            return
        self.pool.release(&c.output)
        if c.closing:
            self._close(c)
            return
        if c.heavy:
            enqueue(&self.turns, c, YIELDED)
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
        self.transport.end(c)
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
