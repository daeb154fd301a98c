"""The messages of sessions over named pipes: bytes to messages and back, without any pipe.

    connect      1, three paths [40]      answer 1, result
    disconnect   2                        answer 2, result
    subscribe    3, key [41]              answer 3, result
    unsubscribe  4, key [41]              answer 4, result
    notification key [41], value [41]

Codes and results are byte values. A text is padded with NUL and has at least one.

A path has no control bytes. So the code of `connect`, which is one, can begin a message and nothing else, and after bytes that are no
message the next one is found for certain.
"""

from __future__ import annotations

from typing import NamedTuple

CONNECT = 1
DISCONNECT = 2
SUBSCRIBE = 3
UNSUBSCRIBE = 4
NAMES = {CONNECT: "connect", DISCONNECT: "disconnect", SUBSCRIBE: "subscribe", UNSUBSCRIBE: "unsubscribe"}

PATH_FIELD_BYTES = 40
KEY_FIELD_BYTES = 41
PATH_MAX_BYTES = PATH_FIELD_BYTES - 1
TEXT_MAX_BYTES = KEY_FIELD_BYTES - 1
CONNECT_BYTES = 1 + 3 * PATH_FIELD_BYTES
ANSWER_BYTES = 2
NOTIFICATION_BYTES = 2 * KEY_FIELD_BYTES
DELETED = b"DELETED"

#: Results.
DONE = 0
REFUSED = 1  # of connect: a pipe that cannot be used
IS_SUBSCRIBED = 1
NO_SUCH_KEY = 0
WAS_SUBSCRIBED = 0
NOT_SUBSCRIBED = 1

_MARK = bytes([CONNECT])
_REQUEST_BYTES = {DISCONNECT: 1, SUBSCRIBE: 1 + KEY_FIELD_BYTES, UNSUBSCRIBE: 1 + KEY_FIELD_BYTES}


class Registration(NamedTuple):
    """The pipes of a client that wants a session, by their paths."""

    requests: bytes
    responses: bytes
    notifications: bytes


class Request(NamedTuple):
    code: int  # DISCONNECT, SUBSCRIBE, UNSUBSCRIBE
    key: bytes  # empty with DISCONNECT


class BadMessage(Exception):
    """Bytes that are no message; the text says why."""


def encode_connect(registration: Registration) -> bytes:
    """ValueError for a path that does not fit."""
    return _MARK + b"".join(_field(path, PATH_FIELD_BYTES) for path in registration)


def encode_request(request: Request) -> bytes:
    """ValueError for a key that does not fit."""
    return bytes([request.code]) + (b"" if request.code == DISCONNECT else _field(request.key, KEY_FIELD_BYTES))


def encode_answer(code: int, result: int) -> bytes:
    """Two bytes."""
    return bytes([code, result])


def encode_notification(key: bytes, value: bytes | None) -> bytes:
    """`value` is cut to 40 bytes; None: the key is gone."""
    return _field(key, KEY_FIELD_BYTES) + _field((DELETED if value is None else value)[:TEXT_MAX_BYTES], KEY_FIELD_BYTES)


def decode_notification(message: bytes) -> tuple[bytes, bytes]:
    """Key and value of a whole message. A value may have NUL bytes itself; only those behind it are padding."""
    return message[:KEY_FIELD_BYTES].rstrip(b"\0"), message[KEY_FIELD_BYTES:].rstrip(b"\0")


def take_request(buffer: bytearray) -> Request | None:
    """The first message of `buffer`, which is taken out of it; None when it is not complete. BadMessage."""
    if not buffer:
        return None
    code = buffer[0]
    size = _REQUEST_BYTES.get(code)
    if size is None:
        raise BadMessage(f"unknown code {code}")
    if len(buffer) < size:
        return None
    key = bytes(buffer[1:size])
    del buffer[:size]
    if code == DISCONNECT:
        return Request(code, b"")
    text = key.rstrip(b"\0")
    if len(text) > TEXT_MAX_BYTES:
        raise BadMessage(f"a key of {NAMES[code]} without a NUL behind it")
    if b"\0" in text:
        raise BadMessage(f"a key of {NAMES[code]} that is not padded with NUL")
    return Request(code, text)


class RegistrationReader:
    """The registration pipe's bytes, in any cutting. What is no message is dropped up to the next one."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    @property
    def begun(self) -> bool:
        """Whether there is a message that is not complete."""
        return bool(self._buffer)

    @property
    def wanted(self) -> int:
        """How many bytes the message needs at least that comes next."""
        return CONNECT_BYTES - len(self._buffer)

    def feed(self, data: bytes) -> None:
        """What was read, `wanted` bytes at most."""
        self._buffer += data

    def take(self) -> Registration | None:
        """The next message; None: more bytes are needed. BadMessage, once for what was dropped; ask again then."""
        problem = _problem(self._buffer)
        if problem is not None:
            dropped = self._drop()
            raise BadMessage(f"{problem} ({dropped} byte{'s' * (dropped > 1)} dropped)")
        if len(self._buffer) < CONNECT_BYTES:
            return None
        paths = [self._buffer[at : at + PATH_FIELD_BYTES] for at in range(1, CONNECT_BYTES, PATH_FIELD_BYTES)]
        del self._buffer[:CONNECT_BYTES]
        return Registration(*(bytes(path).rstrip(b"\0") for path in paths))

    def give_up(self) -> BadMessage:
        """What there is does not become a message any more: drop it."""
        size = len(self._buffer)
        self._drop()
        return BadMessage(f"a message of {size} bytes, which has {CONNECT_BYTES}")

    def _drop(self) -> int:
        """Up to the next beginning of a message; how many bytes."""
        at = self._buffer.find(_MARK, 1)
        dropped = len(self._buffer) if at < 0 else at
        del self._buffer[:dropped]
        return dropped


def _problem(buffer: bytearray) -> str | None:
    """Why the bytes so far cannot begin a message; None: they can."""
    if not buffer:
        return None
    if buffer[0] != CONNECT:
        return f"unknown code {buffer[0]}"
    for at in range(1, min(len(buffer), CONNECT_BYTES), PATH_FIELD_BYTES):
        field = buffer[at : at + PATH_FIELD_BYTES]
        path, nul, padding = field.partition(b"\0")
        if any(byte < 0x20 or byte == 0x7F for byte in path):
            return "a message cut short, or a path with a control byte"
        if len(path) == PATH_FIELD_BYTES:
            return f"a path without a NUL within its {PATH_FIELD_BYTES} bytes"
        if nul and not path:
            return "an empty path"
        if padding.strip(b"\0"):
            return "a path that is not padded with NUL"
    return None


def _field(text: bytes, size: int) -> bytes:
    if len(text) >= size:
        raise ValueError(f"{text!r} has more than {size - 1} bytes")
    return text.ljust(size, b"\0")
