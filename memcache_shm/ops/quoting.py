"""Keys and values as people write and read them: any bytes as one line of harmless text, which can be typed again.

A word ends at a blank; one that begins with " ends at the next one and may hold blanks and escapes: \\" \\\\ \\n \\r \\t \\xHH. What is
shown has the quotes where it needs them: where it is empty, begins with " or has bytes that are no printable text. So a terminal never
gets a control byte, an escape sequence or a character that hides or turns round what follows.
"""

from __future__ import annotations

import codecs
import re
import unicodedata

from memcache_shm.errors import IllegalInputError

_BLANKS = b" \t"
_WORD = re.compile(rb"[^ \t]+")
_QUOTED = re.compile(rb'"((?:[^"\\]|\\.)*)"', re.DOTALL)
_ESCAPE = re.compile(rb"\\(?:x([0-9A-Fa-f]{2})|(.))", re.DOTALL)
_MEANING = {b"n": b"\n", b"r": b"\r", b"t": b"\t", b'"': b'"', b"\\": b"\\"}
_WRITTEN = {meaning.decode(): f"\\{letter.decode()}" for letter, meaning in _MEANING.items()}
_UTF8_MAX_BYTES = 4  # a character
_Decoder = codecs.getincrementaldecoder("utf-8")


# Reading


def to_bytes(line: str) -> bytes:
    """A typed line's bytes; those that were no UTF-8 come back as they were."""
    return line.encode("utf-8", "surrogateescape")


def take_word(line: bytes) -> tuple[bytes, bytes]:
    """The first word of `line`, unquoted, and the rest without the blanks around it. IllegalInputError: a quote that does not end, or
    ends amid a word, or an unknown escape."""
    line = line.strip(_BLANKS)
    if not line.startswith(b'"'):
        match = _WORD.match(line)
        end = match.end() if match else 0
        return line[:end], line[end:].strip(_BLANKS)
    match = _QUOTED.match(line)
    if match is None:
        raise IllegalInputError('a quote has no end; write \\" for one that belongs to the text')
    rest = line[match.end() :]
    if rest and rest[:1] not in (b" ", b"\t"):
        raise IllegalInputError("a word goes on behind its quote; leave a blank between words")
    return _ESCAPE.sub(_unescaped, match[1]), rest.strip(_BLANKS)


def take_rest(line: bytes) -> bytes:
    """All of `line` as one value, unless it is a word in quotes. IllegalInputError as for `take_word`."""
    line = line.strip(_BLANKS)
    if not line.startswith(b'"'):
        return line
    word, rest = take_word(line)
    if rest:
        raise IllegalInputError("a value in quotes ends there; put all of it into the quotes")
    return word


def _unescaped(match: re.Match[bytes]) -> bytes:
    if match[1]:
        return bytes([int(match[1], 16)])
    if match[2] not in _MEANING:
        raise IllegalInputError(f'unknown escape {match[0].decode("utf-8", "replace")}; there are \\" \\\\ \\n \\r \\t \\xHH')
    return _MEANING[match[2]]


# Showing


def shown_word(data: bytes, encoding: str) -> str:
    """`data` as a word, for an output of this encoding."""
    text = data.decode("utf-8", "surrogateescape")
    return text if " " not in text and _is_plain(text, encoding) else _quoted(text, encoding)


def shown_value(data: bytes, encoding: str, columns: int | None = None) -> str:
    """`data` as the last thing of a line. What is wider than `columns` of a terminal is cut and its size told."""
    head = data if columns is None else data[: (columns + 1) * _UTF8_MAX_BYTES]
    text = _Decoder("surrogateescape").decode(head, final=len(head) == len(data))  # without a character that was cut
    plain = _is_plain(text, encoding) and not data.startswith(b" ") and not data.endswith(b" ")
    text = text if plain else _quoted(text, encoding)
    if columns is None or (len(head) == len(data) and width(text) <= columns):
        return text
    size = f" ... ({len(data)} bytes)"
    return _cut(text, max(1, columns - len(size))) + size


def harmless(text: str, encoding: str = "utf-8") -> str:
    """A message for an output of this encoding: without control bytes, which a server's words or a file's name may have."""
    if text.isprintable() and _fits(text, encoding):
        return text
    return "".join(char if char.isprintable() and _fits(char, encoding) else _escaped(char, encoding) for char in text)


def width(text: str) -> int:
    """The columns that printable `text` takes on a terminal."""
    return sum(map(_width, text))


def _width(char: str) -> int:
    if char < "\u0300":
        return 1
    if unicodedata.combining(char) or unicodedata.category(char) in ("Mn", "Me"):
        return 0
    return 2 if unicodedata.east_asian_width(char) in "WF" else 1


def _cut(text: str, columns: int) -> str:
    """As much of the beginning as takes `columns`."""
    for at, char in enumerate(text):
        columns -= _width(char)
        if columns < 0:
            return text[:at]
    return text


def _is_plain(text: str, encoding: str) -> bool:
    """Whether it can be shown and typed as it is."""
    return bool(text) and text.isprintable() and not text.startswith('"') and _fits(text, encoding)


def _fits(text: str, encoding: str) -> bool:
    try:
        text.encode(encoding)
    except UnicodeEncodeError:
        return False
    return True


def _quoted(text: str, encoding: str) -> str:
    return '"' + "".join(_escaped(char, encoding) for char in text) + '"'


def _escaped(char: str, encoding: str) -> str:
    if char in _WRITTEN:
        return _WRITTEN[char]
    if char.isprintable() and _fits(char, encoding):
        return char
    try:
        return "".join(f"\\x{byte:02x}" for byte in char.encode("utf-8", "surrogateescape"))
    except UnicodeEncodeError:  # half of a pair, which stands for no byte
        return f"\\u{ord(char):04x}"
