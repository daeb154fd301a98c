# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False, auto_pickle=False
"""`sync`: the client gets a copy of the table, and then every change, for as long as it stays. (One that subscribes: retelling.pyx.)

    listen; again and again: what has changed, then a few items of the walk; at its end, once all that was told which had changed until
    then: SYNCED

A message tells a key's state as it is read now, so later ones never tell an older state: also where the walk is ahead of the feed (an item
that went and is there again by now is not told to have gone while the copy is under way).

What the client missed makes the copy begin anew, but where the walk stands: it is complete once the walk has gone full circle since the
last loss. So all items get their turn even where losses come faster than a circle takes.

A touch brings the value along: the client may have let its item expire before it hears of it.
"""

from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memset

from memcache_shm.protocol.notices cimport NOTICE_MAX, lost_line
from memcache_shm.protocol.replies cimport NUMBER_LINE_MAX, number_line
from memcache_shm.protocol.request cimport OP_SYNC, Parser, Request
from memcache_shm.server.executor cimport Executor, handle
from memcache_shm.server.handlers.retelling cimport retell
from memcache_shm.server.handlers.subscribing cimport say_why
from memcache_shm.server.news cimport NO_MEMORY, is_outdated, put_change, put_item
from memcache_shm.server.streams cimport FILLED_IDLE, FILLED_LAST, FILLED_LATER, FILLED_MORE, STREAM_BYTES, Stream
from memcache_shm.storage.atomics cimport load_acquire64
from memcache_shm.storage.feed cimport FEED_DELETE, FEED_EVICT, FEED_EXPIRE, FEED_SET, FEED_TOUCH, now_ms
from memcache_shm.storage.listening cimport RENEW_MS, Event, Listener, new_listener, next_event, renew, start, told
from memcache_shm.storage.results cimport BUSY, LOST, NOT_FOUND, OK, POLL, RETIRED, TRY, WOULD_BLOCK
from memcache_shm.storage.walk cimport Batch, Walk, next_batch

cdef enum:
    CHANGES_A_TURN = 1024       # those passed over put nothing
    BUCKETS_A_TURN = 512
    ALIVE_MS = 1000


cdef enum Phase:
    STARTING = 0                # about to listen to another table than before
    COPYING = 1                 # in the walk
    CATCHING_UP = 2             # behind it; what has changed until its end is not all told yet
    FOLLOWING = 3


cdef struct Copy:
    Stream stream
    Listener *listener
    int shmid                   # of the table that it is of: one that was made anew in its place is another
    uint8_t phase
    bint moved                  # that has happened, and the client was not told yet
    uint64_t since              # ... how far it was told of the one before
    bint held                   # `event` is not told yet
    Event event
    Walk walk
    Walk mark                   # where the walk stood when this copy began
    bint turned                 # it has come by the table's end since then
    Batch batch
    uint32_t next               # the batch's item that is to be told next
    uint64_t *target            # a shard: the head of its feed at the walk's end
    uint64_t alive_ms           # when it was told last that it knows everything
    uint64_t renewed_ms


cdef void free_copy(Copy *copy) noexcept nogil:
    if copy != NULL:
        free(copy.listener)
        free(copy.target)
        free(copy)


cdef bint take_table(Copy *copy, Executor self) noexcept nogil:
    """A listener for the executor's table, which has not started. False: memory is out."""
    cdef Listener *listener = new_listener(&self.table.view)
    cdef uint64_t *target = <uint64_t *> calloc(self.table.view.shards, sizeof(uint64_t))
    if listener == NULL or target == NULL:
        free(listener)
        free(target)
        return False
    free(copy.listener)
    free(copy.target)
    copy.listener = listener
    copy.target = target
    copy.shmid = self.table.shmid
    copy.phase = STARTING
    copy.held = False
    return True


cdef void begin_copy(Copy *copy) noexcept nogil:
    """All from where the walk stands, full circle. What is left of the batch at hand is told twice then."""
    copy.mark = copy.walk
    copy.turned = False
    copy.phase = COPYING


cdef void rewind(Copy *copy) noexcept nogil:
    """A walk's position is of one table."""
    memset(&copy.walk, 0, sizeof(Walk))
    copy.batch.n = copy.next = 0


cdef bint is_full_circle(const Copy *copy) noexcept nogil:
    """Buckets may have split or merged meanwhile, so the walk may have come further than exactly to the mark."""
    if not copy.turned or copy.walk.shard < copy.mark.shard:
        return False
    return copy.walk.shard > copy.mark.shard or copy.walk.at >= copy.mark.at


cdef bint put_loss(Executor self, uint64_t since, uint64_t until) noexcept nogil:
    cdef char *at = self.room(NOTICE_MAX)
    if at == NULL:
        return False
    self.out.end += lost_line(at, since, until)
    self.figures.losses += 1
    return True


cdef void put_position(Executor self, Copy *copy, const char *word) noexcept nogil:
    cdef char *at = self.room(NUMBER_LINE_MAX)
    copy.alive_ms = now_ms()
    if at != NULL:
        self.out.end += number_line(at, word, told(copy.listener))


cdef int change_tables(Copy *copy, Executor self) noexcept nogil:
    """Listen to another table than before. OK; WOULD_BLOCK; RETIRED; NO_MEMORY, NO_FEED and others for good."""
    cdef uint64_t since = copy.since if copy.moved else told(copy.listener)
    cdef int result
    if copy.shmid != self.table.shmid and not take_table(copy, self):
        return NO_MEMORY
    copy.moved = True
    copy.since = since
    result = start(&self.table.view, copy.listener, TRY)
    if result == OK and not put_loss(self, since, told(copy.listener)):
        return NO_MEMORY
    if result == OK:
        copy.moved = False
        rewind(copy)
        begin_copy(copy)
    return result


cdef int tell_change(Copy *copy, Executor self) noexcept nogil:
    """The event at hand. OK, NOT_FOUND where it is passed over; WOULD_BLOCK, RETIRED, NO_MEMORY."""
    cdef uint8_t kind = copy.event.kind
    cdef int result
    if copy.phase != FOLLOWING and (kind == FEED_DELETE or kind == FEED_EXPIRE or kind == FEED_EVICT):
        result = is_outdated(self.table, &copy.event)
        if result != NOT_FOUND:
            return NOT_FOUND if result == OK else result
    if kind == FEED_TOUCH:
        copy.event.kind = FEED_SET
    return put_change(self.table, self.own, &self.out, &copy.event, self.uses_cas)


cdef int tell_changes(Copy *copy, Executor self, size_t most) noexcept nogil:
    """What has changed, up to so many bytes. NOT_FOUND: that was all; OK: there may be more; WOULD_BLOCK, RETIRED, NO_MEMORY."""
    cdef int result, _at
    for _at in range(CHANGES_A_TURN):
        if self.out.end >= most:
            return OK
        if not copy.held:
            result = next_event(&self.table.view, copy.listener, &copy.event, TRY)
            if result == LOST:
                if not put_loss(self, copy.event.number, copy.event.next):
                    return NO_MEMORY
                begin_copy(copy)
                continue
            if result != OK:
                return result
        copy.held = True
        result = tell_change(copy, self)
        if result != OK and result != NOT_FOUND:
            return result
        copy.held = False
        self.figures.notified += result == OK
        self.figures.merged += result == NOT_FOUND
    return OK


cdef int put_batch(Copy *copy, Executor self) noexcept nogil:
    """The items of a bucket, as far as there is room for them. OK: there may be more; NOT_FOUND: that was all; WOULD_BLOCK, RETIRED,
    NO_MEMORY."""
    cdef int result
    while copy.next < copy.batch.n:
        if self.out.end >= STREAM_BYTES:
            return OK
        result = put_item(self.table, self.own, &self.out, copy.batch.item[copy.next].key, copy.batch.item[copy.next].klen, self.uses_cas)
        if result != OK and result != NOT_FOUND:
            return result
        copy.next += 1
    return NOT_FOUND


cdef int copy_some(Copy *copy, Executor self) noexcept nogil:
    """A piece of the walk. OK: it goes on; NOT_FOUND: that was the full circle; WOULD_BLOCK, RETIRED, NO_MEMORY."""
    cdef int result, _bucket
    for _bucket in range(BUCKETS_A_TURN):
        result = put_batch(copy, self)
        if result != NOT_FOUND:
            return result
        copy.batch.n = copy.next = 0
        if is_full_circle(copy):
            return NOT_FOUND
        result = next_batch(&self.table.view, &copy.walk, &copy.batch, TRY)
        if result == NOT_FOUND:
            rewind(copy)
            copy.turned = True
        elif result != OK:
            return result
    return OK


cdef void set_target(Copy *copy, Executor self) noexcept nogil:
    """The walk has gone full circle: the copy is complete when all that has changed until now is told."""
    cdef uint32_t i
    for i in range(copy.listener.shards):
        copy.target[i] = load_acquire64(&self.table.view.shard[i].control.feed_head)
    copy.phase = CATCHING_UP


cdef bint is_complete(const Copy *copy) noexcept nogil:
    cdef uint32_t i
    for i in range(copy.listener.shards):
        if copy.listener.at[i] < copy.target[i]:
            return False
    return True


cdef void keep_lease(Copy *copy, Executor self) noexcept nogil:
    cdef uint64_t now = now_ms()
    if now - copy.renewed_ms >= RENEW_MS // 2:
        copy.renewed_ms = now
        renew(&self.table.view, copy.listener)


cdef int fill_copy(Copy *copy, Executor self) noexcept nogil:
    """As `fill`, in the table's results. NOT_FOUND: all is told."""
    cdef int result
    if copy.phase == STARTING or copy.shmid != self.table.shmid:
        result = change_tables(copy, self)
        if result != OK:
            return result
    keep_lease(copy, self)
    result = tell_changes(copy, self, STREAM_BYTES // 2 if copy.phase == COPYING else STREAM_BYTES)
    if result != OK and result != NOT_FOUND:
        return result
    if copy.phase == COPYING:
        result = copy_some(copy, self)
        if result != NOT_FOUND:
            return result
        set_target(copy, self)
        return OK
    if copy.phase == CATCHING_UP and is_complete(copy):
        copy.phase = FOLLOWING
        put_position(self, copy, b"SYNCED ")
    elif copy.phase == FOLLOWING and result == NOT_FOUND and now_ms() - copy.alive_ms >= ALIVE_MS:
        put_position(self, copy, b"ALIVE ")
    return result


cdef int fill(Stream *stream, Executor self) noexcept nogil:
    cdef int result = fill_copy(<Copy *> stream, self)
    if result == OK:
        return FILLED_MORE
    if result == NOT_FOUND or result == RETIRED:
        return FILLED_IDLE
    if result == WOULD_BLOCK or result == BUSY:
        return FILLED_LATER
    self.failed = True
    return FILLED_LAST


cdef void end(Stream *stream, Executor self) noexcept nogil:
    free_copy(<Copy *> stream)
    self.figures.copies -= 1
    self.subscribers.finish()


cdef int new_copy(Executor self, Copy **out) noexcept nogil:
    """A copy that listens already. OK, NO_MEMORY, or why nobody can listen."""
    cdef Copy *copy = <Copy *> calloc(1, sizeof(Copy))
    cdef int result = NO_MEMORY
    if copy != NULL and take_table(copy, self):
        result = start(&self.table.view, copy.listener, POLL)
    if result == OK:
        result = self.subscribers.begin()
    if result != OK:
        free_copy(copy)
        return result
    copy.stream.fill = fill
    copy.stream.end = end
    begin_copy(copy)
    out[0] = copy
    return OK


cdef void _sync(Executor self, Parser *parser, const Request *request) noexcept nogil:
    cdef Copy *copy = NULL
    cdef int result
    if self.client == NULL or not self.allows_dump:
        self.say(request, b"CLIENT_ERROR sync not allowed\r\n")
        return
    if self.client.subscriber != NULL:
        retell(self, request)
        return
    result = new_copy(self, &copy)
    if result != OK:
        say_why(self, request, result)
        return
    self.figures.copies += 1
    self.client.outflow = copy
    self.say(request, b"OK\r\n")


handle(OP_SYNC, _sync)
