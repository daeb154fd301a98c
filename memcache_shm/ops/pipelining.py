"""Operations carried out one behind the other: sent together, replies taken in their order.

What is sent before its replies are read is a window, so small that the server takes all of it whatever becomes of the replies: neither side
ever waits for the other to read, and this one holds no more than one window and one reply.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator

from memcache_shm.client.wire import Connection
from memcache_shm.errors import IllegalInputError
from memcache_shm.ops.operations import Operation, Result, of_line

WINDOW_BYTES = 1 << 15  # of requests: half of a channel's ring for them, less than a socket's buffer takes; a larger one goes alone
LINE_MAX_BYTES = 64 << 20
_PIECE_BYTES = 1 << 16


def carry_out(connection: Connection, operations: Iterable[Operation]) -> Iterator[Result]:
    """The result of each of `operations`, in their order. RemoteError: the connection is lost, amid them maybe."""
    for window in _windows(operations):
        connection.send(b"".join(request for _, request in window))
        for operation, _ in window:
            yield operation.read_result(connection)


def _windows(operations: Iterable[Operation]) -> Iterator[list[tuple[Operation, bytes]]]:
    window: list[tuple[Operation, bytes]] = []
    size = 0
    for operation in operations:
        request = operation.request()
        if window and size + len(request) > WINDOW_BYTES:
            yield window
            window, size = [], 0
        window.append((operation, request))
        size += len(request)
    if window:
        yield window


def batches_of(descriptor: int, complain: Callable[[str], None]) -> Iterator[list[Operation]]:
    """The operations of the lines that a descriptor gives, those together that come together: nobody waits for lines that come later.

    `complain` is told of what is none, with the line's number; so is of lines beyond LINE_MAX_BYTES, which are left out.
    """
    number = 0
    for lines in _lines(descriptor):
        batch = []
        for line in lines:
            number += 1
            try:
                operation = of_line(_whole(line))
            except IllegalInputError as problem:
                complain(f"line {number}: {problem}")
                continue
            if operation is not None:
                batch.append(operation)
        yield batch


def _whole(line: bytes | None) -> bytes:
    if line is None:
        raise IllegalInputError(f"more than {LINE_MAX_BYTES >> 20} MiB; left out")
    return line.rstrip(b"\r")


def _lines(descriptor: int) -> Iterator[list[bytes | None]]:
    """The complete lines of what is there each time; None for one that is too long."""
    begun: list[bytes] = []  # of a line whose end has not come
    size = 0
    while piece := os.read(descriptor, _PIECE_BYTES):
        first, *others = piece.split(b"\n")
        size += len(first)
        begun.append(first)
        if size > LINE_MAX_BYTES:
            begun.clear()
        if others:
            yield [b"".join(begun) if size <= LINE_MAX_BYTES else None, *others[:-1]]
            begun, size = [others[-1]], len(others[-1])
    if size:
        yield [b"".join(begun) if size <= LINE_MAX_BYTES else None]
