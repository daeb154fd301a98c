# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False, auto_pickle=False
"""A worker's connections: bytes in, requests executed, replies out, in bounded turns.

    readable -> _receive: one recv, as a rule into the buffer that all connections share
             -> _run: parse and execute until the bytes are used up; replies gather in the executor's out buffer
             -> _send: one send; what the client does not take moves to the connection (BLOCKED)

Only what is left of an incomplete request stays with the connection, so an idle one holds no buffer. A connection whose client
does not take its replies is neither read nor parsed until it does. One that has got TURN_SIZE bytes in a row lets
the others go first (YIELDED). One whose request finds a shard's lock taken (WAITING) keeps that request, is not read, and is
tried again every RETRY_MS until the lock is free or the table has lost patience; the replies before it are sent.
One with a stream (a dump, a client that watches) gets a piece of it a turn, before anything further of it is parsed; when the
stream has nothing for now (LISTENING) it has a turn when the worker's bell rings, and what it sends is dropped.
One that subscribes (subscribers.pyx) is sent what it is owed while it is READING, else behind the replies of a turn, never within one.
Bytes go through the `transport`, which may keep some: received ones that epoll knows nothing of (UNREAD), and replies that it took
while the client did not (`lagging`, so BLOCKED). A guest's requests go to `guests` until it is let in.
Every path ends in `_close`, or with the connection READING, BLOCKED, YIELDED, UNREAD, WAITING or LISTENING.
"""

from libc.errno cimport EAGAIN, EINTR, errno
from libc.stdint cimport UINT32_MAX, uint32_t
from libc.string cimport memcpy, memset, strlen

from memcache_shm.protocol.parser cimport next_request
from memcache_shm.protocol.request cimport CLOSE, NEED_MORE, REPLY, Parser, Request
from memcache_shm.server.buffers cimport Buffer, waiting
from memcache_shm.server.channels cimport Channel
from memcache_shm.server.clients cimport (
    ALL, DIRECT_NEED, FLUSH_SIZE, HEAVY_COST, INPUT_SIZE, LOOK_MS, NONE, REQUEST_COST, RETRY_MS,
    ROUND_COST, SOME, TURN_SIZE,
)
from memcache_shm.server.connection cimport (
    BLOCKED, LISTENING, READING, UNREAD, WAITING, YIELDED, Connection, Queue, dequeue, enqueue, take_out,
)
from memcache_shm.server.crowd cimport Crowd
from memcache_shm.server.events cimport CLOSED_BY_ERROR, CLOSED_BY_SHUTDOWN, CLOSED_NORMALLY
from memcache_shm.server.executor cimport Executor
from memcache_shm.server.guests cimport Guests
from memcache_shm.server.linux cimport EPOLLIN, EPOLLOUT
from memcache_shm.server.roster cimport SEAT_READ, SEAT_WATCH, SEAT_WRITE, show, stir
from memcache_shm.server.streams cimport FILLED_LAST, FILLED_MORE, pour
from memcache_shm.server.subscriber cimport Subscriber
from memcache_shm.server.subscribers cimport SENDS_A_ROUND, takes_news
from memcache_shm.server.transport cimport Transport
from memcache_shm.storage.atomics cimport CLOCK_MONOTONIC, clock_ns


cdef class Clients(Crowd):

    def __init__(self, config, Executor executor, Transport transport, Guests guests, int epoll):
        super().__init__(config, executor, transport, epoll)
        self.turn_requests = min(config.requests_per_event, UINT32_MAX)
        self.guests = guests
        self.subscribers = executor.subscribers
        self.channels = executor.channels
        self.channels.epoll = epoll
        self.max_value = executor.table.max_value
        memset(&self.input, 0, sizeof(Buffer))
        if not executor.own.reserve(&self.input, INPUT_SIZE):
            raise MemoryError("no room for a worker's input buffer")

    cdef void adopt(self, int fd, int listener) noexcept nogil:
        """A new connection. Who connects has mostly sent something by now, so it gets a turn."""
        cdef Connection *c = self._enter(fd, listener)
        if c != NULL:
            c.guest = self.guests.asks
            enqueue(&self.turns, c, UNREAD)

    cdef void ready(self, Connection *c) noexcept nogil:
        """The kernel has something for it, or takes something from it, or it broke."""
        if c.flow == READING and c.heavy:
            enqueue(&self.turns, c, UNREAD)
        elif c.flow == READING:
            self._receive(c)
        elif c.flow == BLOCKED:
            self._send_rest(c)
        elif c.flow == LISTENING:
            self._drop_input(c)

    cdef void hear_channels(self) noexcept nogil:
        """Those that are watched and have something, or take something again, or broke. A turn may end its own and no other."""
        cdef uint32_t at = self.channels.watched_count
        cdef bint any_ready = False
        while at > 0:
            at -= 1
            if self.channels.is_ready(self.channels.watched[at]):
                any_ready = True
                (<Channel *> self.channels.watched[at].channel).heard_ns = self.channels.busy_ns
                self.ready(self.channels.watched[at])
        if any_ready:
            self.channels.note_ready(clock_ns(CLOCK_MONOTONIC))
            self.channels.weed()

    cdef int patience_ms(self, int timeout_ms) noexcept nogil:
        """How long the loop may sleep; -1 for ever."""
        if self.turns.first != NULL:
            return 0
        if self.subscribers.users:
            timeout_ms = self.subscribers.patience_ms(timeout_ms, RETRY_MS)
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
        if self.subscribers.users:
            self._tell_subscribers()
        if self.idle_ms and self.now_ms - self.looked_ms >= LOOK_MS:
            self._close_idle()
        while self.doomed.first != NULL:
            self._close(dequeue(&self.doomed))

    cdef void hear_bell(self) noexcept nogil:
        """There is something new for watching clients."""
        cdef Queue told = self.listeners
        cdef Connection *c = dequeue(&told)
        self.listeners.first = self.listeners.last = NULL       # whoever has heard all waits again
        while c != NULL:
            self._take_turn(c)
            c = dequeue(&told)

    cdef void hear_news(self) noexcept nogil:
        """The table has changed, or a moment has passed without that."""
        self.subscribers.hear()
        self.hear_bell()

    cdef void _tell_subscribers(self) noexcept nogil:
        """A piece of what is new, and what is due to some of those whom nothing else occupies."""
        cdef uint32_t count
        cdef uint32_t _at
        if self.subscribers.fresh or self.subscribers.later:
            self.subscribers.tell(self.now_ms)
        count = min(self.subscribers.owed_count, <uint32_t> SENDS_A_ROUND)
        for _at in range(count):
            self._tell(self.subscribers.next_owed().client)

    cdef void _tell(self, Connection *c) noexcept nogil:
        """What a subscriber is owed, if it is no reply that it waits for; else the end of that reply brings it."""
        cdef int sent
        if c.flow == UNREAD:            # its turn may find nothing to read
            self.subscribers.owe(<Subscriber *> c.subscriber)
        elif c.flow == READING:
            self._add_news(c)
            if self.executor.out.end == 0 and not self.executor.failed:
                return
            c.active_ms = self.now_ms
            sent = self._send(c)
            self.executor.shrink()
            if sent == NONE or self.executor.failed:
                self._close(c)

    cdef void _add_news(self, Connection *c) noexcept nogil:
        """Put what a subscriber is owed behind its replies, unless the last one has not ended yet."""
        if takes_news(c) and not self.subscribers.hand_over(
            <Subscriber *> c.subscriber, &self.executor.out
        ):
            self.executor.failed = True

    cdef void _take_turn(self, Connection *c) noexcept nogil:
        cdef bint unread = c.flow == UNREAD
        c.flow = READING
        if unread:
            self._receive(c)
        else:
            self._run(c, &c.input)

    cdef void drain(self) noexcept nogil:
        """A last turn for everyone; whoever has all its replies is closed, now and from now on."""
        cdef Connection *c = self.all
        cdef Connection *following
        self.draining = self.channels.leaving = True
        while c != NULL:
            following = c.next
            c.reason = CLOSED_BY_SHUTDOWN
            if c.flow == READING:
                self._receive(c)
            elif c.flow == LISTENING:
                take_out(&self.listeners, c)
                self._close(c)
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
        c.reason = CLOSED_NORMALLY
        if c.at_eof != NULL:
            self.executor.put(c.at_eof, strlen(c.at_eof))
        if c.at_eof != NULL or c.channel != NULL:
            c.closing = True
            if self._send(c) == SOME:
                return
        self._close(c)

    cdef void _run(self, Connection *c, Buffer *source) noexcept nogil:
        """A turn: the requests in `source`, answered by as few sends as their size allows."""
        cdef size_t before = waiting(source), turn_size = 0, requests = 0, cost
        cdef int sent = ALL
        cdef bint more = c.outflow != NULL or waiting(source) >= c.need
        self.executor.client = c
        self.executor.blocked = False
        self.executor.patient = c.watched != 0 and self.waiters.first == NULL       # once, not for each of a crowd
        stir(c.seat, <uint32_t> (self.now_ms // 1000))
        while more and sent == ALL and turn_size < TURN_SIZE and requests < self.turn_requests:
            more = self._next(c, source) if c.outflow == NULL else self._pour(c, source, &turn_size)
            requests += 1
            if self.executor.out.end >= FLUSH_SIZE:
                turn_size += self.executor.out.end
                sent = self._send(c)
        if c.subscriber != NULL and sent == ALL:
            self._add_news(c)
        turn_size += self.executor.out.end
        if sent == ALL and (self.executor.out.end or c.lagging or c.closing and c.channel != NULL):
            sent = self._send(c)
        cost = before - waiting(source) + turn_size + requests * REQUEST_COST
        c.heavy = requests == self.turn_requests or cost > HEAVY_COST
        self.spent += cost
        self.executor.shrink()
        if sent == NONE or self.executor.failed or not self._keep(c, source):
            self._close(c)
        elif sent == ALL:
            self._await_more(c, more)

    cdef void _await_more(self, Connection *c, bint more) noexcept nogil:
        """The end of a turn whose replies are all sent: for what the connection waits now. `more`: it had something left to do."""
        if self.executor.blocked:
            self._watch(c, 0)       # a hangup cannot be awaited away, and takes nothing back that was asked before it
            enqueue(&self.waiters, c, WAITING)
        elif more:
            self.figures.yields += c.outflow == NULL
            enqueue(&self.turns, c, YIELDED)
        elif c.outflow != NULL:
            self._listen(c)
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
            c.reason = CLOSED_NORMALLY
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
        return (source.start < source.end or c.outflow != NULL) and not self.executor.failed

    cdef bint _pour(self, Connection *c, Buffer *source, size_t *turn_size) noexcept nogil:
        """A piece of the stream; unless it was the last one that is a turn, since to walk through a table is work, whatever it finds.
        False: there is nothing further for now."""
        cdef int filled = pour(c, self.executor)
        if filled == FILLED_LAST:
            return source.start < source.end
        turn_size[0] += TURN_SIZE
        return filled == FILLED_MORE

    cdef void _listen(self, Connection *c) noexcept nogil:
        """Nothing to tell a watching client for now."""
        if self.draining or not self._watch(c, EPOLLIN):
            self._close(c)
            return
        self.pool.release(&c.input)     # what it has sent behind its request is dropped as well
        c.need = 0
        show(c.seat, SEAT_WATCH)
        enqueue(&self.listeners, c, LISTENING)

    cdef void _drop_input(self, Connection *c) noexcept nogil:
        """A watching client says something, which is of no interest, or goes."""
        cdef ssize_t got = self.transport.receive(c, self.input.data, INPUT_SIZE)
        if got > 0:
            self.figures.bytes_read += got
        elif got == 0 or (errno != EAGAIN and errno != EINTR):
            c.reason = CLOSED_NORMALLY if got == 0 else CLOSED_BY_ERROR
            take_out(&self.listeners, c)
            self._close(c)

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
        show(c.seat, SEAT_WRITE)
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
        show(c.seat, SEAT_READ)
        if c.heavy:
            enqueue(&self.turns, c, YIELDED)
            return
        c.flow = READING
        self._run(c, &c.input)
