"""A channel's client in plain Python, which obeys no rule unless its test wants so. The layout is that of storage/rings.pxd."""

from __future__ import annotations

import mmap
import os
import socket
from types import TracebackType

from support.servers import Daemon

SIZE_LEAST = 4096
DATA_AT = 4096
# Where the words are, in bytes: places have 8 bytes, the others 4.
MAGIC, REQUEST_BYTES, REPLY_BYTES = 0, 8, 16
REQUEST_TAIL, REQUEST_HEAD, REPLY_TAIL, REPLY_HEAD = 64, 128, 192, 256
CLIENT_WAITS, SERVER_WAITS, CLIENT_CLOSED, SERVER_CLOSED = 320, 384, 448, 512
WAITS_BYTES, WAITS_ROOM = 1, 2
ANSWER_BYTES = 256


def ask(sock: socket.socket, request: bytes) -> tuple[bytes, list[int]]:
    """Send a request; the reply's line or lines and the descriptors that came with it."""
    sock.sendall(request)
    line, descriptors, _, _ = socket.recv_fds(sock, ANSWER_BYTES, 8)
    return line, descriptors


def descriptors_of(pid: int) -> set[int]:
    """The open descriptors of a process, without the one by which this looks."""
    directory = f"/proc/{pid}/fd"
    return {int(name) for name in os.listdir(directory) if os.path.lexists(f"{directory}/{name}")}


class RawChannel:
    """Socket, rings and bell."""

    def __init__(self, daemon: Daemon, size: int = SIZE_LEAST) -> None:
        self.size = size
        self.sock = daemon.connect("unix")
        line, descriptors = ask(self.sock, b"channel %d %d\r\n" % (size, size))
        assert line == b"CHANNEL %d %d\r\n" % (size, size), line
        self.memory_fd, self.bell_fd = descriptors
        self.memory = mmap.mmap(self.memory_fd, 0)
        self._view = memoryview(self.memory)
        # Items of these are loaded and stored at once, as the worker's loads need it; struct.pack_into fills in zeros, then bytes.
        self._places, self._words = self._view.cast("Q"), self._view.cast("I")

    def __enter__(self) -> RawChannel:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        self.sock.close()
        for view in (self._places, self._words, self._view):
            view.release()
        self.memory.close()
        os.close(self.memory_fd)
        os.close(self.bell_fd)

    def place(self, at: int) -> int:
        return self._places[at // 8]

    def put_place(self, at: int, value: int) -> None:
        self._places[at // 8] = value % 2**64

    def word(self, at: int) -> int:
        return self._words[at // 4]

    def put_word(self, at: int, value: int) -> None:
        self._words[at // 4] = value

    def ring(self) -> None:
        """The bell."""
        os.eventfd_write(self.bell_fd, 1)

    def put_request(self, data: bytes) -> None:
        """As a client does, whether there is room or not; what is beyond the ring's end goes to its beginning."""
        tail = self.place(REQUEST_TAIL)
        for offset, byte in enumerate(data):
            self.memory[DATA_AT + (tail + offset) % self.size] = byte
        self.put_place(REQUEST_TAIL, tail + len(data))

    def take_reply(self) -> bytes:
        """What has come and was not taken yet."""
        head, tail = self.place(REPLY_HEAD), self.place(REPLY_TAIL)
        data = bytes(self.memory[DATA_AT + self.size + at % self.size] for at in range(head, tail))
        self.put_place(REPLY_HEAD, tail)
        return data
