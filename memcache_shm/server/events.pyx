# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False, auto_pickle=False
"""What clients may watch: a log of events, in an anonymous mapping made before the fork.

Each worker writes its events into a ring of its own and never waits: the oldest are overwritten. A watching client has a place in every
ring, so a client that is too slow misses events and is told how many. Workers look at one word, the union of what is being watched
anywhere, before they write anything; so the log costs a load a request while nobody watches.

At the end of a round of its loop a worker that has logged something rings the bells (eventfds) of the workers with clients that watch it.

A worker that dies takes its watching clients with it: the supervisor zeroes its word and makes the union anew (`begin`).
"""

import mmap
import os

from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcpy
from posix.unistd cimport close, read, write

from memcache_shm.protocol.request cimport WATCH_EVICTIONS
from memcache_shm.server.events cimport DETAIL, EVICTION, RING, WATCHERS_MAX, Event, Shared, Writer, WorkerEvents, is_wanted
from memcache_shm.storage.atomics cimport (
    CLOCK_REALTIME, clock_ns, fence_full, fence_release, fetch_add64, load_acquire64, store_relaxed64, store_release64,
)
from memcache_shm.storage.layout cimport FETCHED_AT
from memcache_shm.storage.view cimport Evicted, View, left_s, table_ns
from memcache_shm.storage.walk cimport idle_s

assert sizeof(Event) == 320 and sizeof(Shared) == 64
assert sizeof(WorkerEvents) % 64 == 0, "a worker's figures share no cache line with another's"


cdef class Events:

    def __init__(self, int workers):
        cdef unsigned char[::1] view
        cdef int which
        self.workers = workers
        self._mapping = mmap.mmap(-1, sizeof(Shared) + workers * sizeof(WorkerEvents))
        view = self._mapping
        self.shared = <Shared *> &view[0]
        self.worker = <WorkerEvents *> (self.shared + 1)
        self.shared.crawler = 1
        self.bells = <int *> calloc(workers, sizeof(int))
        if self.bells == NULL:
            raise MemoryError("no room for the descriptors of the events")
        for which in range(workers):
            self.bells[which] = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)

    def __dealloc__(self):
        cdef int which
        for which in range(self.workers if self.bells != NULL else 0):
            close(self.bells[which])
        free(self.bells)

    def begin(self, int which):
        """Before a worker is forked into this place: its predecessor's clients watch no longer."""
        self.dismiss(which, 0)
        self.worker[which].watchers = 0
        self.worker[which].begun = self.worker[which].head

    @property
    def detail(self):
        """Whether `stats detail` counts."""
        return self.shared.detail != 0

    @detail.setter
    def detail(self, bint on):
        self.shared.detail = <uint64_t> DETAIL if on else 0
        self.settle()

    @property
    def sizes(self):
        """Whether `stats sizes` is on."""
        return self.shared.sizes != 0

    @sizes.setter
    def sizes(self, bint on):
        self.shared.sizes = on

    def crawler(self):
        """What lru_crawler was told: enabled, sleep in microseconds, tocrawl."""
        return bool(self.shared.crawler), self.shared.crawler_sleep_us, self.shared.crawler_tocrawl

    def sums(self):
        """Sums over the workers, by memcached's names."""
        cdef int which
        names = {"log_worker_dropped": 0, "log_worker_written": 0, "log_watcher_skipped": 0, "log_watcher_sent": 0, "log_watchers": 0}
        for which in range(self.workers):
            names["log_worker_written"] += self.worker[which].head
            names["log_watcher_skipped"] += self.worker[which].skipped
            names["log_watcher_sent"] += self.worker[which].sent
            names["log_watchers"] += self.worker[which].watchers
        return names

    cdef void settle(self) noexcept nogil:
        """Make the union anew. Several may do so at once: whoever stores last has looked at the words again after it, so it ends right."""
        cdef uint64_t union_
        cdef int which
        while True:
            fence_full()
            union_ = load_acquire64(&self.shared.detail)
            for which in range(self.workers):
                union_ |= load_acquire64(&self.worker[which].kinds)
            if union_ == load_acquire64(&self.shared.wanted):
                return
            store_release64(&self.shared.wanted, union_)

    cdef bint admit(self, int which, uint64_t kinds) noexcept nogil:
        """One more watching client of a worker. False: there are too many."""
        cdef uint64_t watchers = 0
        cdef int at
        for at in range(self.workers):
            watchers += self.worker[at].watchers
        if watchers >= WATCHERS_MAX:
            return False
        self.worker[which].watchers += 1
        store_release64(&self.worker[which].kinds, self.worker[which].kinds | kinds)
        self.settle()
        return True

    cdef void dismiss(self, int which, uint64_t kinds_left) noexcept nogil:
        """A worker's clients watch these kinds and no others now."""
        store_release64(&self.worker[which].kinds, kinds_left)
        self.settle()

    cdef void ring_bells(self, uint64_t kinds) noexcept nogil:
        """Wake the workers with clients that watch one of these kinds; a bell that was rung and not heard yet rings on."""
        cdef uint64_t one = 1
        cdef int which
        for which in range(self.workers):
            if load_acquire64(&self.worker[which].kinds) & kinds:
                write(self.bells[which], &one, sizeof(one))

    cdef void answer_bell(self, int which) noexcept nogil:
        cdef uint64_t rung
        read(self.bells[which], &rung, sizeof(rung))


cdef Event *begin_event(Writer *log, int type, int kind) noexcept nogil:
    """The place of the next event, whoever still reads there; `end_event` must follow. A reader is told first that its copy is void."""
    cdef WorkerEvents *mine = log.mine
    cdef Event *event = &mine.ring[mine.head % RING]
    store_relaxed64(&mine.begun, mine.head + 1)
    fence_release()
    event.gid = fetch_add64(&log.shared.gid, 1) + 1
    event.time_us = clock_ns(CLOCK_REALTIME) // 1000
    event.kind = kind
    event.type = type
    log.fresh |= kind
    return event


cdef void end_event(Writer *log) noexcept nogil:
    store_release64(&log.mine.head, log.mine.head + 1)


cdef void saw_eviction(void *log, View *v, const Evicted *item) noexcept nogil:
    """The table takes an item out for want of room: under the shard's lock, so in a few stores."""
    cdef Event *event
    if is_wanted(<Writer *> log, WATCH_EVICTIONS):
        event = begin_event(<Writer *> log, EVICTION, WATCH_EVICTIONS)
        event.klen = <uint8_t> item.klen
        memcpy(event.text, item.key, item.klen)
        event.number = 0
        event.status = (item.word >> FETCHED_AT) & 1
        event.ttl_s = left_s(v, item.expiry)
        event.idle_s = idle_s(v, item.word, <uint32_t> (table_ns(v) // 1000000000))
        event.size = item.vlen
        end_event(<Writer *> log)
