"""The form of a backup that people and other programs read: JSON lines (docs/protocol.md, "Backup files"), and lists of keys.

    {"memcache_shm": "backup", "version": 1, "created": 1795678675.25, "source": "app", "consistency": "one instant", ...}
    {"key": "user:1", "value": "Alice", "flags": 0, "exptime": 1795678975.125, "cas": 17}
    {"end": {"items": 1, "bytes": 39, "highest_cas": 17}, "crc32": "0f4a92c1"}

The CRC-32 goes over everything before `, "crc32"`. A file without the first and the last line, such as made by hand, is taken as well; then
only each line is checked.
"""

from __future__ import annotations

import json
import re
from base64 import b64encode
from collections.abc import Callable, Iterator
from typing import Any, BinaryIO
from zlib import crc32

from memcache_shm.client.items import Item, higher_cas, pack, unpack
from memcache_shm.client.remote import PLAIN_KEY
from memcache_shm.errors import BackupError
from memcache_shm.ops.backup_item_lines import item_object, read_item
from memcache_shm.ops.backup_parts import PIECE_BYTES, VERSION, Facts, Piece, Totals

_END = re.compile(rb'(\{"end": \{.*\}), "crc32": "([0-9a-f]{8})"\}\n')
_MARK = "memcache_shm"  # the first name in the first line
_MAYBE_END = re.compile(rb'\s*\{\s*"(?:end|crc32)"\s*:')  # as other programs write it, too
BOM = b"\xef\xbb\xbf"  # which some editors put in front
_TAKE_OUT = "use another backup, or where that was you, take out the first and the last line"


class LinesWriter:
    """Writes JSON lines."""

    def __init__(self, write: Callable[[bytes | memoryview], object]) -> None:
        self._write = write
        self._chain = 0
        self._totals = Totals()

    def begin(self, facts: Facts) -> None:
        """The first line."""
        self._lines([{_MARK: "backup", "version": VERSION} | facts.to_dict()])

    def add(self, piece: Piece) -> None:
        """A line an item."""
        self._totals.add(piece)
        self._lines(map(item_object, unpack(piece.data)))

    def end(self, highest_cas: int) -> None:
        """The last line; without it the file counts as cut off."""
        self._totals.highest_cas = highest_cas
        line = json.dumps({"end": self._totals.to_dict()})[:-1].encode("ascii")
        self._write(line + b', "crc32": "%08x"}\n' % crc32(line, self._chain))

    def _lines(self, objects: Any) -> None:
        text = "".join(json.dumps(each) + "\n" for each in objects).encode("ascii")
        self._chain = crc32(text, self._chain)
        self._write(text)


class KeysWriter:
    """Writes the keys alone, as `lru_crawler mgdump` does: lines that can be sent to a memcached."""

    def __init__(self, write: Callable[[bytes | memoryview], object]) -> None:
        self._write = write

    def add(self, keys: list[bytes]) -> None:
        """A line a key."""
        self._write(b"".join(b"mg %b\r\n" % (key if PLAIN_KEY.fullmatch(key) else b64encode(key) + b" b") for key in keys))

    def end(self) -> None:
        """The last line."""
        self._write(b"EN\r\n")


class LinesReader:
    """Reads JSON lines from a file that can be read again."""

    def __init__(self, file: BinaryIO, name: str) -> None:
        """`name` is for messages. BackupError: written by a newer version."""
        self._file = file
        self._name = name
        self._number = 0  # of the line that is read: the first one is 1
        self.totals = Totals()
        file.seek(0)
        head = self._head(file.readline().removeprefix(BOM))
        self._by_hand = head is None
        self.facts = Facts(program="") if head is None else Facts.from_dict(head)

    def pieces(self) -> Iterator[Piece]:
        """From the beginning, every piece once its lines were checked. BackupError."""
        seen = Totals()
        packed = bytearray()
        items = 0
        for item in self._items(seen):
            packed += pack(item)
            items += 1
            if len(packed) >= PIECE_BYTES:
                piece = Piece(bytes(packed), items)
                seen.add(piece)
                yield piece
                packed.clear()
                items = 0
        piece = Piece(bytes(packed), items)
        seen.add(piece)
        if items:
            yield piece
        self._compare(seen)

    def _head(self, line: bytes) -> dict[str, Any] | None:
        """The first line, if it is a head."""
        found = _object(line)
        if found is None or _MARK not in found:
            return None
        version = found.get("version")
        if type(version) is int and version > VERSION:
            raise BackupError(
                f"{self._name}: made by a newer version (its form is {version}, this one reads {VERSION}); restore it with that"
            )
        return found

    def _items(self, seen: Totals) -> Iterator[Item]:
        """All items; notes in `seen` what the end says of the highest CAS id, or what was the highest."""
        self._file.seek(0)
        self._said: dict[str, Any] | None = None
        chain = 0
        for number, line in enumerate(self._file, 1):
            self._number = number
            line = line.removeprefix(BOM) if number == 1 else line
            if self._said is not None:
                raise self._wrong("is behind the end")
            if _MAYBE_END.match(line):
                self._said = self._end(line, chain)
            elif number > 1 or self._by_hand:
                item = self._item(line)
                if item is not None:
                    seen.highest_cas = higher_cas(seen.highest_cas, item.cas)
                    yield item
            chain = crc32(line, chain)

    def _item(self, line: bytes) -> Item | None:
        """None: an empty line, in a file made by hand."""
        if self._by_hand and not line.strip():
            return None
        try:
            return read_item(line)
        except ValueError as error:
            raise self._wrong(str(error)) from None

    def _end(self, line: bytes, chain: int) -> dict[str, Any]:
        if self._by_hand:
            raise self._wrong("is an end, but there is no beginning: the first line is altered or missing")
        match = _END.fullmatch(line)
        if match is None:
            raise self._wrong(self._what_no_end_is(line))
        if crc32(match[1], chain) != int(match[2], 16):
            raise BackupError(f"{self._name}: altered: the checksum of its lines is another one; {_TAKE_OUT}")
        end = _object(match[1] + b"}")
        said = None if end is None else end.get("end")
        if not isinstance(said, dict) or type(said.get("highest_cas")) is not int or not 0 <= said["highest_cas"] < 1 << 64:
            raise self._wrong("makes no sense")
        return said

    @staticmethod
    def _what_no_end_is(line: bytes) -> str:
        if _object(line) is None:
            return "is cut off or altered"
        return f"is an end as another program wrote it, so the checksum in it says nothing any more; {_TAKE_OUT}"

    def _compare(self, seen: Totals) -> None:
        """What was found with what the last line says."""
        if self._by_hand:
            if seen.items == 0:
                raise BackupError(f"{self._name}: no items in it, and no backup's first line; nothing to restore")
        elif self._said is None:
            raise BackupError(f"{self._name}: cut off after line {self._number}: its last line is missing")
        elif (self._said.get("items"), self._said.get("bytes")) != (seen.items, seen.size_bytes):
            raise self._wrong(f"counts other items than the {seen.items} before it")
        else:
            seen.highest_cas = self._said["highest_cas"]
        self.totals = seen

    def _wrong(self, what: str) -> BackupError:
        return BackupError(f"{self._name}: line {self._number} {what}")


def _object(line: bytes) -> dict[str, Any] | None:
    """The JSON object of a line; None: it is none."""
    try:
        found = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None
