"""What clients may watch: a log of events in memory that supervisor and workers share (see events.pyx)."""

from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t

from memcache_shm.storage.view cimport Evicted, View

cdef enum:
    RING = 1024                 # events a worker's ring holds
    WATCHERS_MAX = 20           # of the daemon, as in memcached
    DETAIL = 1 << 16            # in Shared.wanted beside the kinds: `stats detail` counts


cdef enum EventType:
    ITEM_GET = 0
    ITEM_STORE = 1
    ITEM_DELETED = 2
    EVICTION = 3
    CONN_NEW = 4
    CONN_CLOSE = 5


cdef enum CloseReason:          # memcached's, in its order
    CLOSED_BY_ERROR = 0
    CLOSED_NORMALLY = 1
    CLOSED_IDLE = 2
    CLOSED_BY_SHUTDOWN = 3


cdef struct Event:              # 320 bytes
    uint64_t gid                # place in the order of all workers' events
    uint64_t time_us            # unix time
    uint64_t size               # value bytes
    int64_t ttl_s
    uint32_t idle_s             # EVICTION: since the last access
    uint32_t number             # of the connection, as in `stats conns`
    uint16_t port               # CONN_*: the peer's
    uint8_t kind                # protocol's Kind
    uint8_t type                # EventType
    uint8_t status              # of ITEM_GET and ITEM_STORE; EVICTION: fetched; CONN_CLOSE: CloseReason
    uint8_t command             # StoreMode
    uint8_t klen
    uint8_t family              # CONN_*: of the peer's address, which is in `text`
    char text[272]              # key or address


cdef struct WorkerEvents:
    # line 0, by the worker that logs
    uint64_t begun              # events whose place was taken; ahead of `head` while one is written
    uint64_t head               # events written
    uint64_t spare0[6]
    # line 1, by the worker for its own watching clients; zeroed by the supervisor before a fork
    uint64_t kinds              # union of what they watch
    uint64_t watchers
    uint64_t sent               # lines given to watchers; stays, as the next does
    uint64_t skipped            # events that were overwritten before a watcher had read them
    uint64_t spare1[4]
    Event ring[RING]


cdef struct Shared:             # a line, by any worker
    uint64_t wanted             # union of all workers' kinds, and DETAIL: read at every request
    uint64_t detail             # DETAIL or 0
    uint64_t gid                # last one given out
    uint64_t crawler            # 0: `lru_crawler disable` was said last
    uint64_t crawler_sleep_us
    uint64_t crawler_tocrawl
    uint64_t sizes              # 0: `stats sizes` is off
    uint64_t spare


cdef struct Writer:             # what one worker needs to log
    Shared *shared
    WorkerEvents *mine
    uint64_t fresh              # kinds logged since the last `ring_bells`


cdef class Events:
    cdef Shared *shared
    cdef WorkerEvents *worker   # one a worker
    cdef int *bells             # eventfds: a worker's is rung when there is something new for its watching clients
    cdef readonly int workers
    cdef object _mapping        # keeps the memory
    cdef void settle(self) noexcept nogil
    cdef bint admit(self, int which, uint64_t kinds) noexcept nogil
    cdef void dismiss(self, int which, uint64_t kinds_left) noexcept nogil
    cdef void ring_bells(self, uint64_t kinds) noexcept nogil
    cdef void answer_bell(self, int which) noexcept nogil

cdef Event *begin_event(Writer *log, int type, int kind) noexcept nogil
cdef void end_event(Writer *log) noexcept nogil
cdef void saw_eviction(void *log, View *v, const Evicted *item) noexcept nogil


cdef inline bint is_wanted(Writer *log, uint64_t kinds) noexcept nogil:
    return log.shared.wanted & kinds != 0
