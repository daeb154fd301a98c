"""The feed of a table behind a socket: what a daemon tells to `sync` and `subscribe`.

    with RemoteFeed("cache-1:11211").sync() as stream:
        for change in stream:       # every item as `set`, mixed with what changes; then kind "synced"; then what changes, and "alive"
            ...

For one key, later changes carry a state at least as new. After `lost` all comes again, and what has not come by the next "synced" is gone.
"""

from __future__ import annotations

import contextlib
import os
import socket
import time
from collections import deque
from collections.abc import Iterator, Sequence
from types import TracebackType

from memcache_shm.client.addresses import Address, given_address, written
from memcache_shm.client.admission import denial, shown
from memcache_shm.client.changes import Change, check_patterns, encode_pattern
from memcache_shm.client.notices import NoticeReader
from memcache_shm.client.wire import connect, reason
from memcache_shm.errors import FeedOffError, RemoteError

SILENCE_S = 5.0  # no byte for so long: the daemon, its host or the way there is gone; it shows every second that it is alive
_ASK_S = 1.0  # after so much silence a subscription asks for a sign of life, as nothing comes by itself
_RECEIVE_BYTES = 256 * 1024
_REPLY_MAX_BYTES = 2048


class RemoteFeed:
    """A daemon's feed, at HOST:PORT, [V6]:PORT or the path of a UNIX socket. It connects when it is asked for something.

    Its methods raise RemoteError when nobody answers within `timeout_s`, or it is no daemon that knows the command; FeedOffError when
    its feed is off; IllegalInputError for what is no address or pattern.
    """

    def __init__(self, address: str | Address, timeout_s: float = SILENCE_S) -> None:
        self.address = given_address(address)
        self.timeout_s = timeout_s

    def sync(self) -> RemoteStream:
        """All items, then "synced", then all changes, with an "alive" each second in which all was told."""
        return RemoteStream(self.address, self.timeout_s, b"sync", asks=False)

    def subscribe(self, patterns: Sequence[str | bytes] = ()) -> RemoteStream:
        """The changes of some keys (none: all). What `lost` stands for is not told again, unless `sync` is sent."""
        encoded = [encode_pattern(pattern, True, b"") for pattern in check_patterns(tuple(patterns))]
        return RemoteStream(self.address, self.timeout_s, b"subscribe " + b" ".join(encoded), asks=True)


class RemoteStream:
    """A connection on which changes come. An iterator that ends after `close`; for one thread, but `close` may come from any.

    RemoteError: the connection was lost, which it also is after 5 s without a sign of life.
    """

    def __init__(self, address: Address, timeout_s: float, command: bytes, asks: bool) -> None:
        self.where = written(address)
        self._reader = NoticeReader(self.where)
        self._ready: deque[Change] = deque()  # for the iterator
        self._asks = asks
        self._closed = False
        self._holds = 0  # calls under way that use the stream, one amid another
        self._pid = os.getpid()
        self._stream = connect(address, timeout_s)
        try:
            self._begin(command, timeout_s)
        except BaseException:
            self._stream.close()
            raise
        self._note_life()

    def read(self, limit_s: float) -> list[Change]:
        """The changes that have come, waiting up to `limit_s` for the first; none if none came, or after `close`. Raises RemoteError."""
        with self._held():
            return self._read(limit_s)

    def _read(self, limit_s: float) -> list[Change]:
        end_s = time.monotonic() + limit_s
        while not self._closed:
            if self._ready:
                changes = list(self._ready)
                self._ready.clear()
                return changes
            now_s = time.monotonic()
            if self._receive(max(0.0, min(end_s, self._due_s) - now_s)):
                self._note_life()
            elif now_s >= self._due_s:
                self._see_to_silence(now_s)
            elif now_s >= end_s:
                break
        return []

    def send(self, request: bytes) -> None:
        """To be answered by changes. RemoteError."""
        try:
            with self._held():
                self._stream.send(request)
        except OSError as error:
            raise RemoteError(f"{self.where}: connection lost ({reason(error, 0)})") from None

    @property
    def closed(self) -> bool:
        """Whether `close` was called."""
        return self._closed

    def close(self) -> None:
        """End it; a call of another thread returns, and closes the stream: it must not use what has got the descriptor next. A forked
        child only lets go of it."""
        self._closed = True
        owned = self._pid == os.getpid()
        if owned:
            with contextlib.suppress(OSError):  # the other side was faster
                self._stream.shutdown(socket.SHUT_RDWR)
        if not owned or not self._holds:
            self._stream.close()

    def __iter__(self) -> RemoteStream:
        return self

    def __next__(self) -> Change:
        while not self._ready:
            if self._closed:
                raise StopIteration
            self._ready.extend(self.read(SILENCE_S))
        return self._ready.popleft()

    def __enter__(self) -> RemoteStream:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    @contextlib.contextmanager
    def _held(self) -> Iterator[None]:
        """Use the stream: `close` leaves it open until then."""
        self._holds += 1
        try:
            yield
        finally:
            self._holds -= 1
            if self._closed and not self._holds:
                self._stream.close()

    def _begin(self, command: bytes, timeout_s: float) -> None:
        """Send the command; RemoteError or FeedOffError unless the reply is OK, and all there by the time. What came behind it is kept."""
        end_s = time.monotonic() + timeout_s
        try:
            self._stream.sendall(command + b"\r\n")
            reply = b""
            while b"\r\n" not in reply:
                left_s = end_s - time.monotonic()
                if left_s <= 0:
                    raise TimeoutError
                self._stream.settimeout(left_s)
                piece = self._stream.recv(_RECEIVE_BYTES)
                if not piece or len(reply) > _REPLY_MAX_BYTES:
                    raise RemoteError(f"{self.where}: no answer to '{_word(command)}'; no memcached there, or one that speaks TLS only")
                reply += piece
        except OSError as error:
            raise RemoteError(f"{self.where}: {reason(error, timeout_s)}") from None
        line, _, rest = reply.partition(b"\r\n")
        if line != b"OK" and not line.startswith(b"OK "):
            raise self._refusal(command, line)
        self._ready.extend(self._reader.feed(rest))

    def _refusal(self, command: bytes, line: bytes) -> RemoteError | FeedOffError:
        said = shown(line)
        if line == b"ERROR":
            return RemoteError(f"{self.where}: the server does not know '{_word(command)}'; it is memcached, or an older memcache_shm")
        if line.startswith(b"SERVER_ERROR the feed is off"):
            return FeedOffError(f"{self.where}: {said.removeprefix('SERVER_ERROR ')}")
        denied = denial(self.where, line)
        if denied is not None:
            return denied
        if line.startswith((b"SERVER_ERROR ", b"CLIENT_ERROR ")):
            return RemoteError(f"{self.where}: {said.partition(' ')[2]}")
        return RemoteError(f"{self.where}: no memcached answers there, but {line[:60]!r}")

    def _receive(self, limit_s: float) -> bool:
        """Take what has come, or comes within the limit; whether there was anything. RemoteError at the stream's end."""
        try:
            self._stream.settimeout(limit_s)
            piece = self._stream.recv(_RECEIVE_BYTES)
        except (BlockingIOError, TimeoutError):
            return False
        except OSError as error:
            if self._closed:
                return False
            raise RemoteError(f"{self.where}: connection lost ({reason(error, 0)})") from None
        self._ready.extend(self._reader.feed(piece))
        if not piece and not self._closed:
            raise RemoteError(f"{self.where}: connection lost")
        return piece != b""

    def _note_life(self) -> None:
        now_s = time.monotonic()
        self._silent_s = None if self._asks else now_s  # since when there should have been something
        self._due_s = now_s + (_ASK_S if self._asks else SILENCE_S)  # when something has to be done about the silence

    def _see_to_silence(self, now_s: float) -> None:
        """Ask for a sign of life, or give up."""
        if self._silent_s is not None and now_s - self._silent_s >= SILENCE_S:
            raise RemoteError(f"{self.where}: no sign of life for {SILENCE_S:g} s, connection lost")
        self._silent_s = self._silent_s or now_s
        self._due_s = now_s + _ASK_S
        self.send(b"mn\r\n")


def _word(command: bytes) -> str:
    return command.partition(b" ")[0].decode("ascii")
