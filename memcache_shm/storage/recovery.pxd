"""Intents and repair (see recovery.pyx)."""

from libc.stdint cimport uint32_t, uint64_t

from memcache_shm.storage.atomics cimport fence_release, store_relaxed32, store_relaxed64, store_release32, store_release64
from memcache_shm.storage.feed cimport announce
from memcache_shm.storage.layout cimport Intent
from memcache_shm.storage.view cimport Shard, View


cdef enum Operation:
    OP_NONE = 0
    OP_STORE = 1
    OP_DELETE = 2
    OP_TOUCH = 3
    OP_EVICT = 4
    OP_EXPIRE = 5
    OP_SPLIT = 6
    OP_MERGE = 7
    OP_MOVE = 8
    OP_FLUSH = 9
    OP_REPAIR = 10
    OP_MARK = 11                # a record's state
    DONE = 0x100                # beside the operation: its change is published


cdef inline void begin(View *v, Shard *s, int operation) noexcept nogil:
    """Note the intent. Everything until `end` may be left half done by a death; the next owner repairs."""
    store_relaxed32(&s.control.intent.pid, v.my_pid)
    store_relaxed64(&s.control.intent.slot, 0)
    store_release32(&s.control.intent.operation, <uint32_t> operation)
    fence_release()


cdef inline void end(Shard *s) noexcept nogil:
    store_release32(&s.control.intent.operation, OP_NONE)


cdef inline void note(View *v, Shard *s, int operation, uint64_t *slot, uint64_t word, uint32_t field, uint64_t feed) noexcept nogil:
    """Say in the intent what the next store will publish. Until the slot is there nothing was announced, and until the operation is,
    an earlier change of the same owner is still the one that is DONE. `feed`: what `prepare` said of the event, 0 without."""
    cdef Intent *intent = &s.control.intent
    if feed != 0:
        fence_release()             # behind the mark that an earlier change is DONE, else this event would be told with that one
    store_relaxed64(&intent.new_word, word)
    store_relaxed32(&intent.new_field, field)
    store_relaxed64(&intent.feed, feed)
    store_release64(&intent.slot, <uint64_t> (<char *> slot - <char *> v.base))
    store_release32(&intent.operation, <uint32_t> operation)


cdef inline void done(View *v, Shard *s, int operation, uint64_t feed) noexcept nogil:
    """What was noted is published: its event may be seen; the change is, before anything that it gave up is reused. Tidying up follows."""
    if feed != 0:
        announce(v, s, feed)
    fence_release()
    store_relaxed32(&s.control.intent.operation, <uint32_t> operation | DONE)


cdef inline void publish_told(View *v, Shard *s, int operation, uint64_t *slot, uint64_t word, uint64_t feed) noexcept nogil:
    """The one store that makes a change visible, noted in the intent first, with its event. The caller has begun."""
    note(v, s, operation, slot, word, 0, feed)
    store_release64(slot, word)
    done(v, s, operation, feed)


cdef inline void publish(View *v, Shard *s, int operation, uint64_t *slot, uint64_t word) noexcept nogil:
    """The same for a change that no user of the table would call one."""
    publish_told(v, s, operation, slot, word, 0)


cdef void enter(View *v, Shard *s) noexcept nogil
cdef void note_flush(View *v, Shard *s, uint64_t flush_ns) noexcept nogil
cdef bint sensible(View *v, Shard *s) noexcept nogil
cdef void repair(View *v, Shard *s) noexcept nogil
cdef void format_index(View *v, Shard *s) noexcept nogil
