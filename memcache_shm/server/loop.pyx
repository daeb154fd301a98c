# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False, auto_pickle=False
"""A worker's loop: one epoll for all its connections, the supervisor's link and the stop signal. It knows no protocol.

It advances `beats` in every round, so a message without descriptors on the link makes an idle worker show that it lives.
"""

from libc.errno cimport EINTR, errno
from libc.stdint cimport uint64_t
from libc.string cimport memcpy, memset

# Imported for what their import does: each registers its functions with the executor.
import memcache_shm.server.handlers.admin  # noqa: F401
import memcache_shm.server.handlers.backing_up  # noqa: F401
import memcache_shm.server.handlers.channels  # noqa: F401
import memcache_shm.server.handlers.classic  # noqa: F401
import memcache_shm.server.handlers.dumping  # noqa: F401
import memcache_shm.server.handlers.meta  # noqa: F401
import memcache_shm.server.handlers.simple  # noqa: F401
import memcache_shm.server.handlers.subscribing  # noqa: F401
import memcache_shm.server.handlers.syncing  # noqa: F401
import memcache_shm.server.handlers.watching  # noqa: F401

from memcache_shm.server.channels cimport Channels, is_bell_tag, of_bell_tag
from memcache_shm.server.clients cimport Clients
from memcache_shm.server.connection cimport Connection
from memcache_shm.server.counters cimport DaemonFigures, WorkerFigures
from memcache_shm.server.executor cimport Executor
from memcache_shm.server.guests cimport Guests
from memcache_shm.server.handover cimport HANDOVER_MAX, Handover
from memcache_shm.server.linux cimport (
    CLOCK_MONOTONIC, CMSG_DATA, CMSG_FIRSTHDR, CMSG_LEN, CMSG_SPACE, EPOLL_CLOEXEC, EPOLL_CTL_ADD, EPOLL_CTL_DEL, EPOLLIN,
    MSG_CMSG_CLOEXEC, MSG_DONTWAIT, MSG_NOSIGNAL, PR_SET_PDEATHSIG, clock_gettime, close, cmsghdr, epoll_create1, epoll_ctl, epoll_event,
    epoll_wait, iovec, msghdr, prctl, recvmsg, send, timespec,
)
from memcache_shm.server.transport cimport Transport
from memcache_shm.storage.atomics cimport clock_ns, load_acquire64, store_release64
from memcache_shm.storage.patience cimport pass_time

cdef enum:
    EVENTS = 256                # taken from the kernel at a time
    ASK_NS = 20000              # between two questions to epoll while channels are busy

# epoll's tag of a descriptor that is no connection is the address of one of these
cdef char LINK
cdef char STOP
cdef char BELL
cdef char NEWS


cdef uint64_t _now_ms() noexcept nogil:
    cdef timespec now
    clock_gettime(CLOCK_MONOTONIC, &now)
    return <uint64_t> now.tv_sec * 1000 + now.tv_nsec // 1000000


def die_with_parent(int signal_number):
    """Ask the kernel for that signal when the parent ends. Raises OSError."""
    if prctl(PR_SET_PDEATHSIG, signal_number) < 0:
        raise OSError(errno, "prctl(PR_SET_PDEATHSIG)")


cdef class WorkerLoop:

    cdef Clients _clients
    cdef Executor _executor
    cdef WorkerFigures *_figures
    cdef int _epoll
    cdef int _link              # connections come through it; its end means: stop
    cdef int _stop              # readable means: stop
    cdef uint64_t _drain_ms     # how long slow clients may take their last replies
    cdef uint64_t _generation   # of the table it serves; the fork brought the first
    cdef object _renew_table    # Callable[[], None]: attach the table that took its place
    cdef DaemonFigures *_daemon
    cdef uint64_t _reload       # how often files were asked to be read again, as far as it did
    cdef object _read_again     # Callable[[], None]: read them
    cdef bint _stopping
    cdef Channels _channels
    cdef uint64_t _asked_ns     # when epoll was asked last, monotonic clock

    def __init__(self, config, Executor executor, Transport transport, Guests guests, int link, int stop, renew_table, reload):
        self._epoll = epoll_create1(EPOLL_CLOEXEC)
        if self._epoll < 0:
            raise OSError(errno, "epoll_create1")
        self._clients = Clients(config, executor, transport, guests, self._epoll)
        self._executor = executor
        self._channels = executor.channels
        self._figures = executor.figures
        self._daemon = executor.counters.daemon
        self._link = link
        self._stop = stop
        self._drain_ms = <uint64_t> (config.drain_s * 1000)
        self._renew_table = renew_table
        self._read_again = reload
        self._add(link, &LINK)
        self._add(stop, &STOP)
        self._add(executor.events.bells[executor.which], &BELL)
        self._add(executor.subscribers.ringer.fd(), &NEWS)

    cdef int _add(self, int fd, void *tag) except -1:
        cdef epoll_event event
        event.events = EPOLLIN
        event.data.ptr = tag
        if epoll_ctl(self._epoll, EPOLL_CTL_ADD, fd, &event) < 0:
            raise OSError(errno, "epoll_ctl")
        return 0

    def run(self):
        """Serve until the link ends or `stop` becomes readable, then answer what has been read, and return."""
        cdef int error
        with nogil:
            self._figures.up = 1
            send(self._link, b"U", 1, MSG_NOSIGNAL | MSG_DONTWAIT)      # last: who hears it finds us up
            error = self._serve()
            if not error:
                error = self._drain()
            self._clients.close_all()
        if error:
            raise OSError(error, "epoll_wait")

    cdef int _serve(self) noexcept nogil:
        """Returns 0, or the errno that ended it."""
        while not self._stopping:
            if self._round(-1) < 0:
                return errno
        return 0

    cdef int _drain(self) noexcept nogil:
        """Returns 0, or the errno that ended it; slow clients have a limited time."""
        cdef uint64_t until = _now_ms() + self._drain_ms
        cdef uint64_t now = _now_ms()
        store_release64(&self._figures.leaving, 1)      # one that is told to leave by itself may drain for a while
        while self._receive_connections():
            pass
        epoll_ctl(self._epoll, EPOLL_CTL_DEL, self._link, NULL)         # both stay readable, and have told what they had to tell
        epoll_ctl(self._epoll, EPOLL_CTL_DEL, self._stop, NULL)
        self._clients.drain()
        while self._clients.all != NULL and now < until:
            if self._round(<int> (until - now)) < 0:
                return errno
            now = _now_ms()
        return 0

    cdef int _round(self, int timeout_ms) noexcept nogil:
        """One wait and what it brings. Connections are closed only in their own event, so no tag is stale. -1: errno says."""
        cdef epoll_event events[EVENTS]
        cdef int count = self._wait(events, self._clients.patience_ms(timeout_ms))
        cdef int at
        cdef bint rung = False
        cdef bint heard = False
        if count < 0:
            return 0 if errno == EINTR else -1
        self._figures.beats += 1
        self._clients.now_ms = _now_ms()
        if load_acquire64(&self._figures.generation) != self._generation:
            self._renew()
        if load_acquire64(&self._daemon.reload) != self._reload:
            self._reload_files()
        for at in range(count):
            if events[at].data.ptr == &LINK:
                self._stopping |= not self._receive_connections()
            elif events[at].data.ptr == &STOP:
                self._stopping = True
            elif events[at].data.ptr == &BELL:
                rung = True
            elif events[at].data.ptr == &NEWS:
                heard = True
            else:
                self._hear_client(events[at].data.ptr)
        self._clients.hear_channels()
        if rung:
            self._executor.events.answer_bell(self._executor.which)
            self._clients.hear_bell()
        if heard:
            self._clients.hear_news()
        self._clients.take_turns()
        if self._executor.log.fresh:
            self._executor.events.ring_bells(self._executor.log.fresh)
            self._executor.log.fresh = 0
        return 0

    cdef inline void _hear_client(self, void *tag) noexcept nogil:
        """A connection with a channel is not served here: it may be closed then, and another event of it may follow."""
        if is_bell_tag(tag):
            self._channels.hear_bell(of_bell_tag(tag))
        elif (<Connection *> tag).channel != NULL:
            self._channels.hear_end(<Connection *> tag)
        else:
            self._clients.ready(<Connection *> tag)

    cdef int _wait(self, epoll_event *events, int timeout_ms) noexcept nogil:
        """As epoll_wait, but it looks at the rings of busy channels for a while, which saves them a system call, before it sleeps. 0 also
        where one of them is ready."""
        cdef uint64_t now_ns
        cdef bint shared
        cdef int count
        while self._channels.watched_count and timeout_ms:
            now_ns = clock_ns(CLOCK_MONOTONIC)
            if now_ns - self._asked_ns >= ASK_NS:
                self._asked_ns = now_ns
                count = epoll_wait(self._epoll, events, EVENTS, 0)
                if count:
                    return count
            if self._channels.any_ready():
                return 0
            shared = self._channels.all_share_processor()
            if self._channels.is_patient(now_ns, shared):
                pass_time(&self._channels.patience, self._channels.busy_ns, now_ns, shared)
            elif not self._channels.sleep(now_ns):
                return 0
        count = epoll_wait(self._epoll, events, EVENTS, timeout_ms)
        if self._figures.channels:
            self._asked_ns = clock_ns(CLOCK_MONOTONIC)
        return count

    cdef void _renew(self) noexcept with gil:
        """Between two rounds, when no request refers to the table."""
        self._generation = load_acquire64(&self._figures.generation)
        self._renew_table()

    cdef void _reload_files(self) noexcept with gil:
        self._reload = load_acquire64(&self._daemon.reload)
        self._read_again()

    cdef bint _receive_connections(self) noexcept nogil:
        """One message of the link. False: there is none, or the supervisor closed its end."""
        cdef char control[1024]
        cdef Handover announced
        cdef int fds[HANDOVER_MAX]
        cdef iovec data
        cdef msghdr message
        cdef cmsghdr *header
        cdef int came = 0
        cdef int at
        memset(&message, 0, sizeof(message))
        memset(&announced, 0, sizeof(announced))
        data.iov_base = &announced
        data.iov_len = sizeof(announced)
        message.msg_iov = &data
        message.msg_iovlen = 1
        message.msg_control = control
        message.msg_controllen = CMSG_SPACE(sizeof(fds))
        if recvmsg(self._link, &message, MSG_CMSG_CLOEXEC | MSG_DONTWAIT) <= 0:
            return False
        header = CMSG_FIRSTHDR(&message)
        if header != NULL:
            came = <int> ((header.cmsg_len - CMSG_LEN(0)) // sizeof(int))
            memcpy(fds, CMSG_DATA(header), came * sizeof(int))
        for at in range(came):
            self._clients.adopt(fds[at], announced.listener[at])
        self._figures.closed += announced.count - came
        self._figures.lost += announced.count - came      # for want of descriptors
        return True

    def __dealloc__(self):
        if self._epoll >= 0:
            close(self._epoll)
