"""A plain client for tests that need more than a scripted conversation: lines, blocks and whole replies over one socket."""

from __future__ import annotations

import resource
import socket
import struct
from types import TracebackType

from support.servers import Server


class Client:
    """One connection with a buffered reading side."""

    def __init__(self, server: Server, door: str = "tcp", timeout_s: float = 10.0) -> None:
        self.sock = server.connect(door, timeout_s)
        self._file = self.sock.makefile("rb")

    def __enter__(self) -> Client:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def send(self, data: bytes) -> None:
        self.sock.sendall(data)

    def line(self) -> bytes:
        """The next line without its CRLF; empty at the end of the connection."""
        return self._file.readline().removesuffix(b"\r\n")

    def raw_line(self) -> bytes:
        """The same with whatever ends it."""
        return self._file.readline()

    def read(self, size: int) -> bytes:
        return self._file.read(size)

    def ask(self, request: bytes) -> bytes:
        """Send a line, read a line."""
        self.send(request + b"\r\n")
        return self.line()

    def set(self, key: bytes, value: bytes) -> bytes:
        return self.ask(b"set %b 0 0 %d\r\n%b" % (key, len(value), value))

    def gets(self, key: bytes) -> tuple[bytes | None, bytes]:
        """Value and cas id; (None, b"") when absent."""
        head = self.ask(b"gets " + key).split()
        if head == [b"END"]:
            return None, b""
        value = self.read(int(head[3]) + 2)[:-2]
        assert self.line() == b"END"
        return value, head[4]

    def get(self, key: bytes) -> bytes | None:
        return self.gets(key)[0]

    def stats(self, group: bytes = b"") -> dict[str, str]:
        self.send(b"stats %b\r\n" % group)
        found = {}
        while (line := self.line()) != b"END":
            _, name, value = line.decode().split(" ", 2)
            found[name] = value
        return found

    def is_closed(self) -> bool:
        """Reads to the end; whether it came without another byte."""
        try:
            return self._file.read(1) == b""
        except ConnectionResetError:
            return True

    def shut(self) -> None:
        """No more bytes from this side."""
        self.sock.shutdown(socket.SHUT_WR)

    def reset(self) -> None:
        """Leave with a reset instead of a polite end."""
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.close()

    def close(self) -> None:
        self._file.close()
        self.sock.close()


def allow_descriptors(count: int) -> None:
    """So many files at a time for this process and what it starts."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < count:
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(count, hard), hard))
