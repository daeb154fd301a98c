# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False, auto_pickle=False
"""memcached's classic commands on items; the replies are memcached's."""

from libc.stdint cimport uint32_t
from libc.string cimport memcpy, memset

from memcache_shm.protocol.replies cimport NUMBER_LINE_MAX, VALUE_HEADER_MAX, number_line, value_header
from memcache_shm.protocol.request cimport (
    IN_KEYS, MODE_APPEND, MODE_PREPEND, MODE_SET, OP_ARITH, OP_DELETE, OP_FLUSH_ALL, OP_GAT, OP_GET, OP_SIMPLE_GET, OP_STORE,
    OP_TOO_LARGE, OP_TOUCH, SKIPPING_LINE, Parser, Request,
)
from memcache_shm.server.executor cimport Executor, begin_change, handle
from memcache_shm.server.observing cimport GET_FOUND, missing_status, saw_deletion, saw_get, saw_store
from memcache_shm.storage.results cimport (
    EXISTS, NOT_FOUND, NOT_NUMBER, NOT_STORED, OK, POLL, TOO_LARGE, WAIT, WOULD_BLOCK, Change, Found,
)


cdef int copy_item(Executor self, const Request *request, size_t extra, Found *found, size_t *header) noexcept nogil:
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
            header[0] = value_header(at, request.key, request.klen, found.flags, found.vlen, request.with_cas,
                                     found.version if self.uses_cas else 0)
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
        result = copy_item(self, request, 2 + 5, &found, &header)
        if result == OK:
            self.out.end += header + found.vlen
            memcpy(self.out.data + self.out.end, b"\r\n", 2)
            self.out.end += 2
            if self.wanted[0]:
                saw_get(self, request.key, request.klen, GET_FOUND, found.vlen)
        elif result == NOT_FOUND:
            if self.wanted[0]:
                saw_get(self, request.key, request.klen, missing_status(&found), 0)
        elif result == WOULD_BLOCK:
            self.blocked = True
            return
        else:
            self.unwind()
            self.say_failure(request, result)
            if parser.mode == IN_KEYS:
                parser.mode = SKIPPING_LINE
            return
    if request.last:
        self.put(b"END\r\n", 5)


cdef int store_item(Executor self, const Request *request) noexcept nogil:
    """Store what `request` brings, in its mode, and tell those who watch; the table's Result."""
    cdef Change change
    cdef int result
    begin_change(&change, request)
    change.mode = request.mode
    change.value = request.value
    change.vlen = request.vlen
    change.flags = request.flags
    change.expiry = self.table.expiry_from(request.exptime)
    change.compare = request.number if self.uses_cas else 0
    result = self.table.store(&change, POLL)
    if self.wanted[0] and result != WOULD_BLOCK:
        saw_store(self, request, result, request.vlen)
    return result


cdef void _store(Executor self, Parser *parser, const Request *request) noexcept nogil:
    cdef int result = store_item(self, request)
    if result == OK:
        self.say(request, b"STORED\r\n")
    elif result == NOT_STORED or (result == TOO_LARGE and (request.mode == MODE_APPEND or request.mode == MODE_PREPEND)):
        self.say(request, b"NOT_STORED\r\n")
    elif result == EXISTS:
        self.say(request, b"EXISTS\r\n")
    elif result == NOT_FOUND:
        self.say(request, b"NOT_FOUND\r\n")
    else:
        self.say_failure(request, result)


cdef void _too_large(Executor self, Parser *parser, const Request *request) noexcept nogil:
    """memcached drops the old value of a set that it cannot take: stale data would be worse than none."""
    cdef Change change
    begin_change(&change, request)
    change.uncounted = True
    if request.mode == MODE_SET and self.table.remove(&change, POLL) == WOULD_BLOCK:
        self.blocked = True
        return
    self.figures.too_large += 1
    if self.wanted[0]:
        saw_store(self, request, TOO_LARGE, request.vlen)
    self.say_failure(request, TOO_LARGE)


cdef int delete_item(Executor self, const Request *request) noexcept nogil:
    """Remove the item and tell those who watch; the table's Result."""
    cdef Change change
    cdef int result
    begin_change(&change, request)
    result = self.table.remove(&change, POLL)
    if self.wanted[0] and (result == OK or result == NOT_FOUND):
        saw_deletion(self, request.key, request.klen, result == OK, False)
    return result


cdef void _delete(Executor self, Parser *parser, const Request *request) noexcept nogil:
    cdef int result = delete_item(self, request)
    if result == OK:
        self.say(request, b"DELETED\r\n")
    elif result == NOT_FOUND:
        self.say(request, b"NOT_FOUND\r\n")
    else:
        self.say_failure(request, result)


cdef void _arith(Executor self, Parser *parser, const Request *request) noexcept nogil:
    cdef Change change
    cdef char *at
    cdef int result
    begin_change(&change, request)
    change.decr = request.decr
    change.delta = request.number
    result = self.table.arith(&change, POLL)
    if result == OK:
        at = self.room(NUMBER_LINE_MAX)
        if at != NULL and not request.noreply:
            self.out.end += number_line(at, b"", change.number)
    elif result == NOT_FOUND:
        self.say(request, b"NOT_FOUND\r\n")
    elif result == NOT_NUMBER:
        self.say(request, b"CLIENT_ERROR cannot increment or decrement non-numeric value\r\n")
    else:
        self.say_failure(request, result)


cdef void _touch(Executor self, Parser *parser, const Request *request) noexcept nogil:
    cdef int result = self.table.touch(request.key, request.klen, self.table.expiry_from(request.exptime), POLL)
    if result == OK:
        self.say(request, b"TOUCHED\r\n")
    elif result == NOT_FOUND:
        self.say(request, b"NOT_FOUND\r\n")
    else:
        self.say_failure(request, result)


cdef void _flush_all(Executor self, Parser *parser, const Request *request) noexcept nogil:
    cdef int result
    if not self.allows_flush:
        self.say(request, b"CLIENT_ERROR flush_all not allowed\r\n")
        return
    result = self.table.flush(request.exptime, POLL)
    if result == OK:
        self.say(request, b"OK\r\n")
    else:
        self.say_failure(request, result)


handle(OP_GET, _get)
handle(OP_GAT, _get)
handle(OP_STORE, _store)
handle(OP_TOO_LARGE, _too_large)
handle(OP_DELETE, _delete)
handle(OP_ARITH, _arith)
handle(OP_TOUCH, _touch)
handle(OP_FLUSH_ALL, _flush_all)
