"""Playing a conversation on a connection, its bytes cut one way or the other."""

from __future__ import annotations

import array
import fcntl
import itertools
import os
import random
import socket
import termios
from collections.abc import Iterable, Iterator

from support.conversation import Conversation, Exchange, fill_in, is_complete, matches
from support.tls import TlsSocket
from support.waiting import until

Socket = socket.socket | TlsSocket
REPEAT_S = 5.0
EDGE_BYTES = 4096
SHOWN_BYTES = 300


def play(conversation: Conversation, sock: Socket, cutting: str) -> None:
    """Send and compare; AssertionError with both sides of the first difference."""
    captured: dict[bytes, bytes] = {}
    exchanges = conversation.exchanges if cutting == "steps" else conversation.pipelined()
    for exchange in exchanges:
        if exchange.repeat:
            until(lambda exchange=exchange: _try(sock, exchange, captured), f"{exchange.send!r} -> {exchange.expect!r}", REPEAT_S, 0.05)
            continue
        _send(sock, fill_in(exchange.send, captured), cutting, conversation.title)
        if exchange.close:
            sock.shutdown(socket.SHUT_WR)
        got = _read(sock, exchange)
        assert matches(exchange.expect, got, captured), _difference(exchange.expect, got)
    if not exchanges[-1].eof:
        assert_quiet(sock)


def _difference(expect: bytes, got: bytes) -> str:
    """Both sides, from shortly before the first byte that differs."""
    same = next((i for i, (a, b) in enumerate(zip(expect, got, strict=False)) if a != b), min(len(expect), len(got)))
    start = max(same - SHOWN_BYTES // 4, 0)
    return f"from byte {start} on expected {expect[start:][:SHOWN_BYTES]!r}\n got {got[start:][:SHOWN_BYTES]!r}"


def _try(sock: Socket, exchange: Exchange, captured: dict[bytes, bytes]) -> bool:
    """Send once more, read one whole reply (it ends with END or is one line)."""
    sock.sendall(fill_in(exchange.send, captured))
    got = b""
    while not got.endswith(b"\r\n") or (got.startswith(b"VALUE") and not got.endswith(b"END\r\n")):
        chunk = sock.recv(65536)
        assert chunk, f"closed after {got[:SHOWN_BYTES]!r}"
        got += chunk
    return matches(exchange.expect, got, captured)


def _send(sock: Socket, data: bytes, cutting: str, seed: str) -> None:
    try:
        for piece in _pieces(data, cutting, seed):
            sock.sendall(piece)
            if cutting == "bytes":
                let_it_read(sock)
    except (BrokenPipeError, ConnectionResetError):
        return  # the server closed early; what it said before decides


def _pieces(data: bytes, cutting: str, seed: str) -> Iterator[bytes]:
    if cutting in ("steps", "whole"):
        yield data
    elif cutting == "bytes":
        yield from (data[a:b] for a, b in itertools.pairwise([*_byte_edges(len(data)), len(data)]))
    else:
        chance = random.Random(seed)
        cuts = sorted(chance.sample(range(len(data) + 1), min(len(data), 12)))
        yield from (data[a:b] for a, b in itertools.pairwise([0, *cuts, len(data)]) if a < b)


def _byte_edges(size: int) -> Iterable[int]:
    """Every byte of what is short; of what is long the first and the last ones, where lines and terminators are."""
    if size <= 2 * EDGE_BYTES:
        return range(size)
    return itertools.chain(range(EDGE_BYTES), range(size - EDGE_BYTES, size))


def let_it_read(sock: Socket) -> None:
    """On a UNIX socket: until the other side has read all; TCP only tells that its kernel has it, so give way once."""
    if sock.family != socket.AF_UNIX:
        os.sched_yield()
        return
    unread = array.array("i", [1])
    for _ in range(10_000):
        fcntl.ioctl(sock.fileno(), termios.TIOCOUTQ, unread)
        if not unread[0]:
            return
        os.sched_yield()


def _read(sock: Socket, exchange: Exchange) -> bytes:
    got = b""
    while exchange.eof or not is_complete(exchange.expect, got):
        try:
            chunk = sock.recv(65536)
        except TimeoutError:
            raise AssertionError(_difference(exchange.expect, got) + ", then nothing") from None
        except ConnectionResetError:
            chunk = b""  # it closed with our bytes unread
        if not chunk:
            break
        got += chunk
    return got


def assert_quiet(sock: Socket) -> None:
    """Nothing was said beyond what was expected, and the connection is in step: the next line answers the next request."""
    sock.sendall(b"version\r\n")
    line = sock.makefile("rb").readline()
    assert line.startswith(b"VERSION "), f"unexpected: {line!r}"
