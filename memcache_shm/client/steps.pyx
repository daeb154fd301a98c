# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False, auto_pickle=False
"""Several keys of an attached table in one step: no change by any door falls in between.

Without the GIL from the first lock to the last, so that a step never waits for a thread that waits for it.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.stdint cimport uint32_t
from libc.stdlib cimport calloc, free
from libc.string cimport memset

from memcache_shm.client.reading cimport Reading
from memcache_shm.storage.results cimport NO_SPACE, OK, RETIRED, TOO_LARGE
from memcache_shm.storage.steps cimport DELETES, READS, WRITES, Part, Values, take_step
from memcache_shm.storage.table cimport Table

from memcache_shm.errors import IllegalInputError, NoSpaceError, TooLargeError

cdef enum:
    KEY_MAX = 250


cdef class _Parts:
    """The keys of a step as the storage takes them; `keys` and `values` keep their bytes."""

    cdef Part *parts
    cdef uint32_t n
    cdef Values values
    cdef list kept

    def __cinit__(self, list keys not None, list values):
        cdef uint32_t i
        cdef bytes key, value
        self.kept = [list(keys), None if values is None else list(values)]
        self.n = <uint32_t>len(keys)
        self.parts = <Part *>calloc(max(self.n, 1), sizeof(Part))
        memset(&self.values, 0, sizeof(Values))
        if self.parts == NULL:
            raise MemoryError
        for i in range(self.n):
            key = keys[i]
            if not 1 <= PyBytes_GET_SIZE(key) <= KEY_MAX:
                raise IllegalInputError(f"a key has 1 to 250 bytes, not {len(key)}")
            self.parts[i].key = PyBytes_AS_STRING(key)
            self.parts[i].klen = <size_t>PyBytes_GET_SIZE(key)
            if values is not None:
                value = values[i]
                self.parts[i].value = PyBytes_AS_STRING(value)
                self.parts[i].vlen = <size_t>PyBytes_GET_SIZE(value)

    def __dealloc__(self):
        free(self.parts)
        free(self.values.data)

    cdef bytes failed(self, int result):
        """The key at which the step ended."""
        cdef uint32_t i
        for i in range(self.n):
            if self.parts[i].result == result:
                return self.kept[0][i]
        return b""


cdef class Steps:
    """Steps on the table of `cache`, which is attached for writing; keys are bytes of any kind. Any number of threads may use it.

    Keys are handled in the order given; lock-free gets may see some before and some after. Raises ReadOnlyError, BusyError,
    TableRemovedError, ClosedError; IllegalInputError for a key that is empty or longer than 250 bytes.
    """

    cdef Reading cache

    def __init__(self, Reading cache not None):
        self.cache = cache

    def write(self, list pairs not None):
        """Store the values of all (key, value), without flags and for ever. TooLargeError: nothing is stored. NoSpaceError, which names a
        key: those before it are stored."""
        cdef _Parts parts = _Parts([pair[0] for pair in pairs], [pair[1] for pair in pairs])
        self.take(WRITES, parts)

    def read(self, list keys not None):
        """The values of all keys, None for those that are not there. It counts as no use of them."""
        cdef _Parts parts = _Parts(keys, None)
        cdef Part *part
        cdef uint32_t i
        cdef list values = []
        self.take(READS, parts)
        for i in range(parts.n):
            part = parts.parts + i
            values.append(PyBytes_FromStringAndSize(parts.values.data + part.at, <Py_ssize_t>part.vlen) if part.result == OK else None)
        return values

    def delete(self, list keys not None):
        """Remove all keys; for each whether it was there."""
        cdef _Parts parts = _Parts(keys, None)
        cdef uint32_t i
        self.take(DELETES, parts)
        return [parts.parts[i].result == OK for i in range(parts.n)]

    cdef int take(self, int what, _Parts parts) except -1:
        cdef Table table
        cdef bint renewed = False
        cdef int result = RETIRED
        while result == RETIRED:
            table = self.cache.live()
            parts.values.size = 0
            with nogil:
                result = take_step(&table.view, what, parts.parts, parts.n, &parts.values)
            if result == TOO_LARGE:
                raise TooLargeError(
                    f"the value of {parts.failed(result)!r} is too large: table {self.cache.name!r} takes up to {table.max_value} bytes")
            if result == NO_SPACE and what == READS:
                raise MemoryError("no room for the values")
            if result == NO_SPACE:
                why = "has no room for it" if table.evicts else "is full and eviction is off"
                raise NoSpaceError(f"{parts.failed(result)!r} cannot be stored: table {self.cache.name!r} {why}")
            self.cache.settle(table, result, &renewed)
        return 0
