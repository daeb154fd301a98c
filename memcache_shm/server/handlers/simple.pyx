# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False, auto_pickle=False
"""The simple dialect, for telnet and nc."""

from memcache_shm.protocol.request cimport OP_SIMPLE_DELETE, OP_SIMPLE_GET, OP_SIMPLE_SET, Parser, Request
from memcache_shm.server.executor cimport Executor, handle
from memcache_shm.server.handlers.classic cimport copy_item, delete_item, store_item
from memcache_shm.server.observing cimport GET_FOUND, missing_status, saw_get
from memcache_shm.storage.results cimport BUSY, NOT_FOUND, OK, READ_ONLY, RETIRED, TOO_LARGE, WOULD_BLOCK, Found


cdef void _simple_failure(Executor self, const Request *request, int result) noexcept nogil:
    if result == WOULD_BLOCK:
        self.blocked = True
    elif result == BUSY:
        self.figures.busy += 1
        self.say(request, b"ERR BUSY\r\n")
    elif result == NOT_FOUND:
        self.say(request, b"ERR NOT_FOUND\r\n")
    elif result == TOO_LARGE:
        self.say(request, b"ERR INVALID_SIZE\r\n")
    elif result == RETIRED:
        self.say(request, b"ERR REMOVED\r\n")
    elif result == READ_ONLY:
        self.say(request, b"ERR READ_ONLY\r\n")
    else:
        self.say(request, b"ERR NO_SPACE\r\n")


cdef void _simple_get(Executor self, Parser *parser, const Request *request) noexcept nogil:
    cdef Found found
    cdef size_t header
    cdef int result = copy_item(self, request, 2, &found, &header)
    if self.wanted[0] and (result == OK or result == NOT_FOUND):
        saw_get(self, request.key, request.klen, GET_FOUND if result == OK else missing_status(&found), found.vlen if result == OK else 0)
    if result != OK:
        _simple_failure(self, request, result)
        return
    self.out.end += header + found.vlen
    self.put(b"\r\n", 2)


cdef void _simple_set(Executor self, Parser *parser, const Request *request) noexcept nogil:
    cdef int result = store_item(self, request)
    if result == OK:
        self.say(request, b"OK\r\n")
    else:
        _simple_failure(self, request, result)


cdef void _simple_delete(Executor self, Parser *parser, const Request *request) noexcept nogil:
    cdef int result = delete_item(self, request)
    if result == OK:
        self.say(request, b"OK 1\r\n")
    elif result == NOT_FOUND:
        self.say(request, b"OK 0\r\n")
    else:
        _simple_failure(self, request, result)


handle(OP_SIMPLE_GET, _simple_get)
handle(OP_SIMPLE_SET, _simple_set)
handle(OP_SIMPLE_DELETE, _simple_delete)
