# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""Who makes an item anew: reading for memcached's meta get, of which one reader among many wins the right to recache.

An item is to be made anew when it was marked stale, when it expires soon (`recaches`), or when there was none (`vivifies`). The first
reader who meets it so wins, which is noted with the item (STATE_TOKEN_SENT); the others are told that somebody has won. Whoever stores the
item ends that, since a new record has no state.

As long as nothing is to be changed reading takes no lock, as in reader.pyx: a reader who finds that somebody has won changes nothing.
"""

from libc.stdint cimport uint32_t, uint64_t

from memcache_shm.storage.atomics cimport store_release64
from memcache_shm.storage.counters cimport GET_MISSES, TOUCH_HITS
from memcache_shm.storage.layout cimport STATE_STALE, STATE_TOKEN_SENT
from memcache_shm.storage.placing cimport Target, aim, fetched_bit, leave, renew, write_record
from memcache_shm.storage.reader cimport abandon, find
from memcache_shm.storage.records cimport Fields, Sizes, cas_id, sizes_of, value_length
from memcache_shm.storage.recovery cimport OP_MARK, done, end, note
from memcache_shm.storage.results cimport CREATED, Claim, Found, NO_COUNT, NO_MISS, NO_SPACE, NO_TRACE, NOT_FOUND, OK, WON
from memcache_shm.storage.view cimport View, count


cdef inline bint is_due(uint32_t state, uint32_t expiry, const Claim *claim) noexcept nogil:
    """Whether the next reader wins."""
    if state & STATE_TOKEN_SENT:
        return False
    return state & STATE_STALE != 0 or (claim.recaches and expiry != 0 and expiry < claim.recache)


cdef void mark_won(View *v, Target *t) noexcept nogil:
    """Note with the record that somebody has won, by one store of the word that holds its state."""
    cdef Sizes sizes = sizes_of(t.record)
    sizes.state |= STATE_TOKEN_SENT
    note(v, t.shard, OP_MARK, t.place.slot, t.place.slot[0], sizes.state, 0)
    store_release64(<uint64_t *> &t.record.length, (<uint64_t *> &sizes)[0])
    done(v, t.shard, OP_MARK, 0)


cdef int vivify(View *v, Target *t, Found *f, const Claim *claim) noexcept nogil:
    """Make an empty item that this reader has won. Nothing of it is left to be read, so the lock is given back at once."""
    cdef Fields fields
    cdef int r
    fields.foreign_cas = 0
    fields.flags = 0
    fields.expiry = claim.birth
    fields.head = fields.tail = NULL
    fields.head_length = fields.tail_length = fields.middle_length = fields.blanks = 0
    fields.middle = NULL
    fields.state = STATE_TOKEN_SENT
    if not f.omit & NO_TRACE:
        t.gains = fetched_bit()
    r = write_record(v, t, &fields, 0)
    f.outcome = CREATED | WON
    f.record = NULL
    f.word = 0
    f.state = 0
    f.version = t.cas
    f.flags = f.vlen = f.expiry = 0
    return leave(v, t, r)


cdef void describe(Found *f, Target *t) noexcept nogil:
    """What a reader sees of the live record; the lock is held until `confirm`."""
    cdef Sizes sizes = sizes_of(t.record)
    f.stamp = t.record.version
    f.word = t.place.slot[0]
    f.slot = t.place.slot
    f.record = <unsigned char *> t.record
    f.hash = t.hash
    f.shard = t.shard.number
    f.version = cas_id(t.record, sizes, f.stamp)
    f.flags = t.record.flags
    f.vlen = value_length(sizes)
    f.expiry = t.record.expiry
    f.state = sizes.state
    f.locked = 1


cdef int find_locked(View *v, Found *f, const char *key, size_t klen, const Claim *claim, int wait) noexcept nogil:
    """All of it under the shard's lock."""
    cdef Target t
    cdef int r = aim(v, &t, key, klen, OP_MARK, wait)
    if r != OK:
        return r
    if claim.touches:
        f.omit |= NO_COUNT
    if t.record == NULL:
        if claim.vivifies:
            r = vivify(v, &t, f, claim)
        if not claim.vivifies or r == NO_SPACE:
            count(v, GET_MISSES, 1)
        if not claim.vivifies:
            return leave(v, &t, NOT_FOUND)
        if r == OK and claim.touches:
            count(v, TOUCH_HITS, 1)
        return r
    describe(f, &t)
    f.outcome = WON if is_due(f.state, claim.expiry if claim.touches and claim.touches_first else f.expiry, claim) else 0
    if claim.touches:
        renew(v, &t, claim.expiry)
        count(v, TOUCH_HITS, 1)
    if f.outcome & WON:
        mark_won(v, &t)
    end(t.shard)
    return OK


cdef int find_claim(View *v, Found *f, const char *key, size_t klen, const Claim *claim, int wait) noexcept nogil:
    """As `find` of reader.pyx, with what the claim asks for; copy and confirm must follow an OK. NO_SPACE: nothing is there, and it could
    not be made."""
    cdef int r
    if claim.touches:
        return find_locked(v, f, key, klen, claim, wait)
    if claim.vivifies:
        f.omit |= NO_MISS
    r = find(v, f, key, klen, wait)
    if r == NOT_FOUND and claim.vivifies:
        return find_locked(v, f, key, klen, claim, wait)
    if r == OK and is_due(f.state, f.expiry, claim):
        abandon(v, f)
        return find_locked(v, f, key, klen, claim, wait)
    return r
