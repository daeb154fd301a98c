# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False, auto_pickle=False
"""The seam between protocol and storage: execute(request) -> reply bytes in the out buffer.

One executor serves all connections of a worker, one request at a time. A table of handlers, indexed by the request's `Op`,
says what each does; the replies are memcached's.

A worker never sleeps for a shard's lock, since all its clients would stand still: a change that finds the lock taken leaves
`blocked` and no trace, and is executed again later. The table says BUSY when that has gone on for too long.
"""

import logging

from libc.stdint cimport int64_t, uint32_t, uint64_t
from libc.string cimport memcpy, memset, strlen
from libc.time cimport time

from memcache_shm.protocol.replies cimport NUMBER_LINE_MAX, VALUE_HEADER_MAX, number_line, value_header
from memcache_shm.protocol.request cimport (
    IN_KEYS, MODE_APPEND, MODE_PREPEND, MODE_SET, OP_ARITH, OP_COUNT, OP_DELETE, OP_FLUSH_ALL, OP_GAT, OP_GET, OP_MEMLIMIT,
    OP_SHUTDOWN, OP_SIMPLE_DELETE, OP_SIMPLE_GET, OP_SIMPLE_SET, OP_STATS, OP_STORE, OP_TOO_LARGE, OP_TOUCH, OP_VERBOSITY,
    OP_VERSION, SKIPPING_LINE, Parser, Request,
)
from memcache_shm.server.buffers cimport Buffer, Pool
from memcache_shm.server.counters cimport Counters
from memcache_shm.storage.results cimport (
    BUSY, EXISTS, NO_SPACE, NOT_FOUND, NOT_NUMBER, NOT_STORED, OK, POLL, RETIRED, TOO_LARGE, TOO_MANY, WAIT, WOULD_BLOCK, Found,
)
from memcache_shm.storage.table cimport Table

from memcache_shm import version

cdef extern from "<sched.h>" nogil:
    int sched_yield()

cdef enum:
    RELATIVE_MAX_S = 60 * 60 * 24 * 30      # a larger flush delay is a Unix time, as with expiry
    MEMLIMIT_LEAST_MIB = 8
    OUT_SIZE = 128 << 10                    # of the out buffer when nothing large is in it
    TRIES = 4                               # of a patient executor to get a lock

ctypedef void (*Handler)(Executor self, Parser *parser, const Request *request) noexcept nogil

cdef Handler handlers[OP_COUNT]
cdef bytes version_line = f"VERSION {version.WIRE_VERSION}\r\n".encode()
cdef const char *VERSION = version_line

log = logging.getLogger(__name__)


cdef class Executor:

    def __init__(self, Table table, Pool pool, Counters counters, int which, stats_text):
        self.table = table
        self.pool = pool
        self.counters = counters
        self.figures = &counters.worker[which]
        self.stats_text = stats_text
        memset(&self.out, 0, sizeof(Buffer))
        if self.room(OUT_SIZE) == NULL:
            raise MemoryError("no room for a worker's out buffer")

    def set_table(self, Table table):
        """Another table from the next request on; between requests nothing refers to one."""
        self.table = table

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
        if self.out.cap - self.out.end < size and not self.pool.reserve(&self.out, size):
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


cdef inline void _say(Executor self, const Request *request, const char *text) noexcept nogil:
    """A fixed reply, unless the client wants none."""
    if not request.noreply:
        self.put(text, strlen(text))


cdef void _say_failure(Executor self, const Request *request, int result) noexcept nogil:
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
        _say(self, request, b"SERVER_ERROR table was removed\r\n")
    elif result == TOO_LARGE:
        _say(self, request, b"SERVER_ERROR object too large for cache\r\n")
    elif result == NO_SPACE:
        _say(self, request, b"SERVER_ERROR out of memory storing object\r\n")
    elif result == TOO_MANY:
        _say(self, request, b"SERVER_ERROR too many processes write to this table\r\n")
    else:
        _say(self, request, b"SERVER_ERROR table is read-only\r\n")


cdef inline int _copy_item(Executor self, const Request *request, size_t extra, Found *found, size_t *header) noexcept nogil:
    """Find the item and copy its value behind a header, as the loop at the head of table.pxd says.

    Nothing is counted into `out` yet. Returns OK, NOT_FOUND or a failure; TOO_LARGE when memory is out.
    """
    cdef char *at
    cdef int result
    cdef uint32_t expiry = self.table.expiry_from(request.exptime) if request.op == OP_GAT else 0
    memset(found, 0, sizeof(Found))
    while True:
        if request.op == OP_GAT:
            result = self.table.find_touch(found, request.key, request.klen, expiry, POLL)
        else:
            result = self.table.find(found, request.key, request.klen, WAIT)
        if result != OK:
            return result
        at = self.room(VALUE_HEADER_MAX + found.vlen + extra)
        if at == NULL:
            self.table.confirm(found)
            return TOO_LARGE
        if request.op == OP_SIMPLE_GET:
            header[0] = number_line(at, b"OK ", found.vlen)
        else:
            header[0] = value_header(at, request.key, request.klen, found.flags, found.vlen, request.with_cas, found.version)
        self.table.copy(found, at + header[0])
        if self.table.confirm(found):
            return OK


cdef void _get(Executor self, Parser *parser, const Request *request) noexcept nogil:
    """One key of a get, gets, gat or gats line."""
    cdef Found found
    cdef size_t header
    cdef int result
    if request.first:
        self.mark = self.out.end
        self.unwindable = True
    if request.klen:
        result = _copy_item(self, request, 2 + 5, &found, &header)
        if result == OK:
            self.out.end += header + found.vlen
            memcpy(self.out.data + self.out.end, b"\r\n", 2)
            self.out.end += 2
        elif result == WOULD_BLOCK:
            self.blocked = True
            return
        elif result != NOT_FOUND:
            self.unwind()
            _say_failure(self, request, result)
            if parser.mode == IN_KEYS:
                parser.mode = SKIPPING_LINE
            return
    if request.last:
        self.put(b"END\r\n", 5)


cdef void _store(Executor self, Parser *parser, const Request *request) noexcept nogil:
    cdef int result = self.table.store(request.mode, request.key, request.klen, request.value, request.vlen, request.flags,
                                       self.table.expiry_from(request.exptime), request.number, NULL, POLL)
    if result == OK:
        _say(self, request, b"STORED\r\n")
    elif result == NOT_STORED or (result == TOO_LARGE and (request.mode == MODE_APPEND or request.mode == MODE_PREPEND)):
        _say(self, request, b"NOT_STORED\r\n")
    elif result == EXISTS:
        _say(self, request, b"EXISTS\r\n")
    elif result == NOT_FOUND:
        _say(self, request, b"NOT_FOUND\r\n")
    else:
        _say_failure(self, request, result)


cdef void _too_large(Executor self, Parser *parser, const Request *request) noexcept nogil:
    """memcached drops the old value of a set that it cannot take: stale data would be worse than none."""
    if request.mode == MODE_SET and self.table.remove(request.key, request.klen, 0, POLL) == WOULD_BLOCK:
        self.blocked = True
        return
    self.figures.too_large += 1
    _say_failure(self, request, TOO_LARGE)


cdef void _delete(Executor self, Parser *parser, const Request *request) noexcept nogil:
    cdef int result = self.table.remove(request.key, request.klen, 0, POLL)
    if result == OK:
        _say(self, request, b"DELETED\r\n")
    elif result == NOT_FOUND:
        _say(self, request, b"NOT_FOUND\r\n")
    else:
        _say_failure(self, request, result)


cdef void _arith(Executor self, Parser *parser, const Request *request) noexcept nogil:
    cdef uint64_t number = 0
    cdef char *at
    cdef int result = self.table.arith(request.key, request.klen, request.decr, request.number, &number, NULL, POLL)
    if result == OK:
        at = self.room(NUMBER_LINE_MAX)
        if at != NULL and not request.noreply:
            self.out.end += number_line(at, b"", number)
    elif result == NOT_FOUND:
        _say(self, request, b"NOT_FOUND\r\n")
    elif result == NOT_NUMBER:
        _say(self, request, b"CLIENT_ERROR cannot increment or decrement non-numeric value\r\n")
    else:
        _say_failure(self, request, result)


cdef void _touch(Executor self, Parser *parser, const Request *request) noexcept nogil:
    cdef int result = self.table.touch(request.key, request.klen, self.table.expiry_from(request.exptime), POLL)
    if result == OK:
        _say(self, request, b"TOUCHED\r\n")
    elif result == NOT_FOUND:
        _say(self, request, b"NOT_FOUND\r\n")
    else:
        _say_failure(self, request, result)


cdef void _flush_all(Executor self, Parser *parser, const Request *request) noexcept nogil:
    cdef int64_t delay_s = request.exptime
    cdef int result
    if delay_s > RELATIVE_MAX_S:
        delay_s -= time(NULL)
    result = self.table.flush(max(delay_s, 0), POLL)
    if result == OK:
        _say(self, request, b"OK\r\n")
    else:
        _say_failure(self, request, result)


cdef void _version(Executor self, Parser *parser, const Request *request) noexcept nogil:
    _say(self, request, VERSION)


cdef void _verbosity(Executor self, Parser *parser, const Request *request) noexcept nogil:
    self.counters.daemon.verbosity = request.number
    _say(self, request, b"OK\r\n")


cdef void _memlimit(Executor self, Parser *parser, const Request *request) noexcept nogil:
    """Accepted without effect, since a segment's size is fixed when it is made; refused where memcached refuses it."""
    if request.number < MEMLIMIT_LEAST_MIB:
        _say(self, request, b"MEMLIMIT_TOO_SMALL cannot set maxbytes to less than 8m\r\n")
    else:
        _say(self, request, b"OK\r\n")


cdef void _shutdown(Executor self, Parser *parser, const Request *request) noexcept nogil:
    _say(self, request, b"ERROR: shutdown not enabled\r\n")


cdef void _stats(Executor self, Parser *parser, const Request *request) noexcept nogil:
    with gil:
        _stats_with_gil(self, request)


cdef int _stats_with_gil(Executor self, const Request *request) except -1:
    """The figures are Python's; what goes wrong there is logged, and the client told."""
    cdef bytes text
    try:
        text = self.stats_text(request.key[:request.klen] if request.klen else b"")
    except Exception:
        log.exception("stats failed")
        text = b"SERVER_ERROR stats failed, see the log\r\n"
    self.put(text, len(text))
    return 0


cdef void _simple_failure(Executor self, const Request *request, int result) noexcept nogil:
    if result == WOULD_BLOCK:
        self.blocked = True
    elif result == BUSY:
        self.figures.busy += 1
        _say(self, request, b"ERR BUSY\r\n")
    elif result == NOT_FOUND:
        _say(self, request, b"ERR NOT_FOUND\r\n")
    elif result == TOO_LARGE:
        _say(self, request, b"ERR INVALID_SIZE\r\n")
    elif result == RETIRED:
        _say(self, request, b"ERR REMOVED\r\n")
    else:
        _say(self, request, b"ERR NO_SPACE\r\n")


cdef void _simple_get(Executor self, Parser *parser, const Request *request) noexcept nogil:
    cdef Found found
    cdef size_t header
    cdef int result = _copy_item(self, request, 2, &found, &header)
    if result != OK:
        _simple_failure(self, request, result)
        return
    self.out.end += header + found.vlen
    self.put(b"\r\n", 2)


cdef void _simple_set(Executor self, Parser *parser, const Request *request) noexcept nogil:
    cdef int result = self.table.store(MODE_SET, request.key, request.klen, request.value, request.vlen, 0, 0, 0, NULL, POLL)
    if result == OK:
        _say(self, request, b"OK\r\n")
    else:
        _simple_failure(self, request, result)


cdef void _simple_delete(Executor self, Parser *parser, const Request *request) noexcept nogil:
    cdef int result = self.table.remove(request.key, request.klen, 0, POLL)
    if result == OK:
        _say(self, request, b"OK 1\r\n")
    elif result == NOT_FOUND:
        _say(self, request, b"OK 0\r\n")
    else:
        _simple_failure(self, request, result)


cdef void _handle(int op, Handler handler) noexcept:
    handlers[op] = handler


_handle(OP_GET, _get)
_handle(OP_GAT, _get)
_handle(OP_STORE, _store)
_handle(OP_TOO_LARGE, _too_large)
_handle(OP_DELETE, _delete)
_handle(OP_ARITH, _arith)
_handle(OP_TOUCH, _touch)
_handle(OP_FLUSH_ALL, _flush_all)
_handle(OP_VERSION, _version)
_handle(OP_VERBOSITY, _verbosity)
_handle(OP_STATS, _stats)
_handle(OP_SHUTDOWN, _shutdown)
_handle(OP_MEMLIMIT, _memlimit)
_handle(OP_SIMPLE_GET, _simple_get)
_handle(OP_SIMPLE_SET, _simple_set)
_handle(OP_SIMPLE_DELETE, _simple_delete)
