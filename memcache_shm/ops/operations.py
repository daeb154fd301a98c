"""The language of `memcache-shm client`: insert, read and delete, as words of a command line or as lines, and what came of them.

insert KEY VALUE        read KEY        delete KEY
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from memcache_shm.client.remote import key_words
from memcache_shm.client.wire import Connection
from memcache_shm.errors import IllegalInputError, RemoteError
from memcache_shm.ops.quoting import harmless, shown_value, shown_word, take_rest, take_word, width
from memcache_shm.ops.telling import Paint, plain, text_field

STDIN = "-"  # among the words: more of them, as lines, come from standard input
_OPERANDS = {"insert": ("KEY", "VALUE"), "read": ("KEY",), "delete": ("KEY",)}
# What a reply's line means; one that is not here is a refusal
_OUTCOMES = {
    "insert": {b"HD": "stored"},
    "read": {b"EN": "not found"},
    "delete": {b"HD": "deleted", b"NF": "not found"},
}
_VALUE = re.compile(rb"VA (\d{1,10})(?: .*)?")
_VALUE_MAX_BYTES = 1 << 30
_REFUSAL = re.compile(rb"(?:(?:CLIENT|SERVER)_ERROR +(.+)|ERROR|NS)")
_COLOURS = {"failed": "31", "not found": "33"}  # SGR codes
_VALUE_COLUMNS_LEAST = 10


@dataclass(frozen=True)
class Result:
    """What became of an operation. `value`: of a read that found its key; `reason`: of one that failed, in the server's words."""

    kind: str
    key: bytes
    outcome: str  # stored, found, deleted, not found, failed
    value: bytes = b""
    reason: str = ""

    def line(self, encoding: str, columns: int | None = None, paint: Paint = plain) -> str:
        """`read 1: 2`. A value is cut so that the line fits into `columns`, if given."""
        head = f"{self.kind} {shown_word(self.key, encoding)}: "
        if self.outcome == "found":
            room = None if columns is None else max(_VALUE_COLUMNS_LEAST, columns - width(head))
            return head + shown_value(self.value, encoding, room)
        text = self.outcome if not self.reason else f"{self.outcome}: {harmless(self.reason, encoding)}"
        return head + (paint(text, _COLOURS[self.outcome]) if self.outcome in _COLOURS else text)

    def to_object(self) -> dict[str, Any]:
        """The same for JSON: what is no UTF-8 is in base64, under a name that says so."""
        found = {"operation": self.kind, **text_field("key", self.key), "result": self.outcome}
        if self.outcome == "found":
            found |= text_field("value", self.value)
        return found | ({"reason": self.reason} if self.reason else {})


@dataclass(frozen=True)
class Operation:
    """One to carry out; its key can be named by the protocol."""

    kind: str
    key: bytes
    value: bytes = b""

    def __post_init__(self) -> None:
        """IllegalInputError: the key."""
        key_words(self.key)

    def request(self) -> bytes:
        """As a meta command, which takes keys of any bytes."""
        word, flag = key_words(self.key)
        if self.kind == "insert":
            return b"ms %b %d%b\r\n%b\r\n" % (word, len(self.value), flag, self.value)
        return (b"mg %b v%b\r\n" if self.kind == "read" else b"md %b%b\r\n") % (word, flag)

    def read_result(self, connection: Connection) -> Result:
        """Take in the reply. RemoteError: none of a memcached, or the connection is lost."""
        line = connection.line()
        if self.kind == "read" and (head := _VALUE.fullmatch(line)) and int(head[1]) <= _VALUE_MAX_BYTES:
            return Result(self.kind, self.key, "found", connection.block(int(head[1])))
        outcome = _OUTCOMES[self.kind].get(line)
        if outcome is not None:
            return Result(self.kind, self.key, outcome)
        refusal = _REFUSAL.fullmatch(line)
        if refusal is None:
            raise RemoteError(f"{connection.where}: an unexpected reply, {line[:60]!r}")
        return Result(self.kind, self.key, "failed", reason=repr(refusal[1] or line)[2:-1])


def of_words(words: Sequence[bytes]) -> Iterator[Operation | None]:
    """The operations of a command line's words; None stands for those of standard input. IllegalInputError: words that are none."""
    left = iter(words)
    for word in left:
        if word == STDIN.encode():
            yield None
            continue
        kind = _kind(word)
        operands = [operand for _, operand in zip(_OPERANDS[kind], left, strict=False)]
        if len(operands) < len(_OPERANDS[kind]):
            raise IllegalInputError(f"{kind}: {_OPERANDS[kind][len(operands)]} is missing; {usage(kind)}")
        yield Operation(kind, *operands)


def of_line(line: bytes) -> Operation | None:
    """The operation of a line; None where that is empty. A value is all that is left of the line, unless it is in quotes.
    IllegalInputError: what is none."""
    word, rest = take_word(line)
    if not word and not rest:
        return None
    kind = _kind(word)
    key, rest = take_word(rest)
    if not key or (kind == "insert" and not rest) or (kind != "insert" and rest):
        raise IllegalInputError(usage(kind))
    return Operation(kind, key, take_rest(rest))


def usage(kind: str) -> str:
    """How an operation is written."""
    return f"write '{' '.join((kind, *_OPERANDS[kind]))}'"


def _kind(word: bytes) -> str:
    kind = word.decode("utf-8", "replace")
    if kind.startswith("--"):
        raise IllegalInputError(f"{harmless(kind)} is no operation; options go before ID")
    if kind not in _OPERANDS:
        raise IllegalInputError(f"unknown operation {shown_word(word, 'ascii')}; there are {', '.join(_OPERANDS)}")
    return kind
