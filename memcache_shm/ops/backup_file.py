"""The binary form of a backup (docs/protocol.md, "Backup files"): a line that says what it is, and blocks.

    memcache_shm backup 1 LF | HEAD block: JSON | ITEM block: packed items, about 1 MiB | ... | END! block: JSON
    block: 0 kind (4) | 4 content bytes (4) | 8 items (4) | 12 CRC-32 of the content (4) | 16 CRC-32 (4) | 20 content

Little-endian. The second CRC-32 goes over the line and the 16 bytes in front of it of this and all earlier blocks, so that a block that is
missing, twice there or in another's place shows as well as one that was altered, before its length is believed.
"""

from __future__ import annotations

import json
import re
import struct
from collections.abc import Callable, Iterator
from typing import Any, BinaryIO, NamedTuple
from zlib import crc32

from memcache_shm.client.packed import stretch
from memcache_shm.errors import BackupError
from memcache_shm.ops.backup_parts import VERSION, Facts, Piece, Totals

_HEADER = struct.Struct("<4sIII")
_CHAIN = struct.Struct("<I")
_HEADER_BYTES = _HEADER.size + _CHAIN.size
_HEAD, _ITEMS, _END = b"HEAD", b"ITEM", b"END!"
_JSON_MOST_BYTES = 1 << 16  # of what is said at the beginning and the end
_MAGIC = re.compile(rb"memcache_shm backup ([1-9]\d{0,5})\n")
MAGIC_MOST_BYTES = 32  # by which a file can be told from others
MAGIC_START = b"memcache_shm backup "


class FileWriter:
    """Writes it."""

    def __init__(self, write: Callable[[bytes | memoryview], object]) -> None:
        self._write = write
        self._chain = 0
        self._totals = Totals()

    def begin(self, facts: Facts) -> None:
        """The beginning; before anything else."""
        line = MAGIC_START + b"%d\n" % VERSION
        self._write(line)
        self._chain = crc32(line)
        self._say(_HEAD, facts.to_dict() | {"byte_order": "little"})

    def add(self, piece: Piece) -> None:
        """A block of items."""
        self._totals.add(piece)
        self._block(_ITEMS, piece.data, piece.items)

    def end(self, highest_cas: int) -> None:
        """The end; without it the file counts as cut off."""
        self._totals.highest_cas = highest_cas
        self._say(_END, self._totals.to_dict())

    def _say(self, kind: bytes, said: dict[str, Any]) -> None:
        self._block(kind, json.dumps(said).encode("ascii"), 0)

    def _block(self, kind: bytes, content: bytes | memoryview, items: int) -> None:
        header = _HEADER.pack(kind, len(content), items, crc32(content))
        self._chain = crc32(header, self._chain)
        self._write(header + _CHAIN.pack(self._chain))
        self._write(content)


class _Block(NamedTuple):
    kind: bytes
    content: bytes
    items: int


class FileReader:
    """Reads it from a file that can be read again."""

    def __init__(self, file: BinaryIO, name: str, size_bytes: int) -> None:
        """`name` is for messages. BackupError: this is none, or its beginning is not whole."""
        self._file = file
        self._name = name
        self._size_bytes = size_bytes
        self._number = 0  # of the block that is read: the first one is 1
        self._at = 0  # where it begins
        self._chain = 0
        self.totals = Totals()
        self.facts = self._begin()

    def pieces(self) -> Iterator[Piece]:
        """From the beginning, every piece once it was verified. BackupError."""
        self._begin()
        seen = Totals()
        while (block := self._next()).kind == _ITEMS:
            piece = Piece(block.content, block.items)
            self._refuse_nonsense(piece)
            seen.add(piece)
            yield piece
        if block.kind != _END:
            raise self._altered("is of an unknown kind")
        self._end(self._said(block), seen)

    def _begin(self) -> Facts:
        self._file.seek(0)
        line = self._file.read(MAGIC_MOST_BYTES).partition(b"\n")[0] + b"\n"
        match = _MAGIC.fullmatch(line)
        if match is None or len(line) > self._size_bytes:
            raise BackupError(f"{self._name}: no backup, or its first line is altered or cut off")
        if int(match[1]) > VERSION:
            raise BackupError(
                f"{self._name}: made by a newer version (its form is {int(match[1])}, this one reads {VERSION}); restore it with that"
            )
        self._number, self._at, self._chain = 0, len(line), crc32(line)
        self._file.seek(self._at)
        block = self._next()
        if block.kind != _HEAD:
            raise self._altered("is not the first one")
        return Facts.from_dict(self._said(block))

    def _next(self) -> _Block:
        """The next block, with which nothing is wrong."""
        self._number += 1
        self._at = self._file.tell()
        header = self._read(_HEADER_BYTES)
        kind, size, items, checksum = _HEADER.unpack_from(header)
        chain = crc32(header[: _HEADER.size], self._chain)
        if chain != _CHAIN.unpack_from(header, _HEADER.size)[0]:
            raise self._altered("is altered, or blocks before it are missing or in another order")
        self._chain = chain
        content = self._read(size)
        if crc32(content) != checksum:
            raise self._altered("is altered")
        return _Block(kind, content, items)

    def _read(self, size: int) -> bytes:
        left = self._size_bytes - self._file.tell()
        data = self._file.read(size) if size <= left else b""
        if len(data) < size:
            raise BackupError(f"{self._name}: cut off after {self._size_bytes} bytes, in block {self._number}; the rest is missing")
        return data

    def _said(self, block: _Block) -> dict[str, Any]:
        try:
            said = json.loads(block.content) if len(block.content) <= _JSON_MOST_BYTES else None
        except (ValueError, RecursionError):
            said = None
        if not isinstance(said, dict):
            raise self._altered("makes no sense")
        return said

    def _refuse_nonsense(self, piece: Piece) -> None:
        """What has right checksums, and is no items all the same: not made by this program."""
        try:
            _, items = stretch(piece.data, 0, len(piece.data))
        except ValueError:
            items = -1
        if items != piece.items:
            raise self._altered("makes no sense")

    def _end(self, said: dict[str, Any], seen: Totals) -> None:
        highest_cas = said.get("highest_cas")
        if type(highest_cas) is not int or not 0 <= highest_cas < 1 << 64:
            raise self._altered("makes no sense")
        seen.highest_cas = highest_cas
        if said.get("items") != seen.items or said.get("bytes") != seen.size_bytes:
            raise self._altered(f"counts other items than the {seen.items} before it")
        behind = self._size_bytes - self._file.tell()
        if behind > 0:
            raise BackupError(f"{self._name}: {behind} bytes behind its end, which do not belong to it")
        self.totals = seen

    def _altered(self, what: str) -> BackupError:
        return BackupError(f"{self._name}: block {self._number} (from byte {self._at} on) {what}; use another backup")
