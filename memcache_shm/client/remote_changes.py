"""Changes to a table behind a stream, with pymemcache's methods: the half that `RemoteCache` and `WriteThroughCache` share."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from memcache_shm.client import inputs
from memcache_shm.client.connections import Connections
from memcache_shm.client.handling import Handling
from memcache_shm.client.refusals import DID_NOT_FIT, failure
from memcache_shm.client.remote_values import Value, fetch
from memcache_shm.client.types import Key
from memcache_shm.errors import ClosedError, MemcacheError

_STORED = {b"STORED": True, b"NOT_STORED": False, b"EXISTS": False, b"NOT_FOUND": None}
_REMOVED = {b"DELETED": True, b"NOT_FOUND": False}
_TOUCHED = {b"TOUCHED": True, b"NOT_FOUND": False}
_FLUSHED = {b"OK": True}
_NOREPLY = b" noreply"


class RemoteChanges:
    """Every operation that changes something. What `noreply` means here: nothing is waited for, so errors are not told, either; but whoever
    uses the object reads what was written with it."""

    _connections: Connections
    _handling: Handling

    # One key

    def set(self, key: Key, value: Any, expire: int = 0, noreply: bool | None = None, flags: int | None = None) -> bool:
        """Store `value`; True. Raises TooLargeError, NoSpaceError, BusyError."""
        return bool(self._store(b"set", key, value, expire, noreply, flags))

    def add(self, key: Key, value: Any, expire: int = 0, noreply: bool | None = None, flags: int | None = None) -> bool:
        """Store `value` unless `key` is there already: False then."""
        return bool(self._store(b"add", key, value, expire, noreply, flags))

    def replace(self, key: Key, value: Any, expire: int = 0, noreply: bool | None = None, flags: int | None = None) -> bool:
        """Store `value` if `key` is there: False if not."""
        return bool(self._store(b"replace", key, value, expire, noreply, flags))

    def append(self, key: Key, value: Any, expire: int = 0, noreply: bool | None = None, flags: int | None = None) -> bool:
        """Add `value` behind what is there, which keeps its flags and expiry; False when there is none, or both are too large."""
        return bool(self._store(b"append", key, value, expire, noreply, flags))

    def prepend(self, key: Key, value: Any, expire: int = 0, noreply: bool | None = None, flags: int | None = None) -> bool:
        """Add `value` in front of what is there, which keeps its flags and expiry; False when there is none, or both are too large."""
        return bool(self._store(b"prepend", key, value, expire, noreply, flags))

    def cas(
        self,
        key: Key,
        value: Any,
        cas: int | str | bytes,
        expire: int = 0,
        noreply: bool | None = False,
        flags: int | None = None,
    ) -> bool | None:
        """Store `value` if the item's CAS id is still `cas`: False if it changed, None if it is gone."""
        return self._store(b"cas", key, value, expire, noreply, flags, b" %d" % inputs.check_cas(cas))

    def gat(self, key: Key, expire: int = 0, default: Any = None) -> Any:
        """As `get`, and the item expires `expire` seconds from now."""
        found = self._fetch(b"gat %d " % inputs.wire_time(expire, "expire"), key)
        return default if found is None else self._handling.loaded(key, *found[:2])

    def gats(self, key: Key, expire: int = 0, default: Any = None, cas_default: Any = None) -> tuple[Any, Any]:
        """As `gets`, and the item expires `expire` seconds from now."""
        found = self._fetch(b"gats %d " % inputs.wire_time(expire, "expire"), key)
        return (default, cas_default) if found is None else (self._handling.loaded(key, *found[:2]), found[2])

    def delete(self, key: Key, noreply: bool | None = None) -> bool:
        """Remove `key`; False when it was not there."""
        return self._order(b"delete " + self._handling.word(key), self._handling.is_quiet(noreply), _REMOVED)

    def incr(self, key: Key, value: int, noreply: bool | None = False) -> int | None:
        """Add `value` to the decimal number there; the new number, None when the key is not there."""
        return self._count(b"incr", key, value, noreply)

    def decr(self, key: Key, value: int, noreply: bool | None = False) -> int | None:
        """Subtract `value`, down to 0; the new number, None when the key is not there."""
        return self._count(b"decr", key, value, noreply)

    def touch(self, key: Key, expire: int = 0, noreply: bool | None = None) -> bool:
        """Let `key` expire `expire` seconds from now (0: never); False when it is not there."""
        expire = inputs.wire_time(expire, "expire")
        return self._order(b"touch %b %d" % (self._handling.word(key), expire), self._handling.is_quiet(noreply), _TOUCHED)

    def __setitem__(self, key: Key, value: Any) -> None:
        self.set(key, value, noreply=False)

    def __delitem__(self, key: Key) -> None:
        self.delete(key, noreply=False)

    # Several keys

    def set_many(self, values: Mapping[Key, Any], expire: int = 0, noreply: bool | None = None, flags: int | None = None) -> list[Key]:
        """Store every pair; returns the keys whose values did not fit (too large, or full with eviction off), none with `noreply`."""
        quiet = self._handling.is_quiet(noreply)
        expire = inputs.wire_time(expire, "expire")
        requests = [self._storing(b"set", key, value, expire, flags, _NOREPLY if quiet else b"") for key, value in values.items()]
        if quiet:
            self._connections.tell(requests)
            return []
        failed = []
        problem = None
        for key, line in zip(values, self._connections.order_many(requests), strict=True):
            if line != b"STORED":
                error = failure(self._connections.where, line)
                if isinstance(error, DID_NOT_FIT):
                    failed.append(key)
                else:
                    problem = problem or error
        if problem is not None:
            raise problem
        return failed

    set_multi = set_many

    def delete_many(self, keys: Iterable[Key], noreply: bool | None = None) -> bool:
        """Remove every one of `keys`, there or not. True."""
        quiet = self._handling.is_quiet(noreply)
        requests = [b"delete %b%b\r\n" % (self._handling.word(key), _NOREPLY if quiet else b"") for key in keys]
        if quiet:
            self._connections.tell(requests)
            return True
        for line in self._connections.order_many(requests):
            if line not in _REMOVED:
                raise failure(self._connections.where, line)
        return True

    delete_multi = delete_many

    def flush_all(self, delay: int = 0, noreply: bool | None = None) -> bool:
        """Make every item of the table expire, `delay` seconds from now. True."""
        return self._order(b"flush_all %d" % inputs.wire_time(delay, "delay"), self._handling.is_quiet(noreply), _FLUSHED)

    # Beneath

    def _store(
        self, command: bytes, key: Key, value: Any, expire: int, noreply: bool | None, flags: int | None, cas: bytes = b""
    ) -> bool | None:
        expire = inputs.wire_time(expire, "expire")
        if self._handling.is_quiet(noreply):
            self._connections.tell([self._storing(command, key, value, expire, flags, cas + _NOREPLY)])
            return True
        line = self._connections.order(self._storing(command, key, value, expire, flags, cas))
        if line not in _STORED:
            raise failure(self._connections.where, line)
        return _STORED[line]

    def _storing(self, command: bytes, key: Key, value: Any, expire: int, flags: int | None, ending: bytes) -> bytes:
        word = self._handling.word(key)
        data, bits = self._handling.stored(key, value, flags)
        return b"%b %b %d %d %d%b\r\n%b\r\n" % (command, word, bits, expire, len(data), ending, data)

    def _order(self, request: bytes, quiet: bool, meanings: Mapping[bytes, bool]) -> bool:
        """What the reply to a `request` of one line means; True if it is not waited for."""
        if quiet:
            self._connections.tell([request + _NOREPLY + b"\r\n"])
            return True
        line = self._connections.order(request + b"\r\n")
        if line not in meanings:
            raise failure(self._connections.where, line)
        return meanings[line]

    def _count(self, command: bytes, key: Key, value: int, noreply: bool | None) -> int | None:
        delta = inputs.check_delta(value)
        request = b"%b %b %d" % (command, self._handling.word(key), delta)
        if self._handling.is_quiet(noreply):
            self._connections.tell([request + _NOREPLY + b"\r\n"])
            return None
        line = self._connections.order(request + b"\r\n")
        number = line.rstrip()  # memcached fills up what has become shorter
        if number.isdigit():
            return int(number)
        if line != b"NOT_FOUND":
            raise failure(self._connections.where, line)
        return None

    def _fetch(self, command: bytes, key: Key) -> Value | None:
        """Value, flags and CAS id (where the command asks for it) of `key`; None also when it failed, with ignore_exc."""
        word = self._handling.word(key)
        try:
            return self._connections.read(fetch, command + word + b"\r\n", word)
        except ClosedError:
            raise
        except MemcacheError:
            if self._handling.ignore_exc:
                return None
            raise
