# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False, auto_pickle=False
"""Listening to the feed of a table that this process has attached.

An event tells which key changed; what it holds now is read from the table when the event is told. Where that is not what the event tells
of, a later event follows, and this one is passed over. So of several changes of a key the last one is told, the others maybe.

`poll` never waits for anything, `wait` sleeps up to a tenth of a second and takes nothing from the feed. So who waits can be interrupted,
by a signal, by a timeout, by the end of a task, and no change is lost with it.

A copy of all items is told between the events, those first, so that the ring does not overtake it: at the beginning (`copies`), and
whenever something was missed. It is complete when all is told that had happened by the time its last item was read. Until then the copy may
be ahead of the events: an item that went, and is there again, is not told to have gone, so that no key goes back to an older state.

The copy walks in a circle: when something is missed amid it, it goes on from there, through the table's end, until it is there once more.
So it gets on, an item at least after each loss, under writers who are faster than all of it is told.

Who polls holds the lock; the table is unmapped with the last reference to it, and who sleeps holds one. `close` never waits for the lock,
since a signal handler may call it in the very thread that holds it: whoever gives it back looks whether that is the end.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from cpython.exc cimport PyErr_CheckSignals
from libc.stdint cimport int64_t, uint32_t, uint64_t
from libc.stdlib cimport calloc
from libc.string cimport memset
from posix.unistd cimport getpid, usleep

from memcache_shm.client.place cimport AGAIN, Place
from memcache_shm.client.reading cimport LARGE_BYTES, Reading
from memcache_shm.storage.atomics cimport CLOCK_MONOTONIC, clock_ns
from memcache_shm.storage.feed cimport FEED_FLUSH, FEED_SET, FEED_TOUCH
from memcache_shm.storage.listening cimport RENEW_MS, Event, new_listener, renew, sleep_until_news, start, told
from memcache_shm.storage.results cimport (
    EXPIRED, LOST, NO_COUNT, NO_FEED, NO_TRACE, NOT_FOUND, OK, POLL, RETIRED, WAIT, WOULD_BLOCK, Found,
)
from memcache_shm.storage.table cimport Table
from memcache_shm.storage.unixtime cimport exptime_of
from memcache_shm.storage.walk cimport Batch, Walk, Walked

import threading

from memcache_shm.client.changes import ALIVE as _ALIVE, SYNCED as _SYNCED, Change as _Change
from memcache_shm.errors import ClosedError, FeedOffError, ReadOnlyError

cdef enum:
    SEEK_MOST = 1024        # events that are looked at while the GIL is held: about 50 us
    SEEK_MORE = 65536       # ... and without it
    WALK_MOST = 64          # buckets, the same
    WALK_MORE = 512
    RUN_MOST = 64           # events in a row while a copy waits
    SLICE_MS = 100          # of waiting
    RETRY_US = 1000         # for a shard's lock
    NS_A_MS = 1000000
    READ_BYTES = 4194304    # of values that a read hands over at a time

cdef tuple _KINDS = ("", "set", "touch", "delete", "expire", "evict", "flush")     # by feed.Kind
cdef object _new = tuple.__new__


cdef inline object _change(str kind, object key, object value, object flags, object exptime, object cas):
    return _new(_Change, (kind, key, value, flags, exptime, cas, 0, 0))


cdef inline object _position(str kind, uint64_t first, uint64_t last):
    return _new(_Change, (kind, None, None, 0, 0, 0, first, last))


cdef class AttachedFeed(Place):
    """A place in the feed of `cache`'s table, from now on; `patterns` are keys, or prefixes with ``*`` at the end (none: all keys).

    With `copies` all items come first, as `set`, mixed with what changes meanwhile, then SYNCED; later ALIVE, once a second while all is
    told. A touch is told as `set` then: by its own clock who keeps the copy may have dropped the value already. After LOST all items come
    once more; without `copies`, too (but no SYNCED).

    The lease on the feed is renewed by `poll`: who does not call it for five seconds is told LOST. Any number of threads may use it; it
    goes on in a forked child, from where it stands. Raises ReadOnlyError, FeedOffError, IllegalInputError, TableRemovedError, BusyError.
    """

    def __cinit__(self, Reading cache not None, tuple patterns not None, bint copies=False):
        self.cache = cache
        self.lock = threading.Lock()
        self.pid = getpid()
        self.copies = copies
        self.walking = copies

    def __init__(self, cache, patterns, copies=False):
        cdef bint renewed = False
        cdef int result = RETIRED
        if self.cache.readonly:
            raise ReadOnlyError(
                f"table {self.cache.name!r} is attached with readonly=True, and who listens has to write that it does;"
                " listen through its daemon: memcache_shm.Mirror('HOST:PORT') or Mirror('/path/of/socket')"
            )
        while result == RETIRED:
            result = self.begin(WAIT)
            self.cache.settle(self.table, result, &renewed)

    def poll(self):
        """The next change, None when there is none by now. It never waits. Raises ClosedError; TableRemovedError, BusyError, FeedOffError,
        after which it may be called again."""
        cdef bint again = True
        while again:
            self.own()
            self.lock.acquire()
            try:
                change = self.step(&again)
            finally:
                self.release()
            if again:
                with nogil:
                    pass                # other threads' turn
                PyErr_CheckSignals()    # outside of the lock: a handler may close this
        return change

    def read(self, double limit_s, uint32_t most=256):
        """The next changes, up to `most` and some MiB; none if none came within `limit_s` seconds, at most a tenth of one. Raises as
        `poll`."""
        cdef size_t size = 0
        changes = []
        change = self.poll()
        if change is None:
            self.wait(limit_s)
            change = self.poll()
        while change is not None:
            changes.append(change)
            if change[2] is not None:       # its value
                size += len(change[2])
            change = self.poll() if <size_t> len(changes) < most and size < READ_BYTES else None
        return changes

    def wait(self, double limit_s):
        """Sleep until `poll` may have something, `limit_s` seconds at most, and a tenth of a second at most."""
        cdef int64_t limit_ns = <int64_t> (min(max(limit_s, 0.0), SLICE_MS / 1000.0) * 1000000000)
        cdef Table table
        cdef uint64_t known = 0
        cdef bint asleep
        self.own()
        self.lock.acquire()
        table = self.table
        asleep = self.started and not self.blocked and not self.closed
        if asleep:
            known = told(self.listener)
        self.release()
        with nogil:
            if asleep:
                sleep_until_news(&table.view, known, limit_ns)
            else:
                usleep(RETRY_US)

    def close(self):
        """Stop listening. Whoever waits gets ClosedError from its next `poll`. It waits for nothing; for signal handlers, too."""
        self.closed = True
        self.own()
        self.tidy()

    cdef int release(self) except -1:
        """Give the lock back. Whoever closed this meanwhile could not wait for that."""
        self.lock.release()
        if self.closed:
            self.tidy()
        return 0

    cdef int tidy(self) except -1:
        """Once it is closed: give up what it holds, unless somebody has the lock, who does it then."""
        if self.lock.acquire(False):
            self.drop()
            self.table = None
            self.lock.release()
        return 0

    # Beneath: all that follows is called with the lock held

    cdef object step(self, bint *again):
        """The next change or None; `again`: the same once more, after a look at the signals."""
        cdef bint renewed = False
        cdef uint32_t _n
        cdef int result
        for _n in range(SEEK_MOST):
            if self.closed:
                raise ClosedError("the subscription is closed; subscribe again")
            self.cache.live()
            result = OK if self.started else self.begin(POLL)
            change = self.next_told(&result)
            again[0] = result == AGAIN and change is None
            self.blocked = result == WOULD_BLOCK
            if change is not None or again[0] or self.blocked:
                return change
            if result == RETIRED:
                self.leave()
            result = self.cache.settle(self.table, result, &renewed)
            if result == NOT_FOUND:
                return None
        again[0] = True
        return None

    cdef object next_told(self, int *result):
        """What is to be told next; None with a result that says why: NOT_FOUND nothing, OK not yet, AGAIN, WOULD_BLOCK, or a failure."""
        cdef uint64_t now_ns = clock_ns(CLOCK_MONOTONIC)
        if result[0] != OK:
            return None
        if self.interrupted:
            return self.lose(self.told_before, told(self.listener))
        if now_ns - self.renewed_ns >= <uint64_t> RENEW_MS * NS_A_MS:
            renew(&self.table.view, self.listener)
            self.renewed_ns = now_ns
        if self.goal != NULL and self.reached():
            if self.copies:
                return self.settled()
            self.drop_copy()
        if self.walking and self.run >= RUN_MOST:
            self.run = 0
            return self.copied(result)
        result[0] = OK if self.pending else self.seek(SEEK_MOST)
        if result[0] == AGAIN and not self.walking:
            with nogil:
                result[0] = self.seek(SEEK_MORE)
        if result[0] == OK:
            self.pending = True
            self.run += 1
            return self.tell(result)
        if result[0] == LOST:
            return self.lose(self.event.number, self.event.next)
        if self.walking and (result[0] == NOT_FOUND or result[0] == AGAIN):
            self.run = 0
            return self.copied(result)
        if result[0] == NOT_FOUND and self.copies and now_ns - self.alive_ns >= <uint64_t> RENEW_MS * NS_A_MS:
            return self.settled()
        return None

    cdef object tell(self, int *result):
        """What the pending event comes to; None with OK if a later one tells more."""
        cdef Event *event = &self.event
        cdef Found found
        if event.kind == FEED_FLUSH:
            self.pending = False
            return _change("flush", None, None, 0, 0, 0)
        if event.kind == FEED_SET or event.kind == FEED_TOUCH:
            change = self.tell_present(event.key, event.klen, event.version, event.kind == FEED_TOUCH and not self.copies, result)
            if result[0] == NOT_FOUND:
                result[0] = OK
            self.pending = result[0] != OK
            return change
        if self.walking or self.goal != NULL:
            self.fetch(event.key, event.klen, 0, True, &found, result)
            if result[0] != NOT_FOUND:
                self.pending = result[0] != OK
                return None         # it is there again, and may have been told by the copy already
            result[0] = OK
        self.pending = False
        return _change(_KINDS[event.kind], self.name(event.key, event.klen), None, 0, 0, event.version)

    cdef bytes name(self, const char *key, size_t klen):
        """The key as the cache's user knows it."""
        return PyBytes_FromStringAndSize(key + self.prefix_size, klen - self.prefix_size)

    cdef object tell_present(self, const char *key, size_t klen, uint64_t version, bint touched, int *result):
        """The state of a key; None with NOT_FOUND when it is not there, or not in that version (0: any).

        That version with its time over is told to have expired: nobody may ever come to remove it, and no event would follow.
        """
        cdef Found found
        value = self.fetch(key, klen, version, touched, &found, result)
        if result[0] == NOT_FOUND and version != 0 and found.missing == EXPIRED and found.stamp == version:
            result[0] = OK
            return _change("expire", self.name(key, klen), None, 0, 0, version)
        if result[0] != OK:
            return None
        return _change("touch" if touched else "set", self.name(key, klen), value, found.flags, exptime_of(found.expiry), found.version)

    cdef bytes fetch(self, const char *key, size_t klen, uint64_t version, bint touched, Found *found, int *result):
        """The value, None if `touched`; `found` is valid with OK."""
        cdef bytes value = None
        cdef char *data
        cdef bint other, valid
        memset(found, 0, sizeof(Found))
        found.omit = NO_TRACE | NO_COUNT
        while True:
            result[0] = self.table.find(found, key, klen, POLL)
            if result[0] != OK:
                return None
            other = version != 0 and found.stamp != version
            if other or touched:
                valid = self.table.confirm(found)
            else:
                try:
                    value = PyBytes_FromStringAndSize(NULL, found.vlen)
                except MemoryError:
                    self.table.confirm(found)       # gives a lock back, if it came to that
                    raise
                data = PyBytes_AS_STRING(value)
                if found.vlen < LARGE_BYTES:
                    self.table.copy(found, data)
                    valid = self.table.confirm(found)
                else:
                    with nogil:
                        self.table.copy(found, data)
                        valid = self.table.confirm(found)
            if valid:
                result[0] = NOT_FOUND if other else OK
                return value

    cdef object copied(self, int *result):
        """The next item of the copy; None with OK when there is none among the next ones, or when it is through."""
        cdef Walked *item
        if self.batch == NULL:
            self.batch = <Batch *> calloc(1, sizeof(Batch))
            if self.batch == NULL:
                raise MemoryError("no room to copy")
        result[0] = self.walk_on(WALK_MOST)
        if result[0] == AGAIN:
            with nogil:
                result[0] = self.walk_on(WALK_MORE)
        if result[0] == NOT_FOUND:
            result[0] = OK
            self.drop_copy()
            self.note_goal()            # first: should it fail the walk still is at its end, and this comes again
            self.walking = False
        elif result[0] == OK:
            item = &self.batch.item[self.at]
            change = self.tell_present(item.key, item.klen, 0, False, result)
            if result[0] == OK or result[0] == NOT_FOUND:
                result[0] = OK
                self.at += 1
            return change
        return None

    cdef object lose(self, uint64_t first, uint64_t last):
        """LOST; the copy begins, or goes all around from where it stands. What is left of its batch is told as it is by now."""
        self.interrupted = False
        self.pending = False
        if not self.walking:
            self.drop_copy()
        if not self.walking or self.walk.shard >= self.listener.shards:
            memset(&self.walk, 0, sizeof(Walk))
        self.walking = True
        self.wrapped = False
        self.mark = self.walk
        self.run = RUN_MOST             # an item first: the next loss may come before the next pause
        return _position("lost", first, last)

    cdef object settled(self):
        """SYNCED when it is due, else ALIVE."""
        kind = _ALIVE if self.goal == NULL else _SYNCED
        self.drop_copy()
        self.alive_ns = clock_ns(CLOCK_MONOTONIC)
        return _position(kind, 0, told(self.listener))

    cdef int begin(self, int wait) except -1:
        """Take a place at the end of the feed of the cache's table: OK; WOULD_BLOCK, RETIRED, BUSY. Raises FeedOffError."""
        cdef Table table = self.cache.live()
        cdef int result
        if self.table is not table or self.listener == NULL:
            self.drop()
            self.table = table
            self.listener = new_listener(&table.view)
            if self.listener == NULL:
                raise MemoryError("no room to listen")
        with nogil:
            result = start(&table.view, self.listener, wait)
        if result == NO_FEED:
            raise FeedOffError(
                f"the feed of table {self.cache.name!r} is off; make it with one: open(..., feed='1m'), or a daemon with --feed SIZE")
        self.started = result == OK
        self.renewed_ns = clock_ns(CLOCK_MONOTONIC)
        return result

    cdef int leave(self) except -1:
        """Give the place up, so that LOST is told at the next one."""
        if self.started and not self.interrupted:
            self.told_before = told(self.listener)
            self.interrupted = True
        self.drop()
        memset(&self.walk, 0, sizeof(Walk))     # it may be another table, or somebody was amid a step of it
        memset(&self.mark, 0, sizeof(Walk))
        self.wrapped = False
        return 0

    cdef int own(self) except -1:
        """In a forked child: what another thread of the parent was amid is not to be relied on."""
        if self.pid != getpid():
            self.pid = getpid()
            if self.lock.locked():
                self.lock = threading.Lock()
                self.leave()
        return 0
