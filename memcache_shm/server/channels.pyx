# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False, auto_pickle=False
"""A worker's channels: connections whose bytes go through rings in shared memory instead of their sockets.

    `channel` on a UNIX socket -> open: a sealed memfd with two rings (storage/rings.pyx) and an eventfd, the bell, go to the client
    receive, transmit          -> pull and push, with the results of recv and send; `transport` asks here where it would ask a socket
    the socket                 -> carries nothing any more; its end tells that the client is gone, however it died

epoll cannot wait for rings. So each channel is either watched, which means that the loop looks at its places in every round, or its
client has been asked to ring the bell (`go_to_sleep`). A channel is watched from the moment on that nothing was to be had from it. When
nobody was ready for a while, the bells are asked for, the rings are looked at once more, and the worker sleeps in epoll. How long that
while is follows what came of it: a microsecond of looking is cheaper than a sleep and its end, ten thousand are not.

Each channel has a bell of its own, and it is never read: epoll reports its edges. A client could take another's rings from a common bell,
and could make a read of its own wait. It cannot make the block smaller either, so all it can do to the worker is ring too often.
"""

from libc.errno cimport EAGAIN, EPIPE, EPROTO, errno
from libc.stdint cimport UINT32_MAX, int64_t, uint32_t, uint64_t
from libc.stdio cimport snprintf
from libc.stdlib cimport calloc, free
from libc.string cimport memcpy, memset

from memcache_shm.server.channels cimport NO_MEANS, NOT_LOCAL, OPENED, TOO_MANY_CHANNELS, Channel, bell_tag
from memcache_shm.server.connection cimport BLOCKED, LISTENING, READING, Connection
from memcache_shm.server.counters cimport Counters
from memcache_shm.server.linux cimport (
    CMSG_DATA, CMSG_FIRSTHDR, CMSG_LEN, CMSG_SPACE, EFD_CLOEXEC, EFD_NONBLOCK, EPOLL_CTL_ADD, EPOLL_CTL_DEL, EPOLL_CTL_MOD, EPOLLET,
    EPOLLIN, EPOLLRDHUP, MSG_DONTWAIT, MSG_NOSIGNAL, SCM_RIGHTS, SOL_SOCKET, close, cmsghdr, epoll_ctl, epoll_event, eventfd, iovec,
    msghdr, sendmsg,
)
from memcache_shm.storage.atomics cimport CLOCK_MONOTONIC, clock_ns, fence_full, futex_wake, load_acquire64, store_release64
from memcache_shm.storage.patience cimport init_patience, looked_in_vain, looked_long_enough, may_look, slept_too_early
from memcache_shm.storage.rings cimport (
    WAITS_BYTES, WAITS_ROOM, End, arrived, empty_block, go_to_sleep, has_ended, make_block, must_tell_room, must_wake, pull, push, room,
    say_closed, shares_processor, stay_awake, unmap_block,
)

cdef enum:
    SILENT_NS = 1000000         # without a byte, before a channel is no longer watched while others are busy
    DESCRIPTORS = 2             # that the client gets
    REPLY_MAX = 64              # bytes of its reply
    CONTROL_MAX = 64            # bytes of what is beside it

cdef uint32_t NOWHERE = UINT32_MAX


cdef inline End *_end(const Connection *c) noexcept nogil:
    return &(<Channel *> c.channel).end


cdef inline ssize_t _fail(int reason) noexcept nogil:
    """As a system call does."""
    (&errno)[0] = reason
    return -1


cdef inline void _wake(End *end, uint32_t bits) noexcept nogil:
    """The client, if it sleeps for one of these."""
    if must_wake(end, bits):
        futex_wake(end.their_waits, 1)


cdef bint _introduce(const Connection *c, const End *end, int memory, int bell) noexcept nogil:
    """The reply, and the descriptors beside it. False: the socket does not take it, or not all of it."""
    cdef char text[REPLY_MAX]
    cdef char control[CONTROL_MAX]
    cdef int fds[DESCRIPTORS]
    cdef iovec data
    cdef msghdr message
    cdef cmsghdr *header
    memset(&message, 0, sizeof(message))
    memset(control, 0, sizeof(control))
    fds[0], fds[1] = memory, bell
    data.iov_base = text
    data.iov_len = snprintf(text, sizeof(text), b"CHANNEL %lu %lu\r\n", end.incoming.size, end.outgoing.size)
    message.msg_iov = &data
    message.msg_iovlen = 1
    message.msg_control = control
    message.msg_controllen = CMSG_SPACE(sizeof(fds))
    header = CMSG_FIRSTHDR(&message)
    header.cmsg_level = SOL_SOCKET
    header.cmsg_type = SCM_RIGHTS
    header.cmsg_len = CMSG_LEN(sizeof(fds))
    memcpy(CMSG_DATA(header), fds, sizeof(fds))
    return sendmsg(c.fd, &message, MSG_NOSIGNAL | MSG_DONTWAIT) == <ssize_t> data.iov_len


cdef class Channels:

    def __init__(self, config, Counters counters, int which):
        self.counters = counters
        self.figures = &counters.worker[which]
        self.most = config.channels
        init_patience(&self.patience)
        memset(self.local, 0, sizeof(self.local))
        for place, listener in enumerate(config.listeners):
            self.local[place] = bool(listener.address.path)
        self.watched = <Connection **> calloc(max(self.most, 1), sizeof(Connection *))
        if self.watched == NULL:
            raise MemoryError("no room for the list of channels")

    def __dealloc__(self):
        free(self.watched)

    cdef int open(self, Connection *c, uint64_t request_bytes, uint64_t reply_bytes) noexcept nogil:
        """Give a connection a channel, and tell its client. An Opened; unless that is OPENED nothing has happened."""
        cdef Channel *channel
        if c == NULL or not self.local[c.listener] or c.tls:
            return NOT_LOCAL
        if not self._admit():
            return TOO_MANY_CHANNELS
        channel = <Channel *> calloc(1, sizeof(Channel))
        if channel != NULL:
            channel.client = c
            channel.bell = -1
            channel.place = NOWHERE
            self._show(c, True)         # first: whoever has heard of it may look
            if self._make(channel, request_bytes, reply_bytes):
                c.channel = channel
                c.watched = EPOLLIN
                return OPENED
            self._show(c, False)
            self._release(channel)
        store_release64(&self.figures.channels, self.figures.channels - 1)
        return NO_MEANS

    cdef void _show(self, Connection *c, bint opened) noexcept nogil:
        """That it has a channel, or has none after all."""
        self.figures.channels_opened += 1 if opened else -1
        if c.seat != NULL:
            c.seat.channel = opened

    cdef bint _admit(self) noexcept nogil:
        """Count one more. False: the daemon has as many as it may; two workers that count at the same time may both hear so."""
        cdef uint64_t open_channels = 0
        cdef int which
        store_release64(&self.figures.channels, self.figures.channels + 1)
        fence_full()
        for which in range(self.counters.workers):
            open_channels += load_acquire64(&self.counters.worker[which].channels)
        if open_channels <= self.most:
            return True
        store_release64(&self.figures.channels, self.figures.channels - 1)
        return False

    cdef bint _make(self, Channel *channel, uint64_t request_bytes, uint64_t reply_bytes) noexcept nogil:
        """Rings, bell and reply. False: what there is of them has to be released."""
        cdef Connection *c = channel.client
        cdef epoll_event event
        cdef int memory
        cdef bint told
        if make_block(&channel.end, request_bytes, reply_bytes, &memory) < 0:
            return False
        channel.bell = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)
        event.events = EPOLLIN | EPOLLET
        event.data.ptr = bell_tag(c)
        told = channel.bell >= 0 and epoll_ctl(self.epoll, EPOLL_CTL_ADD, channel.bell, &event) == 0
        event.events = EPOLLRDHUP
        event.data.ptr = c
        told = told and epoll_ctl(self.epoll, EPOLL_CTL_MOD if c.watched else EPOLL_CTL_ADD, c.fd, &event) == 0
        if told:
            c.watched = EPOLLRDHUP
            told = _introduce(c, &channel.end, memory, channel.bell)
        close(memory)
        return told

    cdef ssize_t receive(self, Connection *c, char *dst, size_t size) noexcept nogil:
        """As recv(2), without waiting. `unread` tells whether more is there; if not, the channel is watched."""
        cdef Channel *channel = <Channel *> c.channel
        cdef bint ended = channel.gone or has_ended(&channel.end)
        cdef size_t got = pull(&channel.end, dst, size)
        if channel.end.broken:
            return _fail(EPROTO)
        if got and must_tell_room(&channel.end):
            futex_wake(channel.end.their_waits, 1)
        c.unread = arrived(&channel.end) != 0
        if not c.unread:
            self.watch(c)
        if got == 0:
            return 0 if ended else _fail(EAGAIN)
        return got

    cdef ssize_t transmit(self, Connection *c, const char *src, size_t size) noexcept nogil:
        """As send(2), without waiting. If not all was taken, the channel is watched. One that is closing is `lagging` until its client has
        taken everything, since the memory goes with it."""
        cdef Channel *channel = <Channel *> c.channel
        cdef size_t taken
        if channel.gone:
            return _fail(EPIPE)
        taken = push(&channel.end, src, size)
        if channel.end.broken:
            return _fail(EPROTO)
        if taken:
            _wake(&channel.end, WAITS_BYTES)
        c.lagging = c.closing and not self.leaving and room(&channel.end) < channel.end.outgoing.size
        if taken < size or c.lagging:
            self.watch(c)
        return taken if taken or size == 0 else _fail(EAGAIN)

    cdef void end(self, Connection *c) noexcept nogil:
        """Before its socket is closed."""
        cdef Channel *channel = <Channel *> c.channel
        say_closed(&channel.end)
        _wake(&channel.end, WAITS_BYTES | WAITS_ROOM)
        self._forget(channel)
        c.channel = NULL
        self._release(channel)
        store_release64(&self.figures.channels, self.figures.channels - 1)

    cdef void _release(self, Channel *channel) noexcept nogil:
        """The client has the bell as well, so it leaves epoll by name."""
        if channel.bell >= 0:
            epoll_ctl(self.epoll, EPOLL_CTL_DEL, channel.bell, NULL)
            close(channel.bell)
        if channel.end.block != NULL and not self.leaving:
            empty_block(&channel.end)
        unmap_block(&channel.end)
        free(channel)

    cdef void watch(self, Connection *c) noexcept nogil:
        """Look at it from now on, in each round."""
        cdef Channel *channel = <Channel *> c.channel
        if channel.place == NOWHERE:
            stay_awake(&channel.end)
            channel.heard_ns = self.busy_ns
            channel.place = self.watched_count
            self.watched[channel.place] = c
            self.watched_count += 1

    cdef void _forget(self, Channel *channel) noexcept nogil:
        """Look at it no longer. The list's last one takes its place."""
        cdef Connection *last
        if channel.place != NOWHERE:
            self.watched_count -= 1
            last = self.watched[self.watched_count]
            self.watched[channel.place] = last
            (<Channel *> last.channel).place = channel.place
            channel.place = NOWHERE

    cdef void hear_bell(self, Connection *c) noexcept nogil:
        self.watch(c)
        if self.slept and not shares_processor(_end(c)):
            slept_too_early(&self.patience, clock_ns(CLOCK_MONOTONIC) - self.busy_ns)
        self.slept = False

    cdef void hear_end(self, Connection *c) noexcept nogil:
        """Its socket has come to its end: what it has published is still served."""
        (<Channel *> c.channel).gone = True
        epoll_ctl(self.epoll, EPOLL_CTL_DEL, c.fd, NULL)
        self.watch(c)

    cdef bint is_ready(self, const Connection *c) noexcept nogil:
        """Whether a turn would get on, for one that waits for its client."""
        cdef Channel *channel = <Channel *> c.channel
        cdef uint64_t wanted
        if c.flow == READING or c.flow == LISTENING:
            return arrived(&channel.end) != 0 or channel.end.broken or channel.gone or has_ended(&channel.end)
        if c.flow == BLOCKED:
            wanted = channel.end.outgoing.size if c.closing else channel.end.outgoing.size // 2
            return room(&channel.end) >= wanted or channel.end.broken or channel.gone
        return False

    cdef bint any_ready(self) noexcept nogil:
        cdef uint32_t at
        for at in range(self.watched_count):
            if self.is_ready(self.watched[at]):
                return True
        return False

    cdef bint all_share_processor(self) noexcept nogil:
        """Whether nobody of those who are watched can do anything while this worker runs."""
        cdef uint32_t at
        for at in range(self.watched_count):
            if not shares_processor(_end(self.watched[at])):
                return False
        return True

    cdef bint is_patient(self, uint64_t now_ns, bint shared) noexcept nogil:
        """Whether to look once more before a sleep; `shared` as above."""
        return <int64_t> (now_ns - self.busy_ns) < self.patience.look_ns and may_look(&self.patience, now_ns, shared)

    cdef void note_ready(self, uint64_t now_ns) noexcept nogil:
        """Somebody was, at last."""
        looked_long_enough(&self.patience, now_ns - self.busy_ns)
        self.busy_ns = now_ns

    cdef bint _fell_asleep(self, Connection *c) noexcept nogil:
        """Ask a channel for its bell, and watch it no longer. False: it became ready. Who waits for something else than its client is
        watched again when that is over."""
        cdef Channel *channel = <Channel *> c.channel
        if c.flow == READING or c.flow == LISTENING or c.flow == BLOCKED:
            go_to_sleep(&channel.end, WAITS_ROOM if c.flow == BLOCKED else WAITS_BYTES)
            if self.is_ready(c):
                stay_awake(&channel.end)
                return False
        self._forget(channel)
        return True

    cdef void weed(self) noexcept nogil:
        """While others are busy: ask those for their bells that have long been silent, so that looking costs no more than they are."""
        cdef uint32_t at = self.watched_count
        if self.busy_ns - self.weeded_ns < SILENT_NS:
            return
        self.weeded_ns = self.busy_ns
        while at > 0:
            at -= 1
            if <int64_t> (self.busy_ns - (<Channel *> self.watched[at].channel).heard_ns) >= SILENT_NS:
                self._fell_asleep(self.watched[at])

    cdef bint sleep(self, uint64_t now_ns) noexcept nogil:
        """Ask for all bells. False: somebody became ready, and is watched on."""
        cdef uint32_t at = self.watched_count
        while at > 0:
            at -= 1
            self._fell_asleep(self.watched[at])
        if <int64_t> (now_ns - self.busy_ns) >= self.patience.look_ns:
            looked_in_vain(&self.patience)
        self.busy_ns = now_ns
        self.slept = self.watched_count == 0
        return self.slept
