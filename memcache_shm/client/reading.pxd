"""Reading one key straight from the table; fields of the handle."""

from libc.stdint cimport int64_t, uint8_t, uint64_t

from memcache_shm.storage.results cimport Found
from memcache_shm.storage.table cimport Table


cdef enum:
    KEY_MAX = 250
    LARGE_BYTES = 32768     # copying more takes longer than giving up the GIL and taking it again


cdef struct Key:            # a checked key; its bytes belong to the object that `Reading.view` returned
    const char *data
    size_t size             # 1 to 250


cdef inline bytes cas_id(uint64_t version):
    """The CAS id as pymemcache gives it: decimal digits."""
    return b"%d" % version


cdef inline bint is_legal(const char *key, size_t size) noexcept nogil:
    """Whether memcached's text protocol can carry the key: no NUL and no whitespace, 1 to 250 bytes."""
    cdef size_t i
    cdef uint8_t c
    cdef bint low = False   # some byte is a blank or below
    if size - 1 >= KEY_MAX:
        return False
    for i in range(size):
        low |= <uint8_t>key[i] <= 32
    if not low:
        return True
    for i in range(size):
        c = <uint8_t>key[i]
        if c == 0 or c == 32 or 9 <= c <= 13:
            return False
    return True


cdef object failure(Table table, int result, str name)


cdef class Reading:
    cdef Table table                # None once closed; replaced when its name leads to a new table
    cdef object serde               # None: bytes in, bytes out
    cdef bytes key_prefix           # None: no prefix, so that a key's own bytes are used
    cdef str encoding               # of values that are not bytes
    cdef bint allow_unicode_keys    # str keys as UTF-8, else ASCII only
    cdef bint default_noreply       # what noreply=None means
    cdef bint ignore_exc            # failed gets are misses
    cdef readonly str name          # under which the table is registered
    cdef readonly str directory     # where its state file is
    cdef readonly bint readonly     # attached without the right to write

    cdef object view(self, object key, Key *view)
    cdef bytes fetch(self, Key *key, Found *found)
    cdef bytes fetch_waiting(self, Key *key, Found *found, bint touch, int64_t exptime, int omit)
    cdef Table live(self)
    cdef Table current(self)
    cdef int settle(self, Table table, int result, bint *renewed) except -1
    cdef int renew(self, Table table) except -1
