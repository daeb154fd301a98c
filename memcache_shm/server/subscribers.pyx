# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False, auto_pickle=False
"""A worker's subscribers: one listener to the feed for all of them, and what each is owed.

    the ringer rings -> hear: there is news
    tell: event after event: who is to be told (patterns), its text, made once (news), a copy of it into each one's `news`
    Clients: sends that, or puts it behind replies, where no reply is cut in two by it (next_owed, hand_over)

All of it in bounded pieces: a look stops in the midst of an event with many subscribers, and goes on there in the next round. What waits
for a subscriber is bounded as well; a look stops, too, where one is to be sent what waits first. One that does not take that is told of
nothing further until it has taken what waits, and then that it has LOST something; so it holds nobody up and needs no more memory. When
the worker itself has missed something (it was stopped for longer than its lease, the ring went round, the table is another) all its
subscribers have.

The listener is there while anybody of the worker subscribes, or copies (syncing.pyx): it keeps the lease for them, too.
"""

from libc.stdint cimport uint64_t
from libc.stdlib cimport calloc, free, realloc
from libc.string cimport memcpy, memset

from memcache_shm.protocol.notices cimport NOTICE_MAX, lost_line
from memcache_shm.server.buffers cimport Buffer, Pool, waiting
from memcache_shm.server.connection cimport DOOMED, READING, UNREAD, YIELDED, Connection
from memcache_shm.server.counters cimport Counters
from memcache_shm.server.news cimport NO_MEMORY, NO_THREAD, TOO_MANY_PATTERNS, put_change
from memcache_shm.server.patterns cimport Patterns, applies
from memcache_shm.server.ringer cimport Ringer
from memcache_shm.server.subscriber cimport Subscriber, Subscription
from memcache_shm.server.subscribers cimport EVENT_COST, LISTEN_MS, PATTERNS_MAX, SLOW_BYTES, TELL_COST, takes_news
from memcache_shm.storage.feed cimport FEED_FLUSH
from memcache_shm.storage.listening cimport RENEW_MS, new_listener, next_event, renew, start, told
from memcache_shm.storage.results cimport BUSY, LOST, NOT_FOUND, OK, POLL, TRY, WOULD_BLOCK
from memcache_shm.storage.table cimport Table

cdef enum:
    PATTERNS_PART = 4           # patterns may take this part of what the buffers may
    KEPT_TEXT = 1 << 20         # bytes of a text that keeps its buffer


cdef class Subscribers:

    def __init__(self, config, Pool pool, Pool own, Counters counters, int which):
        self.table = config.table
        self.uses_cas = config.use_cas
        self.pool = pool
        self.own = own
        self.figures = &counters.worker[which]
        self.patterns = Patterns(pool._most // PATTERNS_PART)
        self.ringer = Ringer()
        memset(&self.text, 0, sizeof(Buffer))

    cdef int _listen(self) noexcept nogil:
        """Begin to listen, here and now: OK, NO_MEMORY, NO_THREAD or what `start` says."""
        cdef int result
        if self.listener == NULL:
            self.listener = new_listener(&self.table.view)
        if self.listener == NULL:
            return NO_MEMORY
        result = start(&self.table.view, self.listener, POLL)
        if result == OK and not self.ringer.start(&self.table.view):
            return NO_THREAD
        self.started = result == OK
        return result

    cdef int begin(self) noexcept nogil:
        """One more who listens. OK, or what `_listen` says: then there is none more."""
        cdef int result = OK
        if self.users == 0:
            result = self._listen()
        if result == OK:
            self.users += 1
        elif self.users == 0:
            free(self.listener)
            self.listener = NULL
        return result

    cdef void finish(self) noexcept nogil:
        """One less."""
        self.users -= 1
        if self.users == 0:
            self.ringer.release()
            free(self.listener)
            self.listener = NULL
            self.started = self.fresh = self.later = self.held = self.barred = False
            self.found = self.at = 0
            self.own.release(&self.text)

    cdef int admit(self, Connection *c) noexcept nogil:
        """Make a connection a subscriber, if it is none. OK, or what `begin` says."""
        cdef Subscriber *s
        cdef Subscriber **matched
        cdef int result
        if c.subscriber != NULL:
            return OK
        if self.count == self.room:
            matched = <Subscriber **> realloc(self.matched, (self.room * 2 + 8) * sizeof(Subscriber *))
            if matched == NULL:
                return NO_MEMORY
            self.matched = matched
            self.room = self.room * 2 + 8
        s = <Subscriber *> calloc(1, sizeof(Subscriber))
        if s == NULL:
            return NO_MEMORY
        result = self.begin()
        if result != OK:
            free(s)
            return result
        s.client = c
        s.next = self.all
        if self.all != NULL:
            self.all.previous = s
        self.all = s
        self.count += 1
        self.figures.subscribers += 1
        c.subscriber = s
        return OK

    cdef int subscribe(self, Subscriber *s, const char *key, size_t klen, int kind) noexcept nogil:
        """OK also where it has that pattern; TOO_MANY_PATTERNS, NO_MEMORY."""
        if self.patterns.find(s, key, klen, kind) != NULL:
            return OK
        if s.count == PATTERNS_MAX:
            return TOO_MANY_PATTERNS
        if not self.patterns.add(s, key, klen, kind):
            return NO_MEMORY
        s.patterns.pending = True
        self.figures.patterns += 1
        return OK

    cdef void settle(self, Subscriber *s) noexcept nogil:
        """The running subscribe line has ended well: from now on its patterns count."""
        cdef Subscription *at = s.patterns
        while at != s.mark:
            at.pending = False
            at = at.next

    cdef void unsubscribe(self, Subscriber *s, const char *key, size_t klen, int kind) noexcept nogil:
        """Of the event that is being told it hears no more, either, unless another of its patterns applies to that."""
        cdef Subscription *subscription = self.patterns.find(s, key, klen, kind)
        cdef bint hears
        if subscription == NULL:
            return
        hears = self.found != 0 and self.event.kind != FEED_FLUSH and applies(subscription.pattern, self.event.key, self.event.klen)
        self.patterns.drop(subscription)
        self.figures.patterns -= 1
        if hears and not self.patterns.concerns(s, self.event.key, self.event.klen):
            self._unmatch(s)

    cdef void undo(self, Subscriber *s) noexcept nogil:
        """Take back what the running subscribe line has brought."""
        while s.patterns != s.mark:
            self.patterns.drop(s.patterns)
            self.figures.patterns -= 1

    cdef void leave(self, Connection *c) noexcept nogil:
        """It is no subscriber any more; what it was not told it never is."""
        cdef Subscriber *s = <Subscriber *> c.subscriber
        if s == NULL:
            return
        s.mark = NULL
        self.undo(s)
        self._forget(s)
        if s.next != NULL:
            s.next.previous = s.previous
        if s.previous != NULL:
            s.previous.next = s.next
        else:
            self.all = s.next
        self.pool.release(&s.news)
        self.count -= 1
        self.figures.subscribers -= 1
        c.subscriber = NULL
        free(s)
        self.finish()

    cdef void _forget(self, Subscriber *s) noexcept nogil:
        """Nothing that is under way leads to it."""
        cdef Subscriber *before = NULL
        cdef Subscriber *at = self.owed_first
        self._unmatch(s)
        if not s.owed:
            return
        while at != s:
            before = at
            at = at.next_owed
        if before == NULL:
            self.owed_first = s.next_owed
        else:
            before.next_owed = s.next_owed
        if self.owed_last == s:
            self.owed_last = before
        self.owed_count -= 1

    cdef void _unmatch(self, const Subscriber *s) noexcept nogil:
        cdef size_t i
        for i in range(self.found):
            if self.matched[i] == s:
                self.matched[i] = NULL

    cdef void set_table(self, Table table) noexcept:
        """Another table; all that was said of the one before is lost. Until this returns the one before must be mapped."""
        cdef uint64_t position
        self.ringer.stop()
        if self.listener != NULL:
            position = told(self.listener)
            free(self.listener)
            self.listener = NULL
            self.started = self.held = False
            self.found = self.at = 0
            self.fresh = True
            self.barred = False
            self._lose_all(position)
        self.table = table

    cdef void hear(self) noexcept nogil:
        """The bell has rung."""
        self.ringer.answer()
        self.fresh = True

    cdef void tell(self, uint64_t now_ms) noexcept nogil:
        """A piece of what is new, to all whom it concerns."""
        cdef size_t cost = 0
        cdef int result
        self.fresh = self.later = False
        if not self.started and self._try_to_listen(now_ms) != OK:
            self.later = True
            return
        if now_ms - self.renewed_ms >= RENEW_MS // 2:
            self.renewed_ms = now_ms
            renew(&self.table.view, self.listener)
        while cost < TELL_COST:
            if self.at < self.found:
                if not self._pass_on(&cost):
                    break
                continue
            result = self._take_event()
            cost += EVENT_COST * self.patterns.cost()
            if result != OK:
                self.later = result == WOULD_BLOCK or result == BUSY or result == NO_MEMORY
                return
        self.fresh = True

    cdef int _try_to_listen(self, uint64_t now_ms) noexcept nogil:
        """Listen to the table that has come in the place of another. OK, or why it does not yet. Each try takes the locks of all shards."""
        cdef int result
        if self.barred and now_ms - self.barred_ms < LISTEN_MS:
            return BUSY
        result = self._listen()
        self.barred = result != OK and result != WOULD_BLOCK and result != BUSY
        self.barred_ms = now_ms
        if result == OK:
            self._lose_all(told(self.listener))     # they are owed the news since the table before
        return result

    cdef int _take_event(self) noexcept nogil:
        """Make the next event ready to be passed on, unless it concerns nobody. OK, or why there is none."""
        cdef int result
        if not self.held:
            result = next_event(&self.table.view, self.listener, &self.event, TRY)
            if result == LOST:
                self._lose_all(self.event.number)
                return OK
            if result != OK:
                return result
            self.held = True
            self.match += 1
            self.at = self.found = 0
            if self.event.kind == FEED_FLUSH:
                self.found = self._all_of_them()
            else:
                self.found = self.patterns.gather(self.event.key, self.event.klen, self.match, self.matched)
            self.at = self.found            # until its text is there
        if self.found == 0:
            self.held = False
            return OK
        self.text.start = self.text.end = 0
        result = put_change(self.table, self.own, &self.text, &self.event, self.uses_cas)
        if result == WOULD_BLOCK or result == NO_MEMORY:
            return result
        self.held = False
        self.at = 0
        if result != OK:
            self.found = 0
            self.figures.merged += result == NOT_FOUND
        return OK

    cdef size_t _all_of_them(self) noexcept nogil:
        """A flush concerns all."""
        cdef Subscriber *s = self.all
        cdef size_t found = 0
        while s != NULL:
            self.matched[found] = s
            found += 1
            s = s.next
        return found

    cdef bint _pass_on(self, size_t *cost) noexcept nogil:
        """Copy the event's text to those whom it concerns, until the look has cost TELL_COST. False: it must end here, since one is to be
        sent something first."""
        while self.at < self.found and cost[0] < TELL_COST:
            if self.matched[self.at] != NULL and not self._append(self.matched[self.at]):
                return False
            self.at += 1
            cost[0] += self.text.end + EVENT_COST
        if self.at == self.found:
            self.at = self.found = 0
            if self.text.cap > KEPT_TEXT:
                self.own.release(&self.text)
        return True

    cdef bint _append(self, Subscriber *s) noexcept nogil:
        """One message always fits, if the pool has room for it. False: not now, but what waits for it goes out in this round or, if it
        has a turn before, soon. (One that cannot be sent anything for now might keep all others waiting, so it is not waited for.)"""
        cdef size_t held = waiting(&s.client.output) + waiting(&s.news)
        cdef size_t size = self.text.end
        cdef int flow = s.client.flow
        cdef bint full = held != 0 and held + size > SLOW_BYTES
        if flow == DOOMED or s.lost:
            return True
        if full and (flow == READING or flow == UNREAD or flow == YIELDED) and takes_news(s.client):
            self.owe(s)
            return False
        if full or not self.pool.reserve(&s.news, size):
            self._lose(s, told(self.listener) - (self.event.next - self.event.number))
            return True
        memcpy(s.news.data + s.news.end, self.text.data, size)
        s.news.end += size
        self.figures.notified += 1
        self.owe(s)
        return True

    cdef void _lose(self, Subscriber *s, uint64_t position) noexcept nogil:
        """It was not told what came behind that position."""
        if not s.lost:
            s.lost = True
            s.lost_from = position
            self.figures.losses += 1
        self.owe(s)

    cdef void _lose_all(self, uint64_t position) noexcept nogil:
        cdef Subscriber *s = self.all
        while s != NULL:
            self._lose(s, position)
            s = s.next

    cdef void owe(self, Subscriber *s) noexcept nogil:
        """It is to be sent what waits for it, as soon as it has nothing else to do. (One that has sends it by itself.)"""
        if s.owed or (s.client.flow != READING and s.client.flow != UNREAD):
            return
        s.owed = True
        s.next_owed = NULL
        if self.owed_last == NULL or self.owed_first == NULL:
            self.owed_first = s
        else:
            self.owed_last.next_owed = s
        self.owed_last = s
        self.owed_count += 1

    cdef Subscriber *next_owed(self) noexcept nogil:
        """The first of those, who is none any more."""
        cdef Subscriber *s = self.owed_first
        if s != NULL:
            self.owed_first = s.next_owed
            if self.owed_first == NULL:
                self.owed_last = NULL
            s.owed = False
            self.owed_count -= 1
        return s

    cdef bint hand_over(self, Subscriber *s, Buffer *out) noexcept nogil:
        """What waits for a subscriber goes to `out`, and behind it what it has lost. False: memory is out."""
        cdef size_t size = waiting(&s.news)
        if not self.own.reserve(out, size + NOTICE_MAX):
            return False
        if size:
            memcpy(out.data + out.end, s.news.data + s.news.start, size)
            out.end += size
            self.pool.release(&s.news)
        if s.lost and self.started:
            out.end += lost_line(out.data + out.end, s.lost_from, told(self.listener))
            s.lost = False
        return True

    def __dealloc__(self):
        free(self.matched)
        free(self.listener)
