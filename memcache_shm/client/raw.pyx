# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False, auto_pickle=False
"""An attached table as its keeper looks at it: keys of any bytes, listed and read without a trace.

`Cache` is for programs: it has pymemcache's rules for keys, and its gets count as uses. Here keys may have any bytes (such as meta
commands store under base64 names), and looking changes neither who is evicted next nor the figures of `stats`.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from cpython.exc cimport PyErr_CheckSignals
from libc.stdint cimport uint32_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcmp

from memcache_shm.client.attached cimport Attached
from memcache_shm.client.reading cimport KEY_MAX, Key
from memcache_shm.storage.results cimport NO_COUNT, NO_TRACE, NOT_FOUND, OK, RETIRED, Found
from memcache_shm.storage.table cimport Table
from memcache_shm.storage.walk cimport Batch, next_batch

from memcache_shm.client import inputs
from memcache_shm.errors import TableRemovedError

cdef enum:
    BUCKETS_A_LOOK = 65536  # that a walk passes before it looks for signals: some milliseconds
    GO_ON = -3              # nothing wanted so far


cdef class RawTable(Attached):
    """A table, attached, with bytes for keys. Made by `memcache_shm.client.local`; the methods not stated here are those of `Cache`."""

    cdef object view(self, object key, Key *view):
        """Check `key` and point `view` at its bytes; they live as long as the object returned."""
        if not isinstance(key, bytes):
            raise TypeError(f"key must be bytes, not {type(key).__name__}")
        if not 1 <= PyBytes_GET_SIZE(key) <= KEY_MAX:
            inputs.refuse_key(key)
        view.data = PyBytes_AS_STRING(key)
        view.size = <size_t>PyBytes_GET_SIZE(key)
        return key

    def get(self, key, default=None):
        """The value of `key`, or `default` when there is none; no use of it."""
        cdef Found found
        cdef Key view
        _owner = self.view(key, &view)
        value = self.fetch_waiting(&view, &found, False, 0, NO_TRACE | NO_COUNT)
        return default if value is None else value

    def keys(self, bytes prefix=b""):
        """An iterator over the keys that begin with `prefix`, in no order: each that stays meanwhile once, others once or not.
        Raises as `get`, also while it goes on."""
        return KeyWalk(self, self.current(), prefix)


cdef class KeyWalk:
    """The keys of a table, one after the other."""

    def __init__(self, RawTable source not None, Table table not None, bytes prefix not None):
        self.source = source
        self.table = table
        self.prefix = prefix
        self.wanted = PyBytes_AS_STRING(prefix)
        self.wanted_size = <size_t>PyBytes_GET_SIZE(prefix)

    def __cinit__(self, *args):
        self.batch = <Batch *>calloc(1, sizeof(Batch))
        if self.batch == NULL:
            raise MemoryError

    def __dealloc__(self):
        free(self.batch)

    def __iter__(self):
        return self

    def __next__(self):
        cdef int result = GO_ON
        cdef uint32_t _bucket
        cdef bint renewed = True
        while result == GO_ON:
            with nogil:
                for _bucket in range(BUCKETS_A_LOOK):
                    if self.scan():
                        result = OK
                        break
                    self.at = 0
                    result = next_batch(&self.table.view, &self.walk, self.batch, True)
                    if result != OK:
                        break
                    result = GO_ON
            PyErr_CheckSignals()
        if result == NOT_FOUND:
            raise StopIteration
        if result == RETIRED:
            raise TableRemovedError(f"table {self.source.name!r} was removed or made anew while it was listed; list again")
        self.source.settle(self.table, result, &renewed)
        self.at += 1
        return self.batch.item[self.at - 1].key[:self.batch.item[self.at - 1].klen]

    cdef bint scan(self) noexcept nogil:
        """Go to the next wanted item of the batch. False: there is none left."""
        while self.at < self.batch.n:
            if self.batch.item[self.at].klen >= self.wanted_size:
                if memcmp(self.batch.item[self.at].key, self.wanted, self.wanted_size) == 0:
                    return True
            self.at += 1
        return False
