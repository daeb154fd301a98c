"""A table behind a socket: a small client of this daemon, and of any memcached since 1.6.

It looks without leaving a trace (meta get with `u`), names keys of any bytes (base64), and lists keys as they come: nothing here holds
more than a pipeline's worth of them. A client for programs is `memcache_shm.connect`, or `attach`.
"""

from __future__ import annotations

import base64
import re
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from types import TracebackType
from typing import Any, NamedTuple, TypeVar
from urllib.parse import unquote_to_bytes

from memcache_shm.client.addresses import Address, given_address, written
from memcache_shm.client.admission import shown
from memcache_shm.client.changes import EVERYTHING
from memcache_shm.client.inputs import refuse_key
from memcache_shm.client.remote_feed import RemoteFeed, RemoteStream
from memcache_shm.client.remote_figures import read_figures
from memcache_shm.client.wire import Connection, ConnectionLost
from memcache_shm.errors import IllegalInputError, RemoteError

DEFAULT_TIMEOUT_S = 5.0
_KEY_MAX_BYTES = 250  # of a key in base64, too
_ODD_KEY_MAX_BYTES = _KEY_MAX_BYTES // 4 * 3  # of one that goes in base64
_VALUE_MAX_BYTES = 1 << 30
PIPELINED = 64  # requests sent before the first reply is read: less than any socket's buffer takes
_BUSY_EVERY_S = 0.05
_STARTS_FAR_S = 2  # by which what a server tells of its start differs from one time to another, since it counts whole seconds
PLAIN_KEY = re.compile(rb"[^\x00-\x20\x7f]+")
_DUMPED = re.compile(rb"key=(\S+)")
_VALUE = re.compile(rb"VA (\d{1,10})(?: .*)?")
T = TypeVar("T")


class _Run(NamedTuple):
    """The process that serves, as far as it tells."""

    pid: int  # 0: it does not
    started_s: int  # unix time

    def is_same(self, other: _Run) -> bool:
        """Never where it is not told."""
        return self.pid == other.pid != 0 and abs(self.started_s - other.started_s) <= _STARTS_FAR_S


class RemoteTable:
    """The table of a daemon, or a memcached, at HOST:PORT, at a UNIX socket or behind a channel. Not for several threads at a time.

    Methods raise RemoteError: nobody answers within the time, or it refuses; the text is the server's. A connection that was lost
    is made anew by the next call, and in the middle of a read once by itself. IllegalInputError: the key or the address.
    """

    def __init__(self, address: str | Address, timeout_s: float = DEFAULT_TIMEOUT_S) -> None:
        """Connect. `address` as users write it ("host:port", "[v6]:port", a path with a /, "channel:/path"), or as `Address`; `timeout_s`
        is the limit of each wait."""
        self.address = given_address(address)
        self.timeout_s = timeout_s
        self._run: _Run | None = None  # the only one that a new connection may lead to
        self._connection: Connection | None = Connection(self.address, timeout_s)  # None while it is used, and once it was lost

    @property
    def name(self) -> str:
        """The address as users write it."""
        return written(self.address)

    # Reading

    def get(self, key: bytes) -> bytes | None:
        """The value of `key`; None when there is none."""
        key_words(key)
        (value,) = self.values([key])
        return value

    def can_ask(self, key: bytes) -> bool:
        """Whether the protocol can name `key`, which a dump or an attached program may know all the same."""
        return 1 <= len(key) <= (_KEY_MAX_BYTES if PLAIN_KEY.fullmatch(key) else _ODD_KEY_MAX_BYTES)

    def values(self, keys: Sequence[bytes]) -> Iterator[bytes | None]:
        """The value of each of `keys` in turn, None for those that are not there or that `can_ask` tells not to be asked for."""
        for start in range(0, len(keys), PIPELINED):
            some = keys[start : start + PIPELINED]
            requests = [b"mg %b%b v u\r\n" % key_words(key) for key in some if self.can_ask(key)]
            answers = self.replies(requests, self._value, True)
            for key in some:
                yield next(answers) if self.can_ask(key) else None
            next(answers, None)  # to its end: the connection is kept for the next ones

    def keys(self, prefix: bytes = b"") -> Iterator[bytes]:
        """The keys that begin with `prefix`, in no order, as they come. Those that come or go meanwhile may be told or not."""
        for line in self.dump():
            match = _DUMPED.match(line)
            if match is None:
                raise RemoteError(f"{self.name}: unexpected line {line[:60]!r} amid the keys")
            key = unquote_to_bytes(match[1])
            if key.startswith(prefix):
                yield key

    def items(self, prefix: bytes = b"") -> Iterator[tuple[bytes, bytes]]:
        """(key, value) of what begins with `prefix` and can be asked for, in no order, as it comes."""
        keys = self.keys(prefix)
        while some := list(islice(keys, PIPELINED)):
            for key, value in zip(some, self.values(some), strict=True):
                if value is not None:
                    yield key, value

    def count(self) -> int:
        """The number of items."""
        count = self._figures().get(b"curr_items")
        if not isinstance(count, int):
            raise RemoteError(f"{self.name}: the server does not tell how many items it has")
        return count

    def watch(self, prefix: bytes = b"") -> RemoteStream:
        """The changes from now on of keys that begin with `prefix` (without blanks and control characters), on a connection of its own.
        For a daemon of this package only, with a feed (else FeedOffError)."""
        return RemoteFeed(self.address, self.timeout_s).subscribe([prefix + EVERYTHING])

    @contextmanager
    def one_server(self) -> Iterator[None]:
        """Within this block a connection that was lost is made anew to the very server that answers now. RemoteError: another one answers
        there, or the same was started anew, as when its items are not those that were listed."""
        self._run = _run_of(self._figures())
        try:
            yield
        finally:
            self._run = None

    # Changing

    def set(self, key: bytes, value: bytes) -> bool:
        """Store `value`, without flags and for ever. True."""
        word, flag = key_words(key)
        reply = self._order(b"ms %b %d%b\r\n%b\r\n" % (word, len(value), flag, value))
        return self._expect(reply, {b"HD": True})

    def delete(self, key: bytes) -> bool:
        """Remove `key`; False when it was not there."""
        reply = self._order(b"md %b%b\r\n" % key_words(key))
        return self._expect(reply, {b"HD": True, b"NF": False})

    def flush_all(self) -> bool:
        """Make every item expire. True."""
        return self._expect(self._order(b"flush_all\r\n"), {b"OK": True})

    def close(self) -> None:
        """Disconnect; a later call connects anew."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def __enter__(self) -> RemoteTable:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<memcache_shm.client.remote.RemoteTable {self.name!r}>"

    # Beneath

    @contextmanager
    def _exchange(self, request: bytes) -> Iterator[Connection]:
        """Send `request` on a connection that nobody else uses meanwhile; it is kept unless the reply was left in the middle."""
        connection = self._connection
        self._connection = None
        if connection is not None and not connection.is_idle():
            connection.close()  # ended by the server since: nothing was sent on it
            connection = None
        if connection is None:
            connection = self._connected()
        try:
            connection.send(request)
            yield connection
        except BaseException:
            connection.close()
            raise
        self.close()  # one that was made meanwhile
        self._connection = connection

    def _connected(self) -> Connection:
        connection = Connection(self.address, self.timeout_s)
        try:
            if self._run is not None and not self._run.is_same(_run_of(read_figures(connection, b"stats\r\n"))):
                raise RemoteError(f"{self.name}: the connection was lost, and another server answers there now, or it was started anew")
        except BaseException:
            connection.close()
            raise
        return connection

    def _order(self, request: bytes) -> bytes:
        """The reply's line to a change; it is not sent again when the connection is lost, since it may have been done."""
        with self._exchange(request) as connection:
            return connection.line()

    def _expect(self, reply: bytes, meanings: dict[bytes, bool]) -> bool:
        if reply not in meanings:
            raise self.refusal(reply)
        return meanings[reply]

    def refusal(self, reply: bytes) -> RemoteError:
        """The server's own words, what is no text in them escaped."""
        return RemoteError(f"{self.name}: {shown(reply)}")

    def replies(self, requests: Sequence[bytes], read: Callable[[Connection], T], again: bool) -> Iterator[T]:
        """What `read` makes of the reply to each of `requests`, which are sent at once. `again`: what is missing when the connection is
        lost is asked for once more, as is right for what changes nothing."""
        done = 0
        for last in (not again, True):
            try:
                with self._exchange(b"".join(requests[done:])) as connection:
                    while done < len(requests):
                        reply = read(connection)
                        done += 1
                        yield reply
                return
            except ConnectionLost:
                if last:
                    raise

    def read_value(self, connection: Connection) -> tuple[bytes, bytes] | None:
        """The line and the value of a reply to a meta get; None when there is none."""
        line = connection.line()
        if line == b"EN":
            return None
        head = _VALUE.fullmatch(line)
        if head is None:
            raise self.refusal(line)
        size = int(head[1])
        if size > _VALUE_MAX_BYTES:
            raise RemoteError(f"{self.name}: a value of {size} bytes is more than a memcached has")
        return line, connection.block(size)

    def _value(self, connection: Connection) -> bytes | None:
        found = self.read_value(connection)
        return None if found is None else found[1]

    def _figures(self) -> dict[bytes, Any]:
        """What `stats` tells."""
        for last in (False, True):
            try:
                with self._exchange(b"") as connection:
                    return read_figures(connection, b"stats\r\n")
            except ConnectionLost:
                if last:
                    raise
        raise AssertionError("unreachable")

    def dump(self, order: bytes = b"all") -> Iterator[bytes]:
        """The lines of a dump of keys: of memcached by its LRU lists ("all"), or by its hash table ("hash"). RemoteError.

        A memcached makes one at a time: another's is waited for. (`mgdump` is shorter, but memcached 1.6.18 does not know it.)
        """
        end = time.monotonic() + self.timeout_s
        begun = lost = False
        while True:
            try:
                with self._exchange(b"lru_crawler metadump %b\r\n" % order) as connection:
                    while (line := connection.line()).startswith(b"key="):
                        begun = True
                        yield line
                if line == b"END":
                    return
                if not line.startswith(b"BUSY") or begun or time.monotonic() > end:
                    raise self._no_dump(line)
                time.sleep(_BUSY_EVERY_S)
            except ConnectionLost:
                if begun or lost:
                    raise
                lost = True

    def _no_dump(self, reply: bytes) -> RemoteError:
        if reply == b"ERROR metadump not allowed":
            return RemoteError(f"{self.name}: the server does not let its keys be listed (it runs with -X)")
        if reply == b"ERROR":
            return RemoteError(f"{self.name}: the server cannot list its keys: it knows no 'lru_crawler metadump'")
        return self.refusal(reply)


def _run_of(figures: dict[bytes, Any]) -> _Run:
    pid, time_s, uptime_s = (figures.get(name) for name in (b"pid", b"time", b"uptime"))
    if not isinstance(pid, int) or not isinstance(time_s, int) or not isinstance(uptime_s, int):
        return _Run(0, 0)
    return _Run(pid, time_s - uptime_s)


def key_words(key: bytes) -> tuple[bytes, bytes]:
    """How a meta command names `key`: the word, and the flag that goes with it. IllegalInputError."""
    if not 1 <= len(key) <= _KEY_MAX_BYTES:
        refuse_key(key)
    if PLAIN_KEY.fullmatch(key):
        return key, b""
    if len(key) > _ODD_KEY_MAX_BYTES:
        raise IllegalInputError(f"a key with blanks or control characters has {_ODD_KEY_MAX_BYTES} bytes at most, not {len(key)}")
    return base64.b64encode(key), b" b"
