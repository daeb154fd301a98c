# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False, auto_pickle=False
"""`subscribe` and `unsubscribe`: the client hears of changes of keys, besides asking as before (see subscribers.pyx).

A line comes pattern by pattern. What is wrong with one refuses the whole subscribe line: the patterns before it are given up again. They
tell nothing before the line has ended, so its reply comes first. An unsubscribe line takes effect pattern by pattern.
"""

from memcache_shm.protocol.replies cimport NUMBER_LINE_MAX, number_line
from memcache_shm.protocol.request cimport (
    IN_PATTERNS, OP_SUBSCRIBE, OP_UNSUBSCRIBE, PATTERN_NONE, PATTERN_TOO_LONG, SKIPPING_LINE, Parser, Request,
)
from memcache_shm.server.executor cimport Executor, handle
from memcache_shm.server.news cimport NO_MEMORY, NO_THREAD, TOO_MANY_PATTERNS
from memcache_shm.server.subscriber cimport Subscriber
from memcache_shm.storage.results cimport NO_FEED, OK, WOULD_BLOCK

cdef const char *TOO_LONG = b"CLIENT_ERROR pattern too long: a key or prefix has at most 250 bytes\r\n"


cdef void say_why(Executor self, const Request *request, int result) noexcept nogil:
    """Why nobody can listen, or no more."""
    if result == NO_FEED:
        self.say(request, b"SERVER_ERROR the feed is off; start the daemon with --feed SIZE\r\n")
    elif result == TOO_MANY_PATTERNS:
        self.say(request, b"SERVER_ERROR too many patterns: a connection may have 1000\r\n")
    elif result == NO_MEMORY:
        self.say(request, b"SERVER_ERROR out of memory for subscriptions\r\n")
    elif result == NO_THREAD:
        self.say(request, b"SERVER_ERROR no thread to listen with: the system's limit is reached\r\n")
    else:
        self.say_failure(request, result)


cdef void leave_without_patterns(Executor self) noexcept nogil:
    """A client that has none is no subscriber."""
    cdef Subscriber *s = <Subscriber *> self.client.subscriber
    if s != NULL and s.count == 0:
        self.subscribers.leave(self.client)


cdef void end_line(Executor self) noexcept nogil:
    """How many patterns the client has."""
    cdef Subscriber *s = <Subscriber *> self.client.subscriber
    cdef char *at = self.room(NUMBER_LINE_MAX)
    if at != NULL:
        self.out.end += number_line(at, b"OK ", s.count if s != NULL else 0)
    leave_without_patterns(self)


cdef void refuse_line(Executor self, Parser *parser) noexcept nogil:
    """It was answered; what it has brought so far goes, and what is still to come of it is dropped."""
    cdef Subscriber *s = <Subscriber *> self.client.subscriber
    if parser.mode == IN_PATTERNS:
        parser.mode = SKIPPING_LINE
    if s != NULL:
        self.subscribers.undo(s)
        leave_without_patterns(self)


cdef int begin_line(Executor self) noexcept nogil:
    """Have a subscriber for the client, who is at its line's beginning."""
    cdef Subscriber *s
    cdef int result = self.subscribers.admit(self.client)
    if result == OK:
        s = <Subscriber *> self.client.subscriber
        s.mark = s.patterns
    return result


cdef void _subscribe(Executor self, Parser *parser, const Request *request) noexcept nogil:
    cdef int result = OK
    if self.client == NULL or not self.allows_watch:
        self.say(request, b"CLIENT_ERROR subscribe commands not allowed\r\n")
        if parser.mode == IN_PATTERNS:
            parser.mode = SKIPPING_LINE
        return
    if request.first:
        result = begin_line(self)
        if result == WOULD_BLOCK:
            self.blocked = True
            return
    if result == OK and request.mode == PATTERN_TOO_LONG:
        self.say(request, TOO_LONG)
        refuse_line(self, parser)
        return
    if result == OK and request.mode == PATTERN_NONE and request.first:
        self.say(request, b"CLIENT_ERROR subscribe needs a pattern\r\n")
        refuse_line(self, parser)
        return
    if result == OK and request.mode != PATTERN_NONE:
        result = self.subscribers.subscribe(<Subscriber *> self.client.subscriber, request.key, request.klen, request.mode)
    if result != OK:
        say_why(self, request, result)
        refuse_line(self, parser)
    elif request.last:
        self.subscribers.settle(<Subscriber *> self.client.subscriber)
        end_line(self)


cdef void give_up(Executor self, const Request *request) noexcept nogil:
    """A pattern of an unsubscribe line, or all where it has none. What was to be told until then is told before the line's reply."""
    cdef Subscriber *s = <Subscriber *> self.client.subscriber
    if not self.subscribers.hand_over(s, &self.out):
        self.failed = True
    elif request.first and request.mode == PATTERN_NONE:
        s.mark = NULL
        self.subscribers.undo(s)
    elif request.mode != PATTERN_NONE and request.mode != PATTERN_TOO_LONG:
        self.subscribers.unsubscribe(s, request.key, request.klen, request.mode)


cdef void _unsubscribe(Executor self, Parser *parser, const Request *request) noexcept nogil:
    if self.client == NULL or not self.allows_watch:
        self.say(request, b"CLIENT_ERROR subscribe commands not allowed\r\n")
        if parser.mode == IN_PATTERNS:
            parser.mode = SKIPPING_LINE
        return
    if self.client.subscriber != NULL:
        give_up(self, request)
    if request.mode == PATTERN_TOO_LONG:
        self.say(request, TOO_LONG)
        leave_without_patterns(self)
    elif request.last:
        end_line(self)


handle(OP_SUBSCRIBE, _subscribe)
handle(OP_UNSUBSCRIBE, _unsubscribe)
