"""A file to read from, made of whatever has `recv`."""

from __future__ import annotations

import io
from typing import Protocol


class Receiving(Protocol):
    def recv(self, size: int, /) -> bytes: ...


class Reading(io.RawIOBase):
    """What io.BufferedReader reads from."""

    def __init__(self, sock: Receiving) -> None:
        self._sock = sock

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: bytearray) -> int:  # type: ignore[override]
        data = self._sock.recv(len(buffer))
        buffer[: len(data)] = data
        return len(data)
