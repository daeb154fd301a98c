"""Reading a daemon's stream of notices: bytes as they come in any cutting, changes out.

NOTIFY <kind> <key> <flags> <exptime> <bytes> <cas>[ b]    and for kind set <bytes> bytes and CRLF; b: the key is in base64
LOST <from> <to>
SYNCED <position>
ALIVE <position>
MN                                                         the answer to a sign of life (meta no-op)
OK, or CLIENT_ERROR sync not allowed                       the answer to `sync` amid a subscription
"""

from __future__ import annotations

import base64
from collections.abc import Callable

from memcache_shm.client.changes import ALIVE, SYNCED, Change
from memcache_shm.errors import RemoteError

_LINE_MAX_BYTES = 2048
_VALUE_MAX_BYTES = 1 << 31
_GONE = {b"delete": "delete", b"expire": "expire", b"evict": "evict", b"touch": "touch"}  # kinds that come without a value
_ANSWERS = (b"MN", b"OK", b"CLIENT_ERROR sync not allowed")  # which tell no change
_new: Callable[[type[Change], tuple[object, ...]], Change] = tuple.__new__  # past the checks of Change's own


class NoticeReader:
    """One stream; `feed` it what was received. A million small notices take about two seconds."""

    def __init__(self, where: str) -> None:
        """`where` names the daemon in errors."""
        self._where = where
        self._pieces: list[bytes] = []  # of an incomplete notice
        self._held = 0  # their bytes, and
        self._need = 0  # ... as many as there must be for any progress

    def feed(self, data: bytes) -> list[Change]:
        """The changes that these bytes complete. Raises RemoteError for what is no notice; the stream is of no use then."""
        self._pieces.append(data)
        self._held += len(data)
        if self._held < self._need:
            return []
        buffer = b"".join(self._pieces)
        try:
            changes, used, self._need = _read(buffer)
        except (ValueError, IndexError, KeyError):  # a number, a field or a word that is none
            changes, used, self._need = [], 0, -1
        if not 0 <= self._need <= _VALUE_MAX_BYTES:
            raise RemoteError(f"{self._where}: its notices cannot be read; is it another version?")
        self._pieces = [buffer[used:]] if used < len(buffer) else []
        self._held = len(buffer) - used
        return changes


def _read(buffer: bytes) -> tuple[list[Change], int, int]:
    """The changes in `buffer`, how many bytes they take, and how many are needed from there on for the next one (-1: an endless line)."""
    changes: list[Change] = []
    add, find, cls = changes.append, buffer.find, Change
    at = 0
    while (end := find(b"\r\n", at)) >= 0:
        words = buffer[at:end].split(b" ")
        if words[0] != b"NOTIFY":
            _read_other(words, changes)
            at = end + 2
            continue
        key = words[2] if len(words) == 7 else _binary_key(words)
        if words[1] == b"set":
            start = end + 2
            stop = start + int(words[5])
            if len(buffer) < stop + 2:
                return changes, at, stop + 2 - at
            if buffer[stop : stop + 2] != b"\r\n" or stop < start:
                raise ValueError
            add(_new(cls, ("set", key, buffer[start:stop], int(words[3]), int(words[4]), int(words[6]), 0, 0)))
            at = stop + 2
            continue
        at = end + 2
        if words[1] == b"flush":
            add(Change("flush", None))
        else:
            add(_new(cls, (_GONE[words[1]], key, None, int(words[3]), int(words[4]), int(words[6]), 0, 0)))
    left = len(buffer) - at
    return changes, at, left + 1 if left <= _LINE_MAX_BYTES else -1


def _binary_key(words: list[bytes]) -> bytes:
    if len(words) != 8 or words[7] != b"b":
        raise ValueError
    return base64.b64decode(words[2], validate=True)


def _read_other(words: list[bytes], changes: list[Change]) -> None:
    """A line that is no NOTIFY."""
    if words[0] == b"LOST":
        changes.append(Change("lost", None, first=int(words[1]), last=int(words[2])))
    elif words[0] == b"SYNCED":
        changes.append(Change(SYNCED, None, last=int(words[1])))
    elif words[0] == b"ALIVE":
        changes.append(Change(ALIVE, None, last=int(words[1])))
    elif b" ".join(words) not in _ANSWERS:
        raise ValueError
