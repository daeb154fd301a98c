"""A server that says what a script tells it to, byte by byte, and remembers what it heard."""

from __future__ import annotations

import socket
import threading
from collections.abc import Sequence
from types import TracebackType

VERSION = (b"version\r\n", b"VERSION 1.6.18\r\n")
Step = tuple[bytes, bytes]  # what is waited for, and the answer


class Scripted:
    """Serves the `conversations` one after the other, a connection each; when one is over it closes the connection.

    A step whose answer is SILENCE ends the conversation without an answer and leaves the connection open until `hang_up`, or the end.
    """

    SILENCE = b"\0silence"

    def __init__(self, *conversations: Sequence[Step]) -> None:
        self.heard: list[bytes] = []  # of each connection, in order
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._listener.settimeout(20)
        self.address = f"127.0.0.1:{self._listener.getsockname()[1]}"
        self._open: list[socket.socket] = []
        self._closed = threading.Semaphore(0)
        self._thread = threading.Thread(target=self._serve, args=(conversations,))
        self._thread.start()

    def wait_for_close(self) -> None:
        """Until one more conversation is over."""
        assert self._closed.acquire(timeout=20)

    def hang_up(self) -> None:
        """Close what silence left open."""
        while self._open:
            self._open.pop().close()

    def _serve(self, conversations: Sequence[Sequence[Step]]) -> None:
        for steps in conversations:
            sock, _ = self._listener.accept()
            sock.settimeout(20)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self.heard.append(b"")
            if self._converse(sock, steps):
                sock.close()
                self._closed.release()
            else:
                self._open.append(sock)

    def _converse(self, sock: socket.socket, steps: Sequence[Step]) -> bool:
        """Whether it came to its end, and was not left silent."""
        for awaited, answer in steps:
            request = b""
            while len(request) < len(awaited):
                piece = sock.recv(len(awaited) - len(request))
                if not piece:
                    self.heard[-1] += request
                    return True
                request += piece
            self.heard[-1] += request
            if answer == self.SILENCE:
                return False
            try:
                for byte in answer:
                    sock.sendall(bytes([byte]))
            except ConnectionError:  # the other side has heard enough
                return True
        return True

    def __enter__(self) -> Scripted:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._thread.join(30)
        self._listener.close()
        self.hang_up()
