# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False, auto_pickle=False
"""The seam between protocol and storage: execute(request) -> reply bytes in the out buffer.

One executor serves all connections of a worker, one request at a time. A table of handlers, indexed by the request's `Op`,
says what each does; the replies are memcached's.

A worker never sleeps for a shard's lock, since all its clients would stand still: a change that finds the lock taken leaves
`blocked` and no trace, and is executed again later. The table says BUSY when that has gone on for too long.
"""

from libc.stdint cimport SIZE_MAX
from libc.string cimport memcpy, memset

from memcache_shm.protocol.replies cimport NUMBER_LINE_MAX, number_line
from memcache_shm.protocol.parser cimport next_request
from memcache_shm.protocol.request cimport CLOSE, NEED_MORE, OP_COUNT, REPLY, Parser, Request
from memcache_shm.server.buffers cimport Buffer, Pool
from memcache_shm.server.channels cimport Channels
from memcache_shm.server.counters cimport Counters
from memcache_shm.server.events cimport saw_eviction
from memcache_shm.server.executor cimport OUT_SIZE
from memcache_shm.server.subscribers cimport Subscribers
from memcache_shm.storage.results cimport BUSY, NO_SPACE, RETIRED, TOO_LARGE, TOO_MANY, WOULD_BLOCK
from memcache_shm.storage.table cimport Table

cdef extern from "<sched.h>" nogil:
    int sched_yield()

cdef enum:
    TRIES = 4                   # of a patient executor to get a lock

cdef Handler handlers[OP_COUNT]


cdef class Executor:

    def __init__(self, config, Pool pool, Counters counters, int which, stats_text):
        self.allows_flush = config.allow_flush
        self.allows_shutdown = config.allow_shutdown
        self.allows_debugtime = config.allow_debugtime
        self.allows_dump = config.allow_dump
        self.allows_watch = config.allow_watch
        self.has_certificates = config.tls is not None
        self.uses_cas = config.use_cas
        self.pool = pool
        self.own = Pool(SIZE_MAX)
        self.counters = counters
        self.which = which
        self.figures = &counters.worker[which]
        self.events = counters.events
        self.prefixes = counters.prefixes
        self.log.shared = self.events.shared
        self.log.mine = &self.events.worker[which]
        self.log.fresh = 0
        self.wanted = &self.log.shared.wanted
        self.channels = Channels(config, counters, which)
        self.subscribers = Subscribers(config, pool, self.own, counters, which)
        self.set_table(config.table)
        self.stats_text = stats_text
        pool.show(&self.figures.buffer_bytes, &self.figures.buffers_refused)
        memset(&self.out, 0, sizeof(Buffer))
        if self.room(OUT_SIZE) == NULL:
            raise MemoryError("no room for a worker's out buffer")

    def set_table(self, Table table):
        """Another table from the next request on; between requests nothing refers to one. The one before must still be mapped."""
        self.subscribers.set_table(table)
        self.table = table
        table.tell(saw_eviction, &self.log)

    def answer(self, bytes requests):
        """The replies to whole requests of one client, without a connection: for tests and tools. Waits where a worker would try later."""
        cdef Parser parser
        cdef Request request
        cdef const char *at = requests
        cdef const char *end = at + len(requests)
        cdef size_t max_value = self.table.view.max_value_bytes
        cdef int step
        memset(&parser, 0, sizeof(Parser))
        self.client = NULL
        self.out.end = 0
        with nogil:
            while at < end:
                step = next_request(&parser, at, end - at, max_value, &request)
                at += request.used
                if step == NEED_MORE or step == CLOSE:
                    break
                if step == REPLY:
                    self.put(request.reply, request.reply_len)
                    continue
                self.execute(&parser, &request)
                while self.blocked:
                    self.execute(&parser, &request)
        return self.out.data[:self.out.end]

    cdef void execute(self, Parser *parser, const Request *request) noexcept nogil:
        """Do it and put the reply, if one is due, behind the others in `out`; or say `blocked`."""
        cdef int _try
        for _try in range(TRIES):
            self.blocked = False
            handlers[request.op](self, parser, request)
            if not (self.blocked and self.patient):
                return
            sched_yield()

    cdef char *room(self, size_t size) noexcept nogil:
        """Where `size` more bytes of reply go; NULL (and `failed`) when memory is out."""
        if self.out.cap - self.out.end < size and not self.own.reserve(&self.out, max(size, OUT_SIZE)):
            self.failed = True
            return NULL
        return self.out.data + self.out.end

    cdef void put(self, const char *text, size_t size) noexcept nogil:
        cdef char *at = self.room(size)
        if at != NULL:
            memcpy(at, text, size)
            self.out.end += size

    cdef void unwind(self) noexcept nogil:
        """Take back what the running get line has brought, as far as it was not sent yet."""
        if self.unwindable:
            self.out.end = self.mark

    cdef void say_failure(self, const Request *request, int result) noexcept nogil:
        """What went wrong in the table, in memcached's form; nothing did where a lock is only awaited."""
        cdef char *at
        if result == WOULD_BLOCK:
            self.blocked = True
        elif request.noreply:
            self.figures.busy += result == BUSY
        elif result == BUSY:
            self.figures.busy += 1
            at = self.room(NUMBER_LINE_MAX)
            if at != NULL:
                self.out.end += number_line(at, b"SERVER_ERROR shard busy: held by pid ", self.table.busy_pid())
        elif result == RETIRED:
            self.say(request, b"SERVER_ERROR table was removed\r\n")
        elif result == TOO_LARGE:
            self.say(request, b"SERVER_ERROR object too large for cache\r\n")
        elif result == NO_SPACE:
            self.say(request, b"SERVER_ERROR out of memory storing object\r\n")
        elif result == TOO_MANY:
            self.say(request, b"SERVER_ERROR too many processes write to this table\r\n")
        elif self.table.view.readonly:
            self.say(request, b"SERVER_ERROR table is read-only\r\n")
        else:
            self.say(request, b"SERVER_ERROR this table follows another: write to that one, or promote it\r\n")


cdef int handle(int op, Handler handler) except -1:
    """Register what is to be done with a request. Raises ValueError when that is known already."""
    if handlers[op] != NULL:
        raise ValueError(f"operation {op} has a handler")
    handlers[op] = handler
    return 0
