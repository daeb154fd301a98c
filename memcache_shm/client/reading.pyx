# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False, auto_pickle=False
"""Reading one key straight from the table: the attached client's hottest path.

In Cython, although the rest of the client is Python: a Python method around the call would cost 60 of the 150 ns that a get
may take. The public class is `memcache_shm.client.cache.Cache`.

The GIL: an operation first runs while holding it, since giving it up costs more than the operation. Where it would have to
wait for a shard's lock, and where values are large, it runs without, so that other threads go on.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_Check, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.stdint cimport int64_t
from libc.stdlib cimport free, realloc
from libc.string cimport memset

from memcache_shm.client.reading cimport LARGE_BYTES, Key, cas_id, is_legal
from memcache_shm.storage.results cimport (
    BUSY, NO_SPACE, NOT_FOUND, NOT_NUMBER, OK, READ_ONLY, RETIRED, TOO_LARGE, TOO_MANY, TRY, Found,
)
from memcache_shm.storage.table cimport Table

from memcache_shm.client import inputs
from memcache_shm.errors import (
    BusyError, ClosedError, IllegalInputError, MemcacheError, NoSpaceError, ReadOnlyError, TableNotFoundError, TableRemovedError,
    TooLargeError,
)
from memcache_shm.storage import registry

cdef extern from "Python.h":
    # The text's UTF-8 bytes, kept in the str itself: for ASCII they are the str's own. Raises UnicodeEncodeError.
    const char *PyUnicode_AsUTF8AndSize(object text, Py_ssize_t *size) except NULL
    Py_ssize_t PyUnicode_GET_LENGTH(object text) noexcept
    bint PyUnicode_Check(object thing) noexcept

cdef enum:
    NO_MEMORY = -2          # beside the table's own results


cdef int _read_waiting(Table table, Key *key, Found *found, bint touch, int64_t exptime, char **buffer) noexcept nogil:
    """Find and copy into `buffer` (grown as needed, the caller frees it). Returns the table's result or NO_MEMORY."""
    cdef int result
    cdef char *grown
    while True:
        if touch:
            result = table.find_touch(found, key.data, key.size, table.expiry_from(exptime), True)
            touch = False
        else:
            result = table.find(found, key.data, key.size, True)
        if result != OK:
            return result
        grown = <char *>realloc(buffer[0], <size_t>found.vlen + 1)
        if grown != NULL:
            buffer[0] = grown
            table.copy(found, grown)
        if table.confirm(found):
            return OK if grown != NULL else NO_MEMORY


cdef class Reading:
    """A table by its name, and how keys and values are written in it."""

    def __init__(
        self, Table table not None, str name not None, str directory not None, *, serde=None, key_prefix=b"",
        bint default_noreply=False, bint allow_unicode_keys=False, str encoding not None="ascii", bint ignore_exc=False,
    ):
        if isinstance(key_prefix, str):
            key_prefix = key_prefix.encode("ascii")
        if not isinstance(key_prefix, bytes):
            raise TypeError("key_prefix should be bytes.")
        self.table = table
        self.name = name
        self.directory = directory
        self.readonly = table.readonly
        self.serde = serde
        self.key_prefix = key_prefix or None
        self.default_noreply = default_noreply
        self.allow_unicode_keys = allow_unicode_keys
        self.encoding = encoding
        self.ignore_exc = ignore_exc

    def get(self, key, default=None):
        """The value of `key`, or `default` when there is none."""
        cdef Found found
        cdef Key view
        _owner = self.view(key, &view)
        value = self.fetch(&view, &found)
        if value is None:
            return default
        if self.serde is not None:
            return self.serde.deserialize(key, value, found.flags)
        return value

    def gets(self, key, default=None, cas_default=None):
        """(value, CAS id) of `key`, or (`default`, `cas_default`)."""
        cdef Found found
        cdef Key view
        _owner = self.view(key, &view)
        value = self.fetch(&view, &found)
        if value is None:
            return default, cas_default
        if self.serde is not None:
            value = self.serde.deserialize(key, value, found.flags)
        return value, cas_id(found.version)

    def __getitem__(self, key):
        value = self.get(key)
        if value is None:
            raise KeyError(key)
        return value

    def __contains__(self, key):
        cdef Found found
        cdef Key view
        _owner = self.view(key, &view)
        return self.fetch(&view, &found) is not None

    def __len__(self):
        return len(self.current())

    def __bool__(self):
        return True     # an empty cache is still a cache: `if cache:` asks whether there is one

    def close(self):
        """Detach; further calls raise ClosedError. The table stays."""
        self.table = None   # unmapped with the last reference: a thread amid an operation has one

    @property
    def attached_table(self):
        """The table beneath. Raises ClosedError, TableRemovedError."""
        return self.current()

    @property
    def options(self):
        """The keyword arguments that make another handle behave like this one."""
        return {
            "serde": self.serde, "key_prefix": self.key_prefix or b"", "default_noreply": self.default_noreply,
            "allow_unicode_keys": self.allow_unicode_keys, "encoding": self.encoding, "ignore_exc": self.ignore_exc,
        }

    # Beneath

    cdef object view(self, object key, Key *view):
        """Check `key` and point `view` at its bytes; they live as long as the object returned."""
        cdef Py_ssize_t size
        if self.key_prefix is None and PyUnicode_Check(key):
            try:
                view.data = PyUnicode_AsUTF8AndSize(key, &size)
            except UnicodeEncodeError:
                raise IllegalInputError(f"key is no valid Unicode: {key!r}") from None
            if size != PyUnicode_GET_LENGTH(key) and not self.allow_unicode_keys:
                raise IllegalInputError(f"Non-ASCII key: {key!r}")
        else:
            if self.key_prefix is not None or not PyBytes_Check(key):
                key = inputs.encode_key(key, self.allow_unicode_keys, self.key_prefix or b"")
            view.data = PyBytes_AS_STRING(key)
            size = PyBytes_GET_SIZE(key)
        view.size = <size_t>size
        if not is_legal(view.data, view.size):
            inputs.refuse_key(view.data[:view.size])
        return key

    cdef bytes fetch(self, Key *key, Found *found):
        """The value's bytes, None when there is none (or it failed, with ignore_exc); `found` is valid with the first."""
        cdef Table table = self.live()
        cdef bytes value
        cdef char *data
        cdef int result
        cdef bint valid
        memset(found, 0, sizeof(Found))
        while True:
            result = table.find(found, key.data, key.size, TRY)
            if result == NOT_FOUND:
                return None
            if result != OK:
                return self.fetch_waiting(key, found, False, 0, 0)
            try:
                value = PyBytes_FromStringAndSize(NULL, found.vlen)
            except MemoryError:
                table.confirm(found)    # gives a lock back, if it came to that
                raise
            data = PyBytes_AS_STRING(value)
            if found.vlen < LARGE_BYTES:
                table.copy(found, data)
                valid = table.confirm(found)
            else:
                with nogil:
                    table.copy(found, data)
                    valid = table.confirm(found)
            if valid:
                return value

    cdef bytes fetch_waiting(self, Key *key, Found *found, bint touch, int64_t exptime, int omit):
        """As `fetch`, without the GIL and ready to wait; the new expiry is set first with `touch`. `omit`: as in Found."""
        cdef Table table
        cdef char *buffer = NULL
        cdef bint renewed = False
        cdef int result
        try:
            while True:
                table = self.live()
                memset(found, 0, sizeof(Found))
                found.omit = omit
                with nogil:
                    result = _read_waiting(table, key, found, touch, exptime, &buffer)
                if result == OK:
                    return PyBytes_FromStringAndSize(buffer, found.vlen)
                if result == NO_MEMORY:
                    raise MemoryError
                if self.settle(table, result, &renewed) == NOT_FOUND:
                    return None
        except MemcacheError:
            if self.ignore_exc:
                return None
            raise
        finally:
            free(buffer)

    cdef Table live(self):
        """The table; a caller keeps the reference while it runs without the GIL, so that a close cannot unmap it."""
        if self.table is None:
            raise ClosedError(f"the cache object of table {self.name!r} is closed; attach again")
        return self.table

    cdef Table current(self):
        """As `live`, for who looks at the table as a whole: asks the kernel, and attaches the successor of a removed one."""
        cdef Table table = self.live()
        if table.is_removed():
            self.renew(table)
        return self.live()

    cdef int settle(self, Table table, int result, bint *renewed) except -1:
        """`result` if it is an answer, RETIRED if the name leads to a new table now (once a call), else the error."""
        if result <= NOT_NUMBER:
            return result
        if result == RETIRED and not renewed[0]:
            renewed[0] = True
            self.renew(table)
            return RETIRED
        raise failure(table, result, self.name)

    cdef int renew(self, Table table) except -1:
        """Replace the removed `table` by the one that its name leads to now."""
        if self.table is not table:
            return 0        # another thread did, or closed
        try:
            fresh, _ = registry.attach(self.name, readonly=self.readonly, directory=self.directory)
        except TableNotFoundError as error:
            raise TableRemovedError(
                f"table {self.name!r} was removed (end of its daemon, 'memcache-shm rm', unlink()); {error}") from None
        if self.table is table:
            self.table = fresh
        return 0


cdef str _why_read_only(Table table, str name):
    if table.readonly:
        return f"table {name!r} is attached with readonly=True"
    if table.view.exempt:
        return f"table {name!r} follows no other (any more)"
    return f"table {name!r} follows another: write to that one, or promote it ('memcache-shm promote {name}')"


cdef object failure(Table table, int result, str name):
    """The exception for a result that is no answer."""
    if result == BUSY:
        return BusyError(f"table {name!r}: process {table.busy_pid()} keeps a shard locked; it is stopped or hung: continue or kill it")
    if result == TOO_LARGE:
        return TooLargeError(f"table {name!r} takes values up to {table.max_value} bytes; make it with a larger max_item")
    if result == NO_SPACE:
        why = "has no room for the new value beside the old one" if table.evicts else "is full and eviction is off"
        return NoSpaceError(f"table {name!r} {why}")
    if result == TOO_MANY:
        return NoSpaceError(f"table {name!r}: too many processes write to it; close some, or attach with readonly=True")
    if result == READ_ONLY:
        return ReadOnlyError(_why_read_only(table, name))
    if result == RETIRED:
        return TableRemovedError(f"table {name!r} was removed twice during this call; call again")
    return MemcacheError(f"table {name!r}: unexpected result {result}")
