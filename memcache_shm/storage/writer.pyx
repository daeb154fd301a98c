# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""Changing items: store in all its modes, delete and invalidate, incr and decr, touch. (flush_all is flushing.pyx.)

What an operation wants is a `Change`; how a record gets into the table, in which order, is placing.pyx. The CAS id of whatever is written
is the record's own version unless the change brings a foreign one; what is copied of an old record never includes its CAS id.
"""

from libc.stdint cimport int64_t, uint32_t, uint64_t

from memcache_shm.storage.atomics cimport cas64_relaxed, load_relaxed64
from memcache_shm.storage.counters cimport (
    CAS_BADVAL, CAS_HITS, CAS_MISSES, CMD_SET, DECR_HITS, DECR_MISSES, DELETE_HITS, DELETE_MISSES, INCR_HITS, INCR_MISSES, STORE_TOO_LARGE,
    TOUCH_HITS, TOUCH_MISSES,
)
from memcache_shm.storage.evict cimport drop
from memcache_shm.storage.layout cimport EXPIRY_HZ, STATE_STALE, STATE_TOKEN_SENT
from memcache_shm.storage.numbers cimport format_number, parse_number
from memcache_shm.storage.placing cimport Target, access_bits, aim, fetched_bit, leave, renew, search, write_record
from memcache_shm.storage.records cimport Fields, cas_id, copy_value, sizes_of, value_length
from memcache_shm.storage.recovery cimport OP_DELETE, OP_EVICT, OP_STORE, OP_TOUCH
from memcache_shm.storage.results cimport (
    ADD, APPEND, CAS, Change, EXISTS, NO_SPACE, NOT_FOUND, NOT_NUMBER, NOT_STORED, OK, PREPEND, SET, TOO_LARGE,
)
from memcache_shm.storage.view cimport View, count, table_ns, ticks, wall_s

cdef enum:
    LOOKED_AT_BYTES = 4096          # of a value in which incr looks for a number
    SHORT_BYTES = 32                # a value that is read without much stack
    ALREADY_GONE = 1                # an expiry before every clock reading


cdef inline uint64_t id_of(Target *t) noexcept nogil:
    """The live record's CAS id."""
    return cas_id(t.record, sizes_of(t.record), t.record.version)


cdef inline void plain_fields(
    Fields *f, const char *value, uint32_t length, uint32_t flags, uint32_t expiry, uint64_t foreign
) noexcept nogil:
    """A record that holds just this value; what else there is to say about it is set afterwards."""
    f.foreign_cas = foreign
    f.flags = flags
    f.expiry = expiry
    f.head = f.tail = value
    f.head_length = length
    f.tail_length = f.middle_length = f.blanks = 0
    f.middle = NULL
    f.state = 0


cdef inline void take_over(Fields *f, Target *t) noexcept nogil:
    """The old value in the middle, with its flags and expiry."""
    f.flags = t.record.flags
    f.expiry = t.record.expiry
    f.middle = t.record
    f.middle_length = value_length(sizes_of(t.record))


cdef int compare(View *v, Target *t, const Change *c, Fields *f) noexcept nogil:
    """Whether a store in mode CAS may go on. With an older id it may where that is allowed: then nothing becomes fresher by it."""
    cdef uint64_t id
    if t.record == NULL:
        count(v, CAS_MISSES, 1)
        return NOT_FOUND
    id = id_of(t)
    if id == c.compare:
        count(v, CAS_HITS, 1)
        return OK
    if not c.stale_too or c.compare == 0 or c.compare > id:
        count(v, CAS_BADVAL, 1)
        return EXISTS
    count(v, CAS_HITS, 1)
    f.expiry = t.record.expiry
    f.state = STATE_STALE | (sizes_of(t.record).state & STATE_TOKEN_SENT)
    return OK


cdef int extend_value(Target *t, const Change *c, Fields *f) noexcept nogil:
    """Append or prepend: whether that may go on, by what is there now."""
    if t.record == NULL:
        return OK if c.vivifies else NOT_STORED
    if c.compare != 0 and id_of(t) != c.compare:
        return EXISTS
    take_over(f, t)
    if c.mode == APPEND:
        f.tail_length = f.head_length
        f.head_length = 0
    return OK


cdef inline int permitted(View *v, Target *t, const Change *c, Fields *f) noexcept nogil:
    """Whether the store may go on, by what is there now; completes the fields by it."""
    if c.mode == SET:
        return OK
    if c.mode == CAS:
        return compare(v, t, c, f)
    if c.mode == APPEND or c.mode == PREPEND:
        return extend_value(t, c, f)
    return OK if (t.record == NULL) == (c.mode == ADD) else NOT_STORED


cdef int store(View *v, Change *c, int wait) noexcept nogil:
    cdef Target t
    cdef Fields f
    cdef uint64_t length
    cdef int r
    if c.vlen > v.max_value_bytes:
        count(v, STORE_TOO_LARGE, 1)
        return TOO_LARGE
    r = aim(v, &t, c.key, c.klen, OP_STORE, wait)
    if r != OK:
        return r
    count(v, CMD_SET, 1)
    plain_fields(&f, c.value, <uint32_t> c.vlen, c.flags, c.expiry, c.foreign)
    f.state = c.state & (STATE_STALE | STATE_TOKEN_SENT)
    r = permitted(v, &t, c, &f)
    if r != OK:
        return leave(v, &t, r)
    length = <uint64_t> c.vlen + f.middle_length
    if length > v.max_value_bytes:
        count(v, STORE_TOO_LARGE, 1)
        return leave(v, &t, TOO_LARGE)
    r = write_record(v, &t, &f, <uint32_t> length)
    if r == NO_SPACE and v.evicts and f.middle == NULL and t.record != NULL:
        give_up(v, &t)                  # old and new do not fit side by side
        r = write_record(v, &t, &f, <uint32_t> length)
    c.cas = t.cas
    c.length = <uint32_t> length
    return leave(v, &t, r)


cdef void give_up(View *v, Target *t) noexcept nogil:
    """Evict the key's own record. Making room for another may have moved its slot."""
    search(v, t)
    if t.record != NULL:
        drop(v, t.shard, t.place.slot, t.place.bucket, OP_EVICT)
        search(v, t)


cdef int present(View *v, Target *t, const Change *c) noexcept nogil:
    """Whether there is an item to delete or to invalidate, and the one that is meant."""
    if t.record == NULL:
        count(v, DELETE_MISSES, not c.uncounted)
        return NOT_FOUND
    if (c.compares or c.compare != 0) and id_of(t) != c.compare:
        count(v, DELETE_MISSES, 1)
        return EXISTS
    return OK


cdef int remove(View *v, const Change *c, int wait) noexcept nogil:
    cdef Target t
    cdef int r = aim(v, &t, c.key, c.klen, OP_DELETE, wait)
    if r != OK:
        return r
    r = present(v, &t, c)
    if r == OK:
        count(v, DELETE_HITS, not c.uncounted)
        v.removed_length = value_length(sizes_of(t.record))
        drop(v, t.shard, t.place.slot, t.place.bucket, OP_DELETE)
    return leave(v, &t, r)


cdef int invalidate(View *v, Change *c, int wait) noexcept nogil:
    """Leave an item that is stale, or has lost its value, or both, in place of the one that is there.

    A stale one is a new record with a new CAS id, so that who recaches can be told from who comes late. One that only loses its value keeps
    its CAS id. Where a table that evicts has no room for the copy, the item goes: that is what nobody may use any more.
    """
    cdef Target t
    cdef Fields f
    cdef int r = aim(v, &t, c.key, c.klen, OP_STORE, wait)
    if r != OK:
        return r
    r = present(v, &t, c)
    if r != OK:
        return leave(v, &t, r)
    plain_fields(&f, NULL, 0, c.flags, c.expiry, c.foreign)
    if not c.empties:
        take_over(&f, &t)
        t.keeps = fetched_bit() | access_bits()
    if c.touches:
        f.expiry = c.expiry
    if c.marks:
        f.state = STATE_STALE
    else:
        count(v, DELETE_HITS, 1)
        if f.foreign_cas == 0:
            f.foreign_cas = id_of(&t)
    r = write_record(v, &t, &f, f.middle_length)
    if r == NO_SPACE and v.evicts:
        give_up(v, &t)
        r = OK
    return leave(v, &t, r)


cdef bint read_long_number(Target *t, uint32_t length, uint64_t *number) noexcept nogil:
    """The value as a decimal number; False when it is none within its first 4 KiB."""
    cdef char text[LOOKED_AT_BYTES]
    cdef uint32_t n = min(length, <uint32_t> LOOKED_AT_BYTES)
    copy_value(&t.shard.records, t.record, n, text)
    if n < length and c'0' <= text[n - 1] <= c'9':
        return False                    # it may go on
    return parse_number(text, n, number)


cdef bint read_number(Target *t, uint32_t length, uint64_t *number) noexcept nogil:
    """The value as a decimal number, False when it is none: mostly it is short."""
    cdef char text[SHORT_BYTES]
    if length > SHORT_BYTES:
        return read_long_number(t, length, number)
    copy_value(&t.shard.records, t.record, length, text)
    return parse_number(text, length, number)


cdef int counted(View *v, Target *t, const Change *c, Fields *f, uint64_t *number) noexcept nogil:
    """The number after an incr or decr of the live record, and what else of that its new record takes over."""
    cdef uint32_t length = value_length(sizes_of(t.record))
    if length == 0:
        return NOT_NUMBER
    if c.compare != 0 and id_of(t) != c.compare:
        return EXISTS
    if not read_number(t, length, number):
        return NOT_NUMBER
    if c.decr:
        number[0] = number[0] - c.delta if number[0] > c.delta else 0
    else:
        number[0] += c.delta
    f.flags = t.record.flags
    f.expiry = t.record.expiry
    return OK


cdef void pad(Target *t, Fields *f) noexcept nogil:
    """As memcached, which writes a number that is not longer than the old one into its place: the length stays, and so does what it
    knows of the item. A longer one is a new item there."""
    cdef uint32_t length = value_length(sizes_of(t.record))
    if f.head_length <= length:
        f.blanks = length - f.head_length
        f.state = sizes_of(t.record).state & (STATE_STALE | STATE_TOKEN_SENT)
        t.keeps = fetched_bit()


cdef int arith(View *v, Change *c, int wait) noexcept nogil:
    cdef Target t
    cdef Fields f
    cdef char text[20]
    cdef uint64_t number = c.number
    cdef int r = aim(v, &t, c.key, c.klen, OP_STORE, wait)
    if r != OK:
        return r
    c.created = t.record == NULL
    if c.created and not c.vivifies:
        count(v, DECR_MISSES if c.decr else INCR_MISSES, 1)
        return leave(v, &t, NOT_FOUND)
    plain_fields(&f, text, 0, 0, c.birth, c.foreign)
    if not c.created:
        r = counted(v, &t, c, &f, &number)
        if r != OK:
            return leave(v, &t, r)
    f.head_length = format_number(number, text)
    if f.head_length > v.max_value_bytes:
        count(v, STORE_TOO_LARGE, 1)
        return leave(v, &t, TOO_LARGE)
    c.before = 0 if c.created else f.expiry
    if not c.created:
        count(v, DECR_HITS if c.decr else INCR_HITS, 1)
        pad(&t, &f)
        if c.touches:
            f.expiry = c.expiry
    r = write_record(v, &t, &f, f.head_length + f.blanks)
    c.number = number
    c.cas = t.cas
    return leave(v, &t, r)


cdef int touch(View *v, const char *key, size_t klen, uint32_t expiry, int wait) noexcept nogil:
    """Another expiry; as in memcached that is a use of the item."""
    cdef Target t
    cdef uint64_t word
    cdef int r = aim(v, &t, key, klen, OP_TOUCH, wait)
    if r != OK:
        return r
    if t.record == NULL:
        count(v, TOUCH_MISSES, 1)
        return leave(v, &t, NOT_FOUND)
    renew(v, &t, expiry)
    word = load_relaxed64(t.place.slot)
    if word & fetched_bit() == 0:
        cas64_relaxed(t.place.slot, word, word | fetched_bit())
    count(v, TOUCH_HITS, 1)
    return leave(v, &t, OK)


cdef uint32_t expiry_from(View *v, int64_t exptime) noexcept nogil:
    """The protocol's exptime as a point on the table clock: 0 never, negative gone, up to 30 days relative, above unix time."""
    cdef uint64_t at
    if exptime == 0:
        return 0
    if exptime > RELATIVE_MAX_S:
        exptime -= wall_s(v)
    if exptime <= 0:
        return ALREADY_GONE
    if exptime > FAR_S:
        return 0
    at = <uint64_t> exptime * EXPIRY_HZ + ticks(table_ns(v))
    if at > <uint64_t> 0xffffffff:
        return 0                        # further away than the clock can tell (17 years): never
    return <uint32_t> at
