# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False, auto_pickle=False
"""`sync` of a client that subscribes: it is told what is there of its keys, among what changes, and goes on as before.

    piece after piece: what it is owed as a subscriber, then the items of some buckets that it has a pattern for; at the table's end SYNCED

An item's text is made behind all texts that the client is owed by then, and before all later ones: so no value goes back to an older one.
A change that is told behind an item may be from before it (of an earlier version that went, say), but then the item's own change follows.
What the client misses meanwhile it is told as ever, LOST, and asks once more.
"""

from libc.stdint cimport uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memset

from memcache_shm.protocol.replies cimport NUMBER_LINE_MAX, number_line
from memcache_shm.protocol.request cimport Request
from memcache_shm.server.executor cimport Executor
from memcache_shm.server.news cimport put_item
from memcache_shm.server.streams cimport FILLED_LAST, FILLED_LATER, FILLED_MORE, STREAM_BYTES, Stream
from memcache_shm.server.subscriber cimport Subscriber
from memcache_shm.storage.feed cimport now_ms
from memcache_shm.storage.listening cimport told
from memcache_shm.storage.results cimport BUSY, NOT_FOUND, OK, RETIRED, TRY, WOULD_BLOCK
from memcache_shm.storage.walk cimport Batch, Walk, next_batch

cdef enum:
    BUCKETS_A_TURN = 512        # fewer for who has many patterns, if these are tried one by one for each item:
    STEPS_A_BUCKET = 16         # ... so many cost as much as the bucket does
    ALIVE_MS = 1000


cdef struct Retelling:
    Stream stream
    int shmid                   # of the table it walks: one that was made anew in its place is another
    Walk walk
    Batch batch
    uint32_t next               # the batch's item that is to be told next
    uint64_t alive_ms           # when the client was told last that it knows everything


cdef bint is_being_told(Executor self, const Subscriber *s) noexcept nogil:
    """Whether the text of an event that is being passed on has not come to the subscriber yet: it is older than what is read now."""
    cdef size_t at
    for at in range(self.subscribers.at, self.subscribers.found):
        if self.subscribers.matched[at] == s:
            return True
    return False


cdef bint put_position(Executor self, Retelling *r, const char *word) noexcept nogil:
    cdef char *at = self.room(NUMBER_LINE_MAX)
    r.alive_ms = now_ms()
    if at == NULL:
        return False
    self.out.end += number_line(at, word, told(self.subscribers.listener))
    return True


cdef int put_batch(Retelling *r, Executor self, Subscriber *s) noexcept nogil:
    """The items of a bucket, as far as there is room for them. OK: there may be more; NOT_FOUND: that was all; WOULD_BLOCK, RETIRED,
    NO_MEMORY."""
    cdef int result
    while r.next < r.batch.n:
        if self.out.end >= STREAM_BYTES:
            return OK
        if self.subscribers.patterns.concerns(s, r.batch.item[r.next].key, r.batch.item[r.next].klen):
            result = put_item(self.table, self.own, &self.out, r.batch.item[r.next].key, r.batch.item[r.next].klen, self.uses_cas)
            if result != OK and result != NOT_FOUND:
                return result
        r.next += 1
    return NOT_FOUND


cdef int tell_some(Retelling *r, Executor self, Subscriber *s) noexcept nogil:
    """A piece of the walk. OK: it goes on; NOT_FOUND: that was its end; WOULD_BLOCK, BUSY, RETIRED, NO_MEMORY."""
    cdef int result
    cdef uint32_t _bucket
    if r.shmid != self.table.shmid:
        memset(&r.walk, 0, sizeof(Walk))
        r.batch.n = r.next = 0
        r.shmid = self.table.shmid
    for _bucket in range(BUCKETS_A_TURN // (1 + self.subscribers.patterns.steps(s) // STEPS_A_BUCKET)):
        result = put_batch(r, self, s)
        if result != NOT_FOUND:
            return result
        r.batch.n = r.next = 0
        result = next_batch(&self.table.view, &r.walk, &r.batch, TRY)
        if result != OK:
            return result
    return OK


cdef int fill(Stream *stream, Executor self) noexcept nogil:
    cdef Retelling *r = <Retelling *> stream
    cdef Subscriber *s = <Subscriber *> self.client.subscriber
    cdef int result = OK
    if is_being_told(self, s):
        return FILLED_MORE
    if not self.subscribers.hand_over(s, &self.out):
        self.failed = True
        return FILLED_LAST
    if not self.subscribers.started:            # to the table that has come in the place of another
        return FILLED_LATER
    if self.out.end < STREAM_BYTES:
        result = tell_some(r, self, s)
    if result == OK:
        if now_ms() - r.alive_ms >= ALIVE_MS:
            put_position(self, r, b"ALIVE ")
        return FILLED_MORE
    if result == WOULD_BLOCK or result == BUSY or result == RETIRED:
        return FILLED_LATER
    if result != NOT_FOUND or not put_position(self, r, b"SYNCED "):
        self.failed = True
    return FILLED_LAST


cdef void end(Stream *stream, Executor self) noexcept nogil:
    free(stream)


cdef void retell(Executor self, const Request *request) noexcept nogil:
    """Begin to tell the client, who subscribes."""
    cdef Retelling *r = <Retelling *> calloc(1, sizeof(Retelling))
    if r == NULL:
        self.say(request, b"SERVER_ERROR out of memory for subscriptions\r\n")
        return
    r.stream.fill = fill
    r.stream.end = end
    r.shmid = self.table.shmid
    r.alive_ms = now_ms()
    self.client.outflow = r
    self.say(request, b"OK\r\n")
