"""A connection to a memcached of any make: lines and blocks of bytes, with a limit for each wait and errors of one line."""

from __future__ import annotations

import select
import socket
from types import TracebackType

from memcache_shm.client.addresses import Address, written
from memcache_shm.errors import RemoteError

_PIECE_BYTES = 1 << 16
_LINE_MAX_BYTES = 2048  # as long as memcached's own limit; a reply's line has 250 of a key and some numbers


class ConnectionLost(RemoteError):
    """The other side closed or broke the connection before the reply was complete."""


def connect(address: Address, timeout_s: float) -> socket.socket:
    """A connected socket whose every wait ends after `timeout_s`. OSError."""
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


class Connection:
    """A connection on which a memcached has told its version. Not for several threads at a time."""

    def __init__(self, address: Address, timeout_s: float) -> None:
        """Connect, and see who answers. RemoteError: nobody, or no memcached."""
        self.where = written(address)
        self._timeout_s = timeout_s
        self._buffer = bytearray()  # received, not yet asked for
        try:
            self._sock = connect(address, timeout_s)
        except OSError as error:
            raise RemoteError(f"{self.where}: {_reason(error, timeout_s)}") from None
        except ValueError as error:  # what can be no host, path or timeout at all
            raise RemoteError(f"{self.where}: {error}") from None
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
        if line == b"CLIENT_ERROR unauthenticated":
            raise RemoteError(f"{self.where}: the server wants a login (-Y), which is not spoken here; on its host name the table instead")
        if not line.startswith(b"VERSION "):
            raise RemoteError(f"{self.where}: no memcached answers there, but {line[:60]!r}")
        return repr(line[len(b"VERSION ") :])[2:-1]

    def send(self, data: bytes) -> None:
        """All of `data`, however long that takes, while some of it goes within each wait. RemoteError, ConnectionLost."""
        left = memoryview(data)  # not by sendall(), whose timeout is one for all of it
        try:
            while left:
                left = left[self._sock.send(left) :]
        except OSError as error:
            raise self._failure(error) from None

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
        poll = select.poll()
        poll.register(self._sock, select.POLLIN)
        return not self._buffer and not poll.poll(0)

    def close(self) -> None:
        """Idempotent."""
        self._sock.close()

    def _receive(self) -> None:
        try:
            piece = self._sock.recv(_PIECE_BYTES)
        except OSError as error:
            raise self._failure(error) from None
        if not piece:
            raise ConnectionLost(f"{self.where}: connection lost")
        self._buffer += piece

    def _failure(self, error: OSError) -> RemoteError:
        if isinstance(error, TimeoutError):
            return RemoteError(f"{self.where}: {_reason(error, self._timeout_s)}")
        return ConnectionLost(f"{self.where}: connection lost ({_reason(error, self._timeout_s)})")

    def __enter__(self) -> Connection:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()


def _reason(error: OSError, timeout_s: float) -> str:
    if isinstance(error, TimeoutError):
        return f"no answer within {timeout_s:g} s"
    return error.strerror or str(error)
