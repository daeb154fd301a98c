# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False, auto_pickle=False
"""Changing one key straight in the table; in Cython for the reason that `reading` gives, with the same rule for the GIL."""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_Check, PyBytes_GET_SIZE
from cpython.long cimport PyLong_AsLongLongAndOverflow, PyLong_CheckExact
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.string cimport memset

from memcache_shm.client.reading cimport LARGE_BYTES, Key, Reading, cas_id
from memcache_shm.storage.results cimport (
    ADD, APPEND, CAS, NO_SPACE, NOT_FOUND, NOT_NUMBER, OK, PREPEND, REPLACE, RETIRED, SET, TOO_LARGE, TRY, WAIT, WOULD_BLOCK, Change,
    Found,
)
from memcache_shm.storage.table cimport Table

from memcache_shm.client import inputs
from memcache_shm.errors import IllegalInputError


cdef inline int64_t _integer(object value, str name) except? -1:
    """`value` in 64 bits, checked for the argument `name`."""
    cdef int overflow = 0
    cdef long long number
    if PyLong_CheckExact(value):
        number = PyLong_AsLongLongAndOverflow(value, &overflow)
        if not overflow:
            return number
    return inputs.check_integer(value, name)


cdef inline void _begin(Change *change, const Key *key) noexcept:
    memset(change, 0, sizeof(Change))
    change.key = key.data
    change.klen = key.size


cdef class Attached(Reading):
    """Every operation on one key."""

    def set(self, key, value, expire=0, noreply=None, flags=None):
        """Store `value`; True. Raises TooLargeError, NoSpaceError, BusyError, also with `noreply`."""
        return self.store(SET, key, value, expire, noreply, flags, 0)

    def add(self, key, value, expire=0, noreply=None, flags=None):
        """Store `value` unless `key` is there already: False then."""
        return self.store(ADD, key, value, expire, noreply, flags, 0)

    def replace(self, key, value, expire=0, noreply=None, flags=None):
        """Store `value` if `key` is there: False if not."""
        return self.store(REPLACE, key, value, expire, noreply, flags, 0)

    def append(self, key, value, expire=0, noreply=None, flags=None):
        """Add `value` behind what is there, which keeps its flags and expiry; False when there is nothing."""
        return self.store(APPEND, key, value, expire, noreply, flags, 0)

    def prepend(self, key, value, expire=0, noreply=None, flags=None):
        """Add `value` in front of what is there, which keeps its flags and expiry; False when there is nothing."""
        return self.store(PREPEND, key, value, expire, noreply, flags, 0)

    def cas(self, key, value, cas, expire=0, noreply=False, flags=None):
        """Store `value` if the item's CAS id is still `cas`: False if it changed, None if it is gone."""
        return self.store(CAS, key, value, expire, noreply, flags, inputs.check_cas(cas))

    def __setitem__(self, key, value):
        self.store(SET, key, value, 0, True, None, 0)

    def __delitem__(self, key):
        self.delete(key, True)

    # Changing

    def delete(self, key, noreply=None):
        """Remove `key`; False when it was not there."""
        cdef Key view
        cdef Change change
        cdef bint renewed = False
        cdef int result
        cdef Table table
        _owner = self.view(key, &view)
        _begin(&change, &view)
        while True:
            table = self.live()
            result = table.remove(&change, TRY)
            if result == WOULD_BLOCK:
                with nogil:
                    result = table.remove(&change, WAIT)
            result = self.settle(table, result, &renewed)
            if result != RETIRED:
                return result == OK or self.quiet(noreply)

    def incr(self, key, value, noreply=False):
        """Add `value` to the decimal number there; the new number, None when the key is not there."""
        return self.arith(False, key, value, noreply)

    def decr(self, key, value, noreply=False):
        """Subtract `value`, down to 0; the new number, None when the key is not there."""
        return self.arith(True, key, value, noreply)

    def touch(self, key, expire=0, noreply=None):
        """Let `key` expire `expire` seconds from now (0: never); False when it is not there."""
        cdef Key view
        cdef bint renewed = False
        cdef int result
        cdef Table table
        cdef int64_t exptime = _integer(expire, "expire")
        cdef uint32_t expiry
        _owner = self.view(key, &view)
        while True:
            table = self.live()
            expiry = table.expiry_from(exptime)
            result = table.touch(view.data, view.size, expiry, TRY)
            if result == WOULD_BLOCK:
                with nogil:
                    result = table.touch(view.data, view.size, expiry, True)
            result = self.settle(table, result, &renewed)
            if result != RETIRED:
                return result == OK or self.quiet(noreply)

    def flush_all(self, delay=0, noreply=None):
        """Make every item of the table expire, `delay` seconds from now. True."""
        cdef int64_t delay_s = _integer(delay, "delay")
        cdef bint renewed = False
        cdef int result
        cdef Table table
        while True:
            table = self.live()
            with nogil:
                result = table.flush(delay_s, True)
            if self.settle(table, result, &renewed) != RETIRED:
                return True

    # Reading with a new expiry

    def gat(self, key, expire=0, default=None):
        """As `get`, and the item expires `expire` seconds from now."""
        cdef Found found
        cdef Key view
        _owner = self.view(key, &view)
        value = self.fetch_waiting(&view, &found, True, _integer(expire, "expire"), 0)
        if value is None:
            return default
        if self.serde is not None:
            return self.serde.deserialize(key, value, found.flags)
        return value

    def gats(self, key, expire=0, default=None, cas_default=None):
        """As `gets`, and the item expires `expire` seconds from now."""
        cdef Found found
        cdef Key view
        _owner = self.view(key, &view)
        value = self.fetch_waiting(&view, &found, True, _integer(expire, "expire"), 0)
        if value is None:
            return default, cas_default
        if self.serde is not None:
            value = self.serde.deserialize(key, value, found.flags)
        return value, cas_id(found.version)

    # Beneath

    cdef object store(self, int mode, object key, object value, object expire, object noreply, object flags, uint64_t cas):
        """Every storage command: what pymemcache returns for it."""
        cdef Key view
        cdef Change change
        cdef uint32_t bits = 0
        cdef int result
        cdef int64_t exptime = _integer(expire, "expire")
        _owner = self.view(key, &view)
        if self.serde is not None:
            value, serde_flags = self.serde.serialize(key, value)
            bits = inputs.check_flags(serde_flags)
        if flags is not None:
            bits = inputs.check_flags(flags)
        if not PyBytes_Check(value):
            value = inputs.encode_value(value, self.encoding)
        _begin(&change, &view)
        change.mode = <uint8_t>mode
        change.value = PyBytes_AS_STRING(value)
        change.vlen = <size_t>PyBytes_GET_SIZE(value)
        change.flags = bits
        change.compare = cas
        result = self.put(&change, exptime)
        if result == OK or self.quiet(noreply):
            return True
        return None if result == NOT_FOUND and mode == CAS else False

    cdef int put(self, Change *change, int64_t exptime) except -1:
        """Store; the table's result."""
        cdef Table table
        cdef bint renewed = False
        cdef int result
        while True:
            table = self.live()
            change.expiry = table.expiry_from(exptime) if exptime else 0
            result = WOULD_BLOCK
            if change.vlen < LARGE_BYTES:
                result = table.store(change, TRY)
            if result == WOULD_BLOCK:
                with nogil:
                    result = table.store(change, WAIT)
            if change.mode == SET and (result == TOO_LARGE or result == NO_SPACE):
                # As memcached does: a value that could not be replaced is stale.
                with nogil:
                    table.remove(change, WAIT)
            result = self.settle(table, result, &renewed)
            if result != RETIRED:
                return result

    cdef object arith(self, bint decr, object key, object value, object noreply):
        cdef Key view
        cdef Change change
        cdef Table table
        cdef uint64_t delta = inputs.check_delta(value)
        cdef bint renewed = False
        cdef int result
        _owner = self.view(key, &view)
        _begin(&change, &view)
        change.decr = decr
        change.delta = delta
        while True:
            table = self.live()
            result = table.arith(&change, TRY)
            if result == WOULD_BLOCK:
                with nogil:
                    result = table.arith(&change, WAIT)
            result = self.settle(table, result, &renewed)
            if result == NOT_NUMBER:
                raise IllegalInputError(f"cannot increment or decrement non-numeric value of {key!r}")
            if result != RETIRED:
                return None if result == NOT_FOUND or noreply else change.number

    cdef bint quiet(self, object noreply) except -1:
        """What `noreply` means here: only that an answer is not wanted; errors are raised all the same."""
        return self.default_noreply if noreply is None else bool(noreply)
