"""The connections of a cache object to its server: one for each call that is under way, kept for the next.

    call -> take: the one used last, or a new one -> request, reply -> back on top of the pile

So threads do not wait for each other, unless the server refuses one more: then a call waits until one comes back. Of those that nobody
uses a few are kept. Requests without a reply (`noreply`) share one, in their order. What comes after them on another connection, or is
read from the mapped table, could be served before them; so every other call first waits until the server has done them: `mn` is sent
behind them, whose reply comes when all before it is done. Then their connection goes back on the pile.
"""

from __future__ import annotations

import os
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from queue import Empty, SimpleQueue
from typing import Any, NoReturn, TypeVar

from memcache_shm.client.addresses import Address, written
from memcache_shm.client.admission import FullError
from memcache_shm.client.refusals import failure
from memcache_shm.client.remote_feed import RemoteFeed, RemoteStream
from memcache_shm.client.wire import Connection, ConnectionLost
from memcache_shm.errors import ClosedError, RemoteError

_BATCH_REQUESTS = 256  # their replies, even refusals, are less than any socket's buffer takes
_BATCH_BYTES = 1 << 20
_NOT_UNDERSTOOD = (b"CLIENT_ERROR", b"ERROR")  # the server may take for requests what follows
IDLE_MOST = 8  # are kept; a burst of more calls at once makes the others anew
T = TypeVar("T")
_Mailbox = SimpleQueue[Connection | None]  # of a call that waits: a connection to use, or None: look again, something has changed


class Connections:
    """Of one cache object, for any number of threads. Methods raise RemoteError, and ClosedError after `close`.

    A forked child begins without any: its parent's stay the parent's.
    """

    def __init__(self, address: Address, timeout_s: float, verify: Callable[[Connection], None] | None = None) -> None:
        """Connect, to see who is there. `verify` is asked about each new connection, and raises if it is not to be used."""
        self.where = written(address)
        self.unsettled = False  # requests without a reply were sent and may not be done yet; written under the lock
        self._address = address
        self._timeout_s = timeout_s
        self._verify = verify
        self.closed = False
        self._open: set[Connection] = set()  # idle, under way or quiet; its methods are atomic
        self.begin()
        self._idle.append(self._connect())
        _all.add(self)

    def begin(self) -> None:
        """Without any connection: at first, and in a forked child, where closing them does not end the parent's."""
        for connection in self._open:
            connection.close()
        self._open = set()
        self._waiting: deque[_Mailbox] = deque()  # those that have waited longest first
        self._handing = threading.Lock()  # of who changes `_waiting`
        self._idle: list[Connection] = []  # that used last at the end; its methods are atomic
        self._quiet: Connection | None = None  # for requests without a reply; of who has the lock
        self._lock = threading.Lock()
        self.unsettled = False

    def close(self) -> None:
        """Idempotent. A call that is under way is ended by its own reply."""
        self.closed = True
        while self._waiting:
            self._wake()
        with self._lock:
            self._drop_quiet()
        self._drop_idle()

    def read(self, use: Callable[..., T], *args: Any) -> T:
        """What `use` makes of a connection and `args`; of a new one, from the beginning, when one that had served before was lost."""
        while True:
            connection = self._take()
            try:
                result = use(connection, *args)
            except ConnectionLost:
                self._drop(connection)
                if not connection.proven:
                    raise
                self._drop_idle()  # which have most probably gone with it
            except BaseException:
                self._drop(connection)
                raise
            else:
                self._give_back(connection)
                return result

    def order(self, request: bytes) -> bytes:
        """The line that is the reply to a change. It is not sent again when the connection is lost, since it may have been done."""
        connection = self._take_idle()
        try:
            line = connection.ask_line(request)
            if line.startswith(_NOT_UNDERSTOOD):
                raise failure(self.where, line)
        except BaseException:
            self._drop(connection)
            raise
        self._give_back(connection)
        return line

    def order_many(self, requests: Sequence[bytes]) -> list[bytes]:
        """The replies to several changes, which do not wait for each other."""
        lines: list[bytes] = []

        def read_reply(connection: Connection) -> None:
            line = connection.line()
            if line.startswith(_NOT_UNDERSTOOD):
                raise failure(self.where, line)
            lines.append(line)

        connection = self._take_idle()
        try:
            pipeline(connection, batches(requests, _BATCH_BYTES), read_reply)
        except BaseException:
            self._drop(connection)
            raise
        self._give_back(connection)
        return lines

    def tell(self, requests: Sequence[bytes]) -> None:
        """Send changes that have no reply. RemoteError: they may be lost, or those told before."""
        with self._lock:
            if self._quiet is not None and not self._quiet.is_idle():
                self._settle()  # the server has closed it, or says what nobody asked for
                self._drop_quiet()
            if self._quiet is None:
                self._quiet = self._take_idle()
            self.unsettled = True
            try:
                for batch in batches(requests, _BATCH_BYTES):
                    self._quiet.send(b"".join(batch))
            except BaseException:
                self._drop_quiet()
                raise
        self._wake()  # who waits for a connection may have this one, when it is settled

    def subscribe(self, patterns: Sequence[bytes]) -> RemoteStream:
        """The changes of some keys, on a connection that is none of these. Raises as `RemoteFeed.subscribe`."""
        if self.closed:
            self._refuse_closed()
        if self._verify is not None:
            self.read(Connection.ask_line, b"mn\r\n")
        return RemoteFeed(self._address, self._timeout_s).subscribe(patterns)

    def settle(self) -> None:
        """Wait until the server has done what was told. RemoteError: it may be lost."""
        with self._lock:
            self._settle()

    # Beneath

    def _settle(self) -> None:
        """As `settle`, under the lock."""
        if not self.unsettled or self._quiet is None:
            return
        try:
            line = self._quiet.ask_line(b"mn\r\n")
            while line != b"MN":  # memcached complains of some requests even if no reply is wanted
                line = self._quiet.line()
        except RemoteError as error:
            self._drop_quiet()
            raise RemoteError(f"{error}; what was sent with noreply may be lost") from None
        except BaseException:
            self._drop_quiet()
            raise
        self.unsettled = False
        connection, self._quiet = self._quiet, None
        self._give_back(connection)

    def _take(self) -> Connection:
        if self.unsettled:
            self.settle()
        try:
            return self._idle.pop()
        except IndexError:
            return self._find()

    def _take_idle(self) -> Connection:
        """One that the server has not closed, as far as can be known."""
        connection = self._take()
        while connection.proven and not connection.is_idle():
            self._drop(connection)
            connection = self._take()
        return connection

    def _give_back(self, connection: Connection) -> None:
        connection.proven = True
        self._idle.append(connection)
        if self._waiting:
            self._hand_over()
        elif len(self._idle) > IDLE_MOST:
            self._drop_oldest()
        if self.closed:
            self._drop_idle()

    def _find(self) -> Connection:
        """A new connection; where the server has no more, one that comes back: who has waited longest gets it."""
        limit_s = time.monotonic() + self._timeout_s
        connection = None
        try:
            if not self._waiting:
                connection = self._look()
            while connection is None:
                connection = self._wait(limit_s) or self._look()
        except BaseException:
            self._wake()  # the next one, which may have waited for this one
            raise
        return connection

    def _look(self) -> Connection | None:
        """What there is, or can be made. None: the server refuses, and others of these connections are open."""
        if self.unsettled:
            self.settle()
        try:
            return self._idle.pop()
        except IndexError:
            try:
                return self._connect()
            except FullError:
                if not self._open:
                    raise
                return None

    def _wait(self, limit_s: float) -> Connection | None:
        """What is given to this call; None: look again. RemoteError: nothing until `limit_s`, monotonic."""
        mailbox = _Mailbox()
        with self._handing:
            self._waiting.append(mailbox)
        try:
            if not (self._idle or self.unsettled or self.closed) and self._open:  # else who could wake this one has done it before
                return mailbox.get(timeout=max(limit_s - time.monotonic(), 0))
        except Empty:
            if self._leave(mailbox):
                full = f"the server has no more (-c, --channels), and none of this object's came back within {self._timeout_s:g} s"
                raise RemoteError(f"{self.where}: no connection for this call: {full}") from None
        except BaseException:
            given = None if self._leave(mailbox) else mailbox.get()
            if given is not None:
                self._give_back(given)
            raise
        return None if self._leave(mailbox) else mailbox.get()

    def _leave(self, mailbox: _Mailbox) -> bool:
        """Wait no longer. False: something is in the mailbox."""
        with self._handing:
            if mailbox not in self._waiting:
                return False
            self._waiting.remove(mailbox)
            return True

    def _hand_over(self) -> None:
        """An idle connection to the call that has waited longest, if both are there."""
        with self._handing:
            if self._waiting and self._idle:
                try:
                    connection = self._idle.pop()
                except IndexError:  # another call was faster
                    return
                self._waiting.popleft().put(connection)

    def _wake(self) -> None:
        """Let the call that has waited longest look again."""
        if self._waiting:
            with self._handing:
                if self._waiting:
                    self._waiting.popleft().put(None)

    def _connect(self) -> Connection:
        if self.closed:
            self._refuse_closed()
        connection = Connection(self._address, self._timeout_s)
        try:
            if self._verify is not None:
                self._verify(connection)
        except BaseException:
            connection.close()
            raise
        self._open.add(connection)
        return connection

    def _drop(self, connection: Connection) -> None:
        connection.close()
        self._open.discard(connection)
        self._wake()

    def _drop_idle(self) -> None:
        while self._idle:
            self._drop_oldest()

    def _drop_oldest(self) -> None:
        try:
            connection = self._idle.pop(0)
        except IndexError:  # another thread was faster
            return
        self._drop(connection)

    def _drop_quiet(self) -> None:
        """Under the lock."""
        if self._quiet is not None:
            self._drop(self._quiet)
            self._quiet = None
        self.unsettled = False

    def _refuse_closed(self) -> NoReturn:
        raise ClosedError(f"the cache object of {self.where} is closed; connect again")


def pipeline(connection: Connection, some: Iterable[Sequence[bytes]], read_reply: Callable[[Connection], object]) -> None:
    """Send the requests of `some` batches, reading the replies of one while the next is under way: never more, so that both sides can go
    on even if neither could send all that it has."""
    owed = 0
    for batch in some:
        connection.send(b"".join(batch))
        for _ in range(owed):
            read_reply(connection)
        owed = len(batch)
    for _ in range(owed):
        read_reply(connection)


def batches(requests: Iterable[bytes], most_bytes: int) -> Iterator[list[bytes]]:
    """`requests` by some hundred at a time, and of `most_bytes` together unless one alone is more."""
    batch: list[bytes] = []
    size = 0
    for request in requests:
        if batch and (size + len(request) > most_bytes or len(batch) == _BATCH_REQUESTS):
            yield batch
            batch, size = [], 0
        batch.append(request)
        size += len(request)
    if batch:
        yield batch


_all: weakref.WeakSet[Connections] = (
    weakref.WeakSet()
)  # for forked children alone: asking for the pid in each call would cost as much as a lock


def _begin_anew() -> None:
    for connections in _all:
        connections.begin()


os.register_at_fork(after_in_child=_begin_anew)
