"""A client over TCP for measuring what servers hold: many keys a round trip, and a key's number comes back from its name."""

from __future__ import annotations

import socket
from collections.abc import Iterable, Sequence

PORTION_BYTES = 1 << 20  # of requests, handed to the socket at once


class Client:
    """Stores and looks up keys that `key` made."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._replies = connection.makefile("rb")

    @staticmethod
    def key(number: int) -> bytes:
        """12 bytes."""
        return b"k%011d" % number

    def store(self, pairs: Iterable[tuple[bytes, bytes]]) -> int:
        """Set them all, without replies; the last word shows that all were taken. How many were refused.

        A server answers a set that failed, noreply or not: hand over some thousand pairs at most, so that the answers fit into the
        socket's buffers while nobody reads them.
        """
        portion: list[bytes] = []
        portion_bytes = 0
        for key, value in pairs:
            portion.append(b"set %b 0 0 %d noreply\r\n%b\r\n" % (key, len(value), value))
            portion_bytes += len(value) + 40
            if portion_bytes > PORTION_BYTES:
                self._connection.sendall(b"".join(portion))
                portion.clear()
                portion_bytes = 0
        self._connection.sendall(b"".join(portion) + b"version\r\n")
        refused = 0
        while not self._line().startswith(b"VERSION"):
            refused += 1
        return refused

    def present(self, keys: Sequence[bytes]) -> list[int]:
        """The numbers of those of `keys` that are there."""
        self._connection.sendall(b"get " + b" ".join(keys) + b"\r\n")
        found = []
        while (line := self._line()) != b"END\r\n":
            _, key, _, size = line.split()
            self._replies.read(int(size) + 2)
            found.append(int(key[1:]))
        return found

    def get(self, key: bytes) -> bytes | None:
        """The value of `key`, None when it is not there."""
        self._connection.sendall(b"get %b\r\n" % key)
        line = self._line()
        if line == b"END\r\n":
            return None
        value = self._replies.read(int(line.split()[3]) + 2)[:-2]
        self._line()
        return value

    def stats(self) -> dict[bytes, bytes]:
        """The server's general figures."""
        self._connection.sendall(b"stats\r\n")
        figures = {}
        while (line := self._line()) != b"END\r\n":
            _, name, figure = line.split(maxsplit=2)
            figures[name] = figure.strip()
        return figures

    def _line(self) -> bytes:
        line = self._replies.readline()
        if not line:
            raise ConnectionError("the server closed the connection")
        return line
