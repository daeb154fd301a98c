# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False, auto_pickle=False
"""memcached's meta commands. A quiet command (q) is answered only where its reply is not the nominal one: EN of mg, HD of the others."""

from libc.stdint cimport UINT32_MAX, uint32_t, uint64_t
from libc.string cimport memcpy, memset

from memcache_shm.protocol.meta_replies cimport (
    META_LINE_MAX, MetaItem, flag_bits, put_debug, put_flags, put_status, put_value_status,
)
from memcache_shm.protocol.request cimport (
    MODE_APPEND, MODE_PREPEND, OP_META_ARITH, OP_META_DEBUG, OP_META_DELETE, OP_META_GET, OP_META_NOOP, OP_META_SET, Parser, Request,
    flag_bit,
)
from memcache_shm.protocol.text cimport MAX_DECIMAL, format_u64
from memcache_shm.server.executor cimport Executor, begin_change, handle
from memcache_shm.server.observing cimport GET_FOUND, GET_NOT_FOUND, missing_status, saw_deletion, saw_get, saw_store
from memcache_shm.storage.layout cimport Record, STATE_FOREIGN_CAS, STATE_STALE, STATE_TOKEN_SENT
from memcache_shm.storage.reader cimport was_fetched
from memcache_shm.storage.results cimport (
    CREATED, EXISTS, NO_COUNT, NO_SPACE, NO_TRACE, NOT_FOUND, NOT_NUMBER, NOT_STORED, OK, POLL, TOO_LARGE, WON, WOULD_BLOCK, Change, Claim,
    Found,
)

# What the commands tell besides opaque and key.
cdef uint64_t TOLD_BY_GET = flag_bits(b"scfhlt")
cdef uint64_t TOLD_BY_SET = flag_bits(b"cs")
cdef uint64_t TOLD_BY_ARITH = flag_bits(b"ct")
cdef uint64_t TOLD_BY_DELETE = 0


cdef inline bint has(const Request *request, char letter) noexcept nogil:
    return request.meta.given & flag_bit(letter) != 0


cdef void _say_line(Executor self, const Request *request, const char *status, uint64_t told, const MetaItem *item) noexcept nogil:
    """A reply without a value."""
    cdef char *at = self.room(META_LINE_MAX)
    cdef char *end
    if at == NULL:
        return
    end = at + put_status(at, status)
    end += put_flags(end, request, told, item)
    end += put_status(end, b"\r\n")
    self.out.end += end - at


cdef inline void _count(Executor self) noexcept nogil:
    """Once, when the command is done."""
    self.figures.cmd_meta += not self.blocked


# mg

cdef void _fill_claim(Executor self, const Request *request, Claim *claim) noexcept nogil:
    claim.touches = has(request, c'T')
    claim.recaches = has(request, c'R')
    claim.vivifies = has(request, c'N')
    claim.touches_first = request.meta.touches_first
    claim.expiry = self.table.expiry_from(request.exptime) if claim.touches else 0
    claim.recache = claim.birth = 0
    if claim.recaches:
        claim.recache = self.table.expiry_from(request.meta.recache_exptime)
        if claim.recache == 0 and request.meta.recache_exptime != 0:
            claim.recache = UINT32_MAX      # further away than the clock can tell
    if claim.vivifies:
        if claim.touches and request.meta.touches_last:
            claim.birth = claim.expiry
        else:
            claim.birth = self.table.expiry_from(request.meta.birth_exptime)


cdef void _describe(Executor self, const Request *request, const Found *found, const Claim *claim, MetaItem *item) noexcept nogil:
    item.cas = found.version if self.uses_cas else 0
    item.flags = found.flags
    item.size = found.vlen
    item.idle_s = self.table.idle_s(found) if has(request, c'l') else 0
    item.fetched = was_fetched(found)
    item.created = found.outcome & CREATED
    item.left_s = item.touched_left_s = item.birth_left_s = -1
    if has(request, c't'):
        item.left_s = self.table.seconds_left(found.expiry)
        item.touched_left_s = self.table.seconds_left(claim.expiry)
        if item.created:
            item.birth_left_s = self.table.seconds_left(self.table.expiry_from(request.meta.birth_exptime))


cdef size_t _put_hit(char *dst, const Request *request, const Found *found, const MetaItem *item, bint with_value) noexcept nogil:
    """The line of a hit, and CRLF: who has won, whether the item is stale, whether this reader has won."""
    cdef char *at = dst
    at += put_value_status(at, found.vlen) if with_value else put_status(at, b"HD")
    at += put_flags(at, request, TOLD_BY_GET, item)
    if found.state & STATE_TOKEN_SENT:
        at += put_status(at, b" Z")
    if found.state & STATE_STALE:
        at += put_status(at, b" X")
    if found.outcome & WON:
        at += put_status(at, b" W")
    at += put_status(at, b"\r\n")
    return at - dst


cdef int _find(Executor self, const Request *request, const Claim *claim, size_t *size) noexcept nogil:
    """Find the item and put the reply together, as the loop at the head of table.pxd says; nothing is counted into `out` yet."""
    cdef Found found
    cdef MetaItem item
    cdef bint with_value
    cdef char *at
    cdef int result
    memset(&found, 0, sizeof(Found))
    found.omit = NO_TRACE if has(request, c'u') else 0
    while True:
        result = self.table.find_claim(&found, request.key, request.klen, claim, POLL)
        if result != OK:
            if self.wanted[0] and result == NOT_FOUND:
                saw_get(self, request.key, request.klen, missing_status(&found), 0)
            return result
        with_value = has(request, c'v') and not (has(request, c'C') and found.version == request.meta.compare)
        at = self.room(META_LINE_MAX + (<size_t> found.vlen + 2 if with_value else 0))
        if at == NULL:
            self.table.confirm(&found)
            return TOO_LARGE
        _describe(self, request, &found, claim, &item)
        size[0] = _put_hit(at, request, &found, &item, with_value)
        if with_value:
            self.table.copy(&found, at + size[0])
            size[0] += found.vlen
            memcpy(at + size[0], b"\r\n", 2)
            size[0] += 2
        if self.table.confirm(&found):
            if self.wanted[0]:
                saw_get(self, request.key, request.klen, GET_NOT_FOUND if found.outcome & CREATED else GET_FOUND, found.vlen)
            return OK


cdef void _get(Executor self, Parser *parser, const Request *request) noexcept nogil:
    cdef Claim claim
    cdef size_t size
    cdef int result
    _fill_claim(self, request, &claim)
    result = _find(self, request, &claim, &size)
    if result == OK:
        self.out.end += size
    elif result != NOT_FOUND and result != NO_SPACE:
        self.say_failure(request, result)
    elif not has(request, c'q'):
        _say_line(self, request, b"EN", 0, NULL)
    _count(self)


# ms, md

cdef void _say_changed(Executor self, const Request *request, int result, uint64_t told, const MetaItem *item) noexcept nogil:
    """The status of a change without a value in its reply."""
    if result == OK:
        if not has(request, c'q'):
            _say_line(self, request, b"HD", told, item)
    elif result == EXISTS:
        _say_line(self, request, b"EX", told, item)
    elif result == NOT_FOUND:
        _say_line(self, request, b"NF", told, item)
    elif result == NOT_STORED:
        _say_line(self, request, b"NS", told, item)
    else:
        self.say_failure(request, result)
    _count(self)


cdef void _begin_meta_change(Executor self, const Request *request, Change *change) noexcept nogil:
    """What is said the same way of every change."""
    begin_change(change, request)
    change.compare = request.meta.compare if self.uses_cas else 0
    change.foreign = request.meta.explicit_cas
    change.flags = request.flags
    change.touches = has(request, c'T')
    change.expiry = self.table.expiry_from(request.exptime)
    change.vivifies = has(request, c'N')


cdef void _set(Executor self, Parser *parser, const Request *request) noexcept nogil:
    cdef Change change
    cdef MetaItem item
    cdef int result
    _begin_meta_change(self, request, &change)
    change.mode = request.mode
    change.value = request.value
    change.vlen = request.vlen
    change.stale_too = has(request, c'I')
    result = self.table.store(&change, POLL)
    if self.wanted[0] and result != WOULD_BLOCK:
        saw_store(self, request, result, request.vlen)
    if result == TOO_LARGE and (request.mode == MODE_APPEND or request.mode == MODE_PREPEND):
        result = NOT_STORED
    item.left_s = -1
    item.created = False
    item.cas = change.cas if result == OK and self.uses_cas else 0
    item.size = change.length if result == OK else <uint32_t> request.vlen
    _say_changed(self, request, result, TOLD_BY_SET, &item)


cdef void _delete(Executor self, Parser *parser, const Request *request) noexcept nogil:
    cdef Change change
    cdef int result
    _begin_meta_change(self, request, &change)
    change.compares = has(request, c'C')
    change.marks = has(request, c'I')
    change.empties = has(request, c'x')
    if change.marks or change.empties:
        result = self.table.invalidate(&change, POLL)
    else:
        result = self.table.remove(&change, POLL)
        if self.wanted[0] and (result == OK or result == NOT_FOUND):
            saw_deletion(self, request.key, request.klen, result == OK, True)
    _say_changed(self, request, result, TOLD_BY_DELETE, NULL)


# ma

cdef void _say_number(Executor self, const Request *request, const Change *change, const MetaItem *item) noexcept nogil:
    cdef char digits[MAX_DECIMAL]
    cdef size_t size = format_u64(digits, change.number)
    cdef char *at = self.room(META_LINE_MAX)
    cdef char *end
    if at == NULL:
        return
    end = at + put_value_status(at, size)
    end += put_flags(end, request, TOLD_BY_ARITH, item)
    end += put_status(end, b"\r\n")
    memcpy(end, digits, size)
    end += size
    end += put_status(end, b"\r\n")
    self.out.end += end - at


cdef void _arith(Executor self, Parser *parser, const Request *request) noexcept nogil:
    cdef Change change
    cdef MetaItem item
    cdef uint32_t birth = self.table.expiry_from(request.meta.birth_exptime) if has(request, c'N') else 0
    cdef int result
    _begin_meta_change(self, request, &change)
    change.decr = request.decr
    change.delta = request.meta.delta
    change.number = request.meta.initial
    change.birth = change.expiry if change.touches and request.meta.touches_last else birth
    result = self.table.arith(&change, POLL)
    if result == NOT_NUMBER:
        self.say(request, b"CLIENT_ERROR cannot increment or decrement non-numeric value\r\n")
        _count(self)
        return
    item.cas = change.cas if self.uses_cas else 0
    item.created = change.created
    item.left_s = item.touched_left_s = item.birth_left_s = -1
    if has(request, c't'):
        item.left_s = self.table.seconds_left(change.before)
        item.touched_left_s = self.table.seconds_left(change.expiry)
        item.birth_left_s = self.table.seconds_left(birth)
    if result == OK and has(request, c'v') and not has(request, c'q'):
        _say_number(self, request, &change, &item)
        _count(self)
    else:
        _say_changed(self, request, result, TOLD_BY_ARITH if result == OK else 0, &item)


# mn, me

cdef void _noop(Executor self, Parser *parser, const Request *request) noexcept nogil:
    self.say(request, b"MN\r\n")
    _count(self)


cdef void _debug(Executor self, Parser *parser, const Request *request) noexcept nogil:
    """What is known of an item, without a trace of the question."""
    cdef Found found
    cdef MetaItem item
    cdef char *at = self.room(META_LINE_MAX)
    cdef size_t size
    cdef int result = OK
    if at == NULL:
        return
    memset(&found, 0, sizeof(Found))
    found.omit = NO_TRACE | NO_COUNT
    while result == OK:
        result = self.table.find(&found, request.key, request.klen, POLL)
        if result == OK and self.table.confirm(&found):
            break
    if result == NOT_FOUND:
        self.say(request, b"EN\r\n")
    elif result != OK:
        self.say_failure(request, result)
    else:
        item.left_s = self.table.seconds_left(found.expiry)
        item.idle_s = self.table.idle_s(&found)
        item.cas = found.version if self.uses_cas else 0
        item.fetched = was_fetched(&found)
        size = sizeof(Record) + request.klen + found.vlen + (8 if found.state & STATE_FOREIGN_CAS else 0)
        size = put_debug(at, request, &item, size)
        self.out.end += size
        self.put(b"\r\n", 2)
    _count(self)


handle(OP_META_GET, _get)
handle(OP_META_SET, _set)
handle(OP_META_DELETE, _delete)
handle(OP_META_ARITH, _arith)
handle(OP_META_NOOP, _noop)
handle(OP_META_DEBUG, _debug)
