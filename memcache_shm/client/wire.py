"""A connection to a memcached of any make: lines and blocks of bytes, with a limit for each wait and errors of one line."""

from __future__ import annotations

import errno
import select
import socket
from types import TracebackType
from typing import Protocol

from memcache_shm.client.addresses import Address, ChannelAddress, socket_path, written
from memcache_shm.client.admission import denial, shown
from memcache_shm.client.channel import Channel
from memcache_shm.errors import RemoteError

_PIECE_BYTES = 1 << 16
_LINE_MAX_BYTES = 2048  # as long as memcached's own limit; a reply's line has 250 of a key and some numbers
_REMEDIES = {  # where a UNIX socket cannot be connected to
    errno.ENOENT: "a daemon makes it with -s PATH",
    errno.ECONNREFUSED: "no daemon listens there, start one with -s PATH",
    errno.EACCES: "its owner lets others in with -a MASK",
}


class ConnectionLost(RemoteError):
    """The other side closed or broke the connection before the reply was complete."""


class Stream(Protocol):
    """What a socket and a `Channel` have in common. Waits end as `settimeout` says. Methods raise OSError."""

    def send(self, data: bytes | memoryview, /) -> int:
        """Some of `data`; how many bytes."""

    def sendall(self, data: bytes, /) -> None:
        """All of `data`."""

    def recv(self, size: int, /) -> bytes:
        """What has come, at least a byte; none at the end."""

    def settimeout(self, timeout_s: float | None, /) -> None:
        """The limit of a wait; None: there is none."""

    def fileno(self) -> int:
        """Of the socket, which tells when the other side has gone."""

    def shutdown(self, how: int, /) -> None:
        """End it; a wait ends."""

    def close(self) -> None:
        """Idempotent."""


def connect(address: Address, timeout_s: float) -> Stream:
    """A stream whose every wait ends after `timeout_s`. RemoteError: nobody is there."""
    try:
        return _stream(address, timeout_s)
    except OSError as error:
        raise RemoteError(f"{written(address)}: {_unreachable(address, error, timeout_s)}") from None
    except ValueError as error:  # what can be no host, path or timeout at all
        raise RemoteError(f"{written(address)}: {error}") from None


def _stream(address: Address, timeout_s: float) -> Stream:
    if isinstance(address, ChannelAddress):
        return Channel(address.path, timeout_s)
    if isinstance(address, tuple):
        sock = socket.create_connection(address, timeout_s)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return sock
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        sock.settimeout(timeout_s)
        sock.connect(address)
    except BaseException:
        sock.close()
        raise
    return sock


def _unreachable(address: Address, error: OSError, timeout_s: float) -> str:
    why = reason(error, timeout_s)
    remedy = None if socket_path(address) is None else _REMEDIES.get(error.errno or 0)
    return why if remedy is None else f"{why}; {remedy}"


class Connection:
    """A connection on which a memcached has told its version. Not for several threads at a time."""

    def __init__(self, address: Address, timeout_s: float) -> None:
        """Connect, and see who answers. RemoteError: nobody, or no memcached."""
        self.where = written(address)
        self.proven = False  # it has served before; of whoever keeps it for later
        self._timeout_s = timeout_s
        self._buffer = bytearray()  # received, not yet asked for
        self._stream = connect(address, timeout_s)
        self._poll = select.poll()
        self._poll.register(self._stream.fileno(), select.POLLIN)
        try:
            self.version = self._greet()
        except BaseException:
            self.close()
            raise

    def _greet(self) -> str:
        """The server's version, what is no text in it escaped. RemoteError for who does not tell one."""
        try:
            self.send(b"version\r\n")
            line = self.line()
        except ConnectionLost:
            raise RemoteError(f"{self.where}: the connection was closed at once; no memcached there, or one that speaks TLS only") from None
        denied = denial(self.where, line)
        if denied is not None:
            raise denied
        if not line.startswith(b"VERSION "):
            raise RemoteError(f"{self.where}: no memcached answers there, but {line[:60]!r}")
        return shown(line[len(b"VERSION ") :])

    def send(self, data: bytes) -> None:
        """All of `data`, however long that takes, while some of it goes within each wait. RemoteError, ConnectionLost."""
        try:
            sent = self._stream.send(data)
            if sent < len(data):
                left = memoryview(data)[sent:]  # not by sendall(), whose timeout is one for all of it
                while left:
                    left = left[self._stream.send(left) :]
        except OSError as error:
            raise self._failure(error) from None

    def ask(self, request: bytes) -> bytes:
        """Send `request`; the first bytes of the reply, which may be all of it: else `put_back`. RemoteError, ConnectionLost.
        (Without a way by the buffer, which costs as much as the rest.)"""
        self.send(request)
        try:
            piece = self._stream.recv(_PIECE_BYTES)
        except OSError as error:
            raise self._failure(error) from None
        if not piece:
            raise ConnectionLost(f"{self.where}: connection lost")
        return piece

    def put_back(self, piece: bytes) -> None:
        """What `ask` returned is to be read by `line` and `block`."""
        self._buffer += piece

    def ask_line(self, request: bytes) -> bytes:
        """Send `request`; the line that is the reply, without what ends it. RemoteError, ConnectionLost."""
        piece = self.ask(request)
        if piece.find(b"\n") == len(piece) - 1 and piece.endswith(b"\r\n"):
            return piece[:-2]
        self.put_back(piece)
        return self.line()

    def line(self) -> bytes:
        """The next line, without what ends it. RemoteError, ConnectionLost."""
        seen = 0
        while (end := self._buffer.find(b"\n", seen)) < 0:
            seen = len(self._buffer)
            if seen > _LINE_MAX_BYTES:
                raise RemoteError(f"{self.where}: no memcached answers there, but {bytes(self._buffer[:60])!r}")
            self._receive()
        line = bytes(self._buffer[:end])
        del self._buffer[: end + 1]
        return line.removesuffix(b"\r")

    def block(self, size: int) -> bytes:
        """The next `size` bytes, and CRLF behind them is dropped. RemoteError, ConnectionLost."""
        while len(self._buffer) < size + 2:
            self._receive()
        block = bytes(self._buffer[:size])
        if self._buffer[size : size + 2] != b"\r\n":
            raise RemoteError(f"{self.where}: a value of {size} bytes does not end where it should")
        del self._buffer[: size + 2]
        return block

    def is_idle(self) -> bool:
        """Whether nothing has come that nobody asked for, such as the end of the connection: a request may be sent."""
        return not self._buffer and not self._poll.poll(0)

    def close(self) -> None:
        """Idempotent."""
        self._stream.close()

    def _receive(self) -> None:
        try:
            piece = self._stream.recv(_PIECE_BYTES)
        except OSError as error:
            raise self._failure(error) from None
        if not piece:
            raise ConnectionLost(f"{self.where}: connection lost")
        self._buffer += piece

    def _failure(self, error: OSError) -> RemoteError:
        if isinstance(error, TimeoutError):
            return RemoteError(f"{self.where}: {reason(error, self._timeout_s)}")
        return ConnectionLost(f"{self.where}: connection lost ({reason(error, self._timeout_s)})")

    def __enter__(self) -> Connection:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()


def reason(error: OSError, timeout_s: float) -> str:
    """`error` in a few words."""
    if isinstance(error, TimeoutError):
        return f"no answer within {timeout_s:g} s"
    return error.strerror or str(error)
