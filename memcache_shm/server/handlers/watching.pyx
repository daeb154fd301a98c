# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False, auto_pickle=False
"""`watch`: the client becomes a reader of the event log, for as long as it stays; the lines are memcached's.

Its stream has a place in each worker's ring and takes the event with the lowest number of all that are next. Two workers' events of the
same moment may come in either order, since a number is drawn before its event can be read.
"""

from libc.stdint cimport uint64_t
from libc.stdio cimport snprintf
from libc.stdlib cimport calloc, free

from memcache_shm.protocol.encoding cimport ENCODED_MAX, url_encoded
from memcache_shm.protocol.request cimport OP_WATCH, Parser, Request
from memcache_shm.server.events cimport (
    CONN_CLOSE, CONN_NEW, EVICTION, Event, ITEM_DELETED, ITEM_GET, RING, WorkerEvents,
)
from memcache_shm.server.executor cimport Executor, handle
from memcache_shm.server.linux cimport AF_INET, AF_INET6, inet_ntop
from memcache_shm.server.streams cimport FILLED_IDLE, FILLED_MORE, STREAM_BYTES, Stream
from memcache_shm.storage.atomics cimport fence_acquire, load_acquire64, load_relaxed64
from memcache_shm.storage.results cimport EXISTS, NOT_FOUND, NOT_STORED, NO_SPACE, OK, TOO_LARGE

cdef enum:
    LINE_MAX = ENCODED_MAX + 300
    ADDRESS_MAX = 48


cdef struct Place:              # in one worker's ring
    uint64_t at                 # the next event there that was not looked at
    bint have                   # `next` holds one, which is not told yet
    Event next


cdef struct Watcher:
    Stream stream
    Watcher *following          # the other watching clients of the worker
    uint64_t kinds
    uint64_t skipped            # events it has missed since its last line
    Place place[1]              # one a worker


cdef Watcher *watchers = NULL   # of this worker


cdef const char *get_status(int status) noexcept nogil:
    return b"found" if status == 1 else b"flushed" if status == 2 else b"expired" if status == 3 else b"not_found"


cdef const char *store_status(int result) noexcept nogil:
    """A Result of the table by memcached's name."""
    if result == OK:
        return b"stored"
    if result == EXISTS:
        return b"exists"
    if result == NOT_FOUND:
        return b"not_found"
    if result == TOO_LARGE:
        return b"too_large"
    return b"not_stored" if result == NOT_STORED else b"no_memory" if result == NO_SPACE else b"failed"


cdef const char *command_name(int mode) noexcept nogil:
    """A StoreMode."""
    if mode == 0:
        return b"set"
    if mode == 1:
        return b"add"
    if mode == 2:
        return b"replace"
    return b"append" if mode == 3 else b"prepend" if mode == 4 else b"cas"


cdef const char *close_reason(int reason) noexcept nogil:
    return b"normal" if reason == 1 else b"idle_timeout" if reason == 2 else b"shutdown" if reason == 3 else b"error"


cdef int put_connection(char *at, const Event *e) noexcept nogil:
    cdef char address[ADDRESS_MAX]
    cdef const char *rip = b"unix"
    cdef bint inet = e.family == AF_INET or e.family == AF_INET6
    if inet and inet_ntop(e.family, e.text, address, ADDRESS_MAX) != NULL:
        rip = address
    if e.type == CONN_NEW:
        return snprintf(at, LINE_MAX, b"type=conn_new rip=%s rport=%u transport=%s cfd=%u\n", rip, <unsigned int> e.port,
                        <const char *> b"tcp" if inet else <const char *> b"local", e.number)
    return snprintf(at, LINE_MAX, b"type=conn_close rip=%s rport=%u transport=%s reason=%s cfd=%u\n", rip, <unsigned int> e.port,
                    <const char *> b"tcp" if inet else <const char *> b"local", close_reason(e.status), e.number)


cdef int put_item(char *at, const Event *e) noexcept nogil:
    cdef char key[ENCODED_MAX + 1]
    key[url_encoded(key, e.text, e.klen)] = 0
    if e.type == ITEM_GET:
        return snprintf(at, LINE_MAX, b"type=item_get key=%s status=%s clsid=%d cfd=%u size=%llu\n", key, get_status(e.status),
                        <int> (e.status == 1), e.number, <unsigned long long> e.size)
    if e.type == ITEM_DELETED:
        return snprintf(at, LINE_MAX, b"type=deleted key=%s cmd=%s clsid=1 size=%llu\n", key,
                        <const char *> b"md" if e.command else <const char *> b"delete", <unsigned long long> e.size)
    if e.type == EVICTION:
        return snprintf(at, LINE_MAX, b"type=eviction key=%s fetch=%s ttl=%lld la=%u clsid=1 size=%llu\n", key,
                        <const char *> b"yes" if e.status else <const char *> b"no", <long long> e.ttl_s, e.idle_s,
                        <unsigned long long> e.size)
    return snprintf(at, LINE_MAX, b"type=item_store key=%s status=%s cmd=%s ttl=%lld clsid=1 cfd=%u size=%llu\n", key,
                    store_status(e.status), command_name(e.command), <long long> e.ttl_s, e.number, <unsigned long long> e.size)


cdef bint put_line(Executor self, Watcher *w, const Event *e) noexcept nogil:
    """What was missed, if anything, and the event. False: memory is out."""
    cdef char *at = self.room(2 * LINE_MAX)
    cdef int size = 0
    if at == NULL:
        return False
    if w.skipped:
        size = snprintf(at, LINE_MAX, b"[skipped: %llu]\n", <unsigned long long> w.skipped)
        w.skipped = 0
    size += snprintf(at + size, LINE_MAX, b"ts=%llu.%06llu gid=%llu ", <unsigned long long> (e.time_us // 1000000),
                     <unsigned long long> (e.time_us % 1000000), <unsigned long long> e.gid)
    size += put_connection(at + size, e) if e.type == CONN_NEW or e.type == CONN_CLOSE else put_item(at + size, e)
    self.out.end += size
    self.log.mine.sent += 1
    return True


cdef void look(Executor self, Watcher *w, WorkerEvents *ring, Place *p) noexcept nogil:
    """Find the next event of a ring that is to be told, if there is one. Half a ring is passed over when the client was too slow."""
    cdef uint64_t head, begun, missed
    while not p.have:
        head = load_acquire64(&ring.head)
        if p.at == head:
            return
        if head - p.at <= RING:
            p.next = ring.ring[p.at % RING]
            fence_acquire()
        begun = load_relaxed64(&ring.begun)
        if begun - p.at > RING:
            missed = begun - p.at - RING // 2
            p.at += missed
            w.skipped += missed
            self.log.mine.skipped += missed
            continue
        p.at += 1
        p.have = p.next.kind & w.kinds


cdef int fill(Stream *stream, Executor self) noexcept nogil:
    """The events that are there, in order."""
    cdef Watcher *w = <Watcher *> stream
    cdef Place *first
    cdef Place *p
    cdef int which
    while self.out.end < STREAM_BYTES:
        first = NULL
        for which in range(self.events.workers):
            p = w.place + which
            look(self, w, &self.events.worker[which], p)
            if p.have and (first == NULL or p.next.gid < first.next.gid):
                first = p
        if first == NULL:
            return FILLED_IDLE
        if not put_line(self, w, &first.next):
            return FILLED_IDLE              # `failed` closes it
        first.have = False
    return FILLED_MORE


cdef void end(Stream *stream, Executor self) noexcept nogil:
    """It is gone; what the others of this worker watch remains."""
    global watchers
    cdef Watcher **at = &watchers
    cdef uint64_t kinds = 0
    cdef Watcher *other
    while at[0] != <Watcher *> stream:
        at = &at[0].following
    at[0] = at[0].following
    free(stream)
    other = watchers
    while other != NULL:
        kinds |= other.kinds
        other = other.following
    self.log.mine.watchers -= 1
    self.events.dismiss(self.which, kinds)


cdef Watcher *new_watcher(Executor self, uint64_t kinds) noexcept nogil:
    """A stream that begins with what comes from now on; NULL when memory is out."""
    cdef Watcher *w = <Watcher *> calloc(1, sizeof(Watcher) + (self.events.workers - 1) * sizeof(Place))
    cdef int which
    if w == NULL:
        return NULL
    w.stream.fill = fill
    w.stream.end = end
    w.kinds = kinds
    for which in range(self.events.workers):
        w.place[which].at = load_acquire64(&self.events.worker[which].head)
    return w


cdef void _watch(Executor self, Parser *parser, const Request *request) noexcept nogil:
    global watchers
    cdef Watcher *w
    if not self.allows_watch:
        self.say(request, b"CLIENT_ERROR watch commands not allowed\r\n")
        return
    if not self.events.admit(self.which, request.number):
        self.say(request, b"WATCHER_TOO_MANY log watcher limit reached\r\n")
        return
    w = new_watcher(self, request.number)
    if w == NULL:
        self.log.mine.watchers -= 1         # a kind too many in the union costs little, until the next watcher ends
        self.say(request, b"WATCHER_FAILED failed to add log watcher\r\n")
        return
    w.following = watchers
    watchers = w
    self.client.outflow = w
    self.subscribers.leave(self.client)     # a log is no place for other news
    self.say(request, b"OK\r\n")


handle(OP_WATCH, _watch)
