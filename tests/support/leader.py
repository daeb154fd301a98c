"""The leader's side of `sync`, word for word as a test wants it."""

from __future__ import annotations

import contextlib
import queue
import socket
import threading
from types import TracebackType


class FakeLeader:
    """Listens on a free port; whoever asks for `stats shm` gets some, who asks for `sync` is handed to the test."""

    def __init__(self, uuid: str = "0" * 32) -> None:
        self.uuid = uuid
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.where = f"127.0.0.1:{self._listener.getsockname()[1]}"
        self._streams: queue.Queue[Stream] = queue.Queue()
        self._open: list[socket.socket] = []
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def stream(self, timeout_s: float = 10.0) -> Stream:
        """The next `sync`."""
        return self._streams.get(timeout=timeout_s)

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            self._open.append(connection)
            threading.Thread(target=self._answer, args=(connection,), daemon=True).start()

    def _answer(self, connection: socket.socket) -> None:
        with connection.makefile("rb") as lines:
            for line in lines:
                if line == b"version\r\n":
                    connection.sendall(b"VERSION 1.6.45\r\n")
                elif line == b"stats shm\r\n":
                    connection.sendall(b"STAT shm_uuid %b\r\nEND\r\n" % self.uuid.encode())
                elif line == b"sync\r\n":
                    connection.sendall(b"OK\r\n")
                    self._streams.put(Stream(connection))
                    return
        connection.close()

    def stop(self) -> None:
        """End all connections and listen no longer. Idempotent."""
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for connection in self._open:
            connection.close()
        self._thread.join(5)

    def __enter__(self) -> FakeLeader:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.stop()


class Stream:
    """One follower's connection."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection

    def set(self, key: bytes, value: bytes, cas: int, flags: int = 0, exptime: int = 0) -> None:
        self.send(b"NOTIFY set %b %d %d %d %d\r\n%b\r\n" % (key, flags, exptime, len(value), cas, value))

    def send(self, *lines: bytes) -> None:
        self._connection.sendall(b"".join(line if line.endswith(b"\r\n") else line + b"\r\n" for line in lines))

    def close(self) -> None:
        self._connection.shutdown(socket.SHUT_RDWR)
        self._connection.close()
