# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False, auto_pickle=False
"""A thread that rings when the feed has news: an epoll loop cannot wait for a futex.

    start -> the thread: rings, pauses for PAUSE_NS, sleeps until the feed goes further or for LIMIT_NS, and so on
    release -> it ends when it wakes next; a start before that keeps it

The pause bounds how often a busy writer has to wake it: once, however much it writes meanwhile. It rings after LIMIT_NS in any case, so
that the worker looks at its lease. The thread knows the feed's heads and its descriptor, nothing else of the worker: it takes no signal, no
lock and no Python object. A worker ends without asking it; before its table's mapping goes, `stop` waits until it is gone.
"""

from libc.errno cimport errno
from libc.limits cimport INT_MAX
from libc.stdint cimport uint64_t
from libc.stdlib cimport calloc, free
from posix.unistd cimport read, usleep, write

from memcache_shm.server.linux cimport (
    EFD_CLOEXEC, EFD_NONBLOCK, PTHREAD_CREATE_DETACHED, SIG_SETMASK, close, eventfd, nanosleep, pthread_attr_destroy, pthread_attr_init,
    pthread_attr_setdetachstate, pthread_attr_setstacksize, pthread_attr_t, pthread_create, pthread_sigmask, pthread_t, sigfillset,
    sigset_t, timespec,
)
from memcache_shm.storage.atomics cimport cas32, fetch_add32, futex_wake, load_acquire32
from memcache_shm.storage.listening cimport heads, sleep_until_news
from memcache_shm.storage.view cimport View, is_retired

cdef enum:
    LIMIT_NS = 250000000
    PAUSE_NS = 1000000
    RETIRED_PAUSE_NS = 20000000     # there is no waiting for a table that was removed
    STACK_BYTES = 256 << 10
    STOP_US = 100                   # between two looks whether the thread is gone


cdef inline void pause(long ns) noexcept nogil:
    cdef timespec span
    span.tv_sec = 0
    span.tv_nsec = ns
    nanosleep(&span, NULL)


cdef void *ring(void *argument) noexcept nogil:
    """The thread."""
    cdef Rope *rope = <Rope *> argument
    cdef uint64_t known, one = 1
    while not (load_acquire32(&rope.state) == RELEASED and cas32(&rope.state, RELEASED, SLACK)):
        known = heads(rope.view)            # before the ring: what comes after this is rung for again
        write(rope.fd, &one, sizeof(one))
        pause(RETIRED_PAUSE_NS if is_retired(rope.view) else PAUSE_NS)
        if load_acquire32(&rope.state) == HELD:
            sleep_until_news(rope.view, known, LIMIT_NS)
    return NULL


cdef bint start_thread(Rope *rope) noexcept nogil:
    """With all signals blocked, so that they are the worker's."""
    cdef pthread_t thread
    cdef pthread_attr_t how
    cdef sigset_t every, before
    cdef int error
    if pthread_attr_init(&how) != 0:
        return False
    pthread_attr_setdetachstate(&how, PTHREAD_CREATE_DETACHED)
    pthread_attr_setstacksize(&how, STACK_BYTES)
    sigfillset(&every)
    pthread_sigmask(SIG_SETMASK, &every, &before)
    error = pthread_create(&thread, &how, ring, rope)
    pthread_sigmask(SIG_SETMASK, &before, NULL)
    pthread_attr_destroy(&how)
    return error == 0


cdef class Ringer:

    def __init__(self):
        self._rope = <Rope *> calloc(1, sizeof(Rope))
        if self._rope == NULL:
            raise MemoryError("no room for a worker's ringer")
        self._rope.fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)
        if self._rope.fd < 0:
            raise OSError(errno, "eventfd")

    cdef int fd(self) noexcept nogil:
        """Readable once it has rung."""
        return self._rope.fd

    cdef bint start(self, View *v) noexcept nogil:
        """Ring from now on, and once at first. False: the kernel has no room for a thread. Of another table only after `stop`."""
        if self._rope.state == HELD or cas32(&self._rope.state, RELEASED, HELD):
            return True
        self._rope.view = v
        self._rope.state = HELD
        if not start_thread(self._rope):
            self._rope.state = SLACK
            return False
        return True

    cdef void release(self) noexcept nogil:
        """Nobody listens any more."""
        cas32(&self._rope.state, HELD, RELEASED)

    cdef void stop(self) noexcept nogil:
        """Returns when there is no thread: it has to be woken, and may be about to sleep just then."""
        self.release()
        while load_acquire32(&self._rope.state) != SLACK:
            fetch_add32(&self._rope.view.header.feed_wake, 1)
            futex_wake(&self._rope.view.header.feed_wake, INT_MAX)
            usleep(STOP_US)

    cdef void answer(self) noexcept nogil:
        """It was heard."""
        cdef uint64_t rung
        read(self._rope.fd, &rung, sizeof(rung))

    def __dealloc__(self):
        if self._rope != NULL:
            self.stop()
            if self._rope.fd >= 0:
                close(self._rope.fd)
            free(self._rope)
