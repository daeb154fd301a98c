"""Backups: a table into a file, and back.

    save / write:    source -> pieces of packed items -> a form of file -> a file that is there whole or not at all
    load / restore:  the whole file is read and verified -> read again -> pieces -> target

Neither holds more of a table than a piece, but for the copy of an attached one that is made while writers wait (`client.snapshot`).
"""

from __future__ import annotations

import os
import shutil
import stat
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from itertools import islice
from typing import BinaryIO, NamedTuple

from memcache_shm.client.reading import Reading
from memcache_shm.errors import BackupError
from memcache_shm.ops.backup_file import MAGIC_MOST_BYTES, MAGIC_START, FileReader, FileWriter
from memcache_shm.ops.backup_lines import BOM, KeysWriter, LinesReader
from memcache_shm.ops.backup_parts import Facts, Piece, Progress, Reader, Step, Totals, Writer, no_progress
from memcache_shm.ops.backup_sources import AttachedSource, Source
from memcache_shm.ops.backup_targets import AttachedTarget, Target
from memcache_shm.ops.whole_file import WholeFile

_KEYS_AT_A_TIME = 4096
_SPOOLED_BYTES = 1 << 20  # read at a time from what can be read but once


class Saved(NamedTuple):
    """What became of a backup."""

    items: int
    bytes: int  # packed: keys, values and 28 bytes an item
    instants: int  # at which the items were copied: 1 for the whole table, one a shard, 0 for a walk
    held_ns: int  # for which a writer waited at most
    took_s: float
    held_sum_ns: int  # all instants together
    consistency: str  # the same as `instants`, in words
    unnamed: int  # items left out, because the protocol cannot name their keys
    gone: int  # in a walk: items that were listed, and no more there when their turn came


class Loaded(NamedTuple):
    """What became of a restore."""

    items: int  # stored
    refused: int  # not: too large for the table, or no room
    expired: int  # not: over by now
    took_s: float
    removed: int  # that were there before, where the backup replaces all
    evicted: int  # meanwhile
    lost: int  # stored, and evicted again before the end
    unnamed: int  # not: the protocol cannot name their keys
    endless: int  # stored for ever: the clock does not reach to their expiry
    keeps_cas: bool  # the items have the CAS ids of the backup, where it has any
    raises_cas: bool  # ids that the table gives out later are above those
    facts: Facts  # what the backup says of itself


def save(cache: Reading, path: str, progress: Progress | None = None, *, replaces_anything: bool = False) -> Saved:
    """Write a backup of an attached table to `path`, in place of what is there once it is complete; see WholeFile.

    Raises BackupError (the file), ReadOnlyError (the table is attached without the right to write), BusyError, TableRemovedError,
    MemoryError.
    """
    with WholeFile(path, replaces_anything=replaces_anything) as file:
        return write(AttachedSource(cache), FileWriter(file.write), progress)


def write(source: Source, writer: Writer, progress: Progress | None = None) -> Saved:
    """Write what `source` has. Raises what source and writer raise."""
    tell = progress or no_progress
    totals = Totals()
    writer.begin(Facts.now(source.name, source.consistency))
    for piece in source.pieces():
        writer.add(piece)
        totals.add(piece)
        tell(Step("backing up", min(totals.items / max(source.expected, 1), 1.0), totals.items, totals.size_bytes))
    writer.end(source.highest_cas)
    return Saved(
        items=totals.items,
        bytes=totals.size_bytes,
        instants=source.instants,
        held_ns=source.held_ns,
        took_s=time.monotonic() - source.began_s,
        held_sum_ns=source.held_sum_ns,
        consistency=source.consistency,
        unnamed=source.unnamed,
        gone=source.gone,
    )


def write_keys(keys: Iterable[bytes], expected: int, writer: KeysWriter, progress: Progress | None = None) -> int:
    """Write the keys of a table, walked, of which there are about `expected`; how many there were. Raises what `keys` raises."""
    tell = progress or no_progress
    walk = iter(keys)
    items = 0
    while some := list(islice(walk, _KEYS_AT_A_TIME)):
        writer.add(some)
        items += len(some)
        tell(Step("listing", min(items / max(expected, 1), 1.0), items, 0))
    writer.end()
    return items


def load(path: str, cache: Reading, progress: Progress | None = None) -> Loaded:
    """Put the items of a backup into an attached table, over what is there, once the whole file is verified.

    Raises BackupError (the file; nothing was written then), and as `AttachedTarget`.
    """
    with opened(path) as file:
        reader = reader_of(file, path)
        verify(reader, file, progress)
        target = AttachedTarget(cache, False)
        try:
            return restore(reader, file, target, progress)
        finally:
            target.close()


@contextmanager
def opened(path: str) -> Iterator[BinaryIO]:
    """The file, to be read more than once: what is no regular one (a pipe) is spooled to a temporary file first. BackupError."""
    with ExitStack() as stack:
        try:
            file = stack.enter_context(open(path, "rb"))
        except OSError as error:
            raise BackupError(f"{path}: {error.strerror}") from None
        yield stack.enter_context(seekable(file, path))


@contextmanager
def seekable(file: BinaryIO, name: str) -> Iterator[BinaryIO]:
    """The same of an open file. BackupError."""
    if stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        yield file
        return
    with tempfile.TemporaryFile() as spool:
        try:
            shutil.copyfileobj(file, spool, _SPOOLED_BYTES)
            spool.flush()
        except OSError as error:
            where = tempfile.gettempdir()
            raise BackupError(f"{name}: cannot be put by in {where}: {error.strerror}; set TMPDIR to where there is room") from None
        yield spool


def reader_of(file: BinaryIO, name: str) -> Reader:
    """What reads the form that `file` has. BackupError: none of a backup, or its beginning is not whole."""
    file.seek(0)
    start = file.read(MAGIC_MOST_BYTES)
    if not start:
        raise BackupError(f"{name}: empty; no backup")
    if start.startswith((b"mg ", b"EN\r\n")):
        raise BackupError(f"{name}: a list of keys has no values to restore; make a backup with '--format binary' or 'jsonl'")
    if start.removeprefix(BOM).lstrip().startswith(b"{"):
        return LinesReader(file, name)
    if start.startswith(MAGIC_START[:8]) or MAGIC_START.startswith(start):
        return FileReader(file, name, os.fstat(file.fileno()).st_size)
    raise BackupError(f"{name}: no backup of memcache-shm (it would begin with {MAGIC_START.decode().strip()!r}, or with a JSON line)")


def verify(reader: Reader, file: BinaryIO, progress: Progress | None = None) -> None:
    """Read all of it. BackupError: what is wrong."""
    _take(reader, file, "verifying", progress, lambda piece: None)


def restore(reader: Reader, file: BinaryIO, target: Target, progress: Progress | None = None) -> Loaded:
    """Put what was verified into `target`. Raises what that raises; BackupError: the file was changed since."""
    began = time.monotonic()
    target.begin(reader.totals.highest_cas)
    _take_again(reader, file, "restoring", progress, target.put)
    outcome = target.end()
    lost = min(_missing(reader, file, target, progress) - outcome.refused, outcome.evicted) if outcome.evicted else 0
    return Loaded(
        items=outcome.items,
        refused=outcome.refused,
        expired=outcome.expired,
        took_s=time.monotonic() - began,
        removed=outcome.removed,
        evicted=outcome.evicted,
        lost=max(lost, 0),
        unnamed=outcome.unnamed,
        endless=outcome.endless,
        keeps_cas=outcome.keeps_cas or not reader.totals.highest_cas,
        raises_cas=outcome.raises_cas or not reader.totals.highest_cas,
        facts=reader.facts,
    )


def _missing(reader: Reader, file: BinaryIO, target: Target, progress: Progress | None) -> int:
    """The items that are not in the table that was restored, or no more; after evictions, which may have been of others."""
    missing = 0

    def count(piece: Piece) -> None:
        nonlocal missing
        missing += target.missing(piece)

    _take_again(reader, file, "looking for evicted items of", progress, count)
    return missing


def _take_again(reader: Reader, file: BinaryIO, doing: str, progress: Progress | None, put: Callable[[Piece], object]) -> None:
    """Once it was verified."""
    try:
        _take(reader, file, doing, progress, put)
    except BackupError as error:
        raise BackupError(f"{error}; it was whole before, and a part of it is in the table now") from None


def _take(reader: Reader, file: BinaryIO, doing: str, progress: Progress | None, put: Callable[[Piece], object]) -> None:
    tell = progress or no_progress
    whole_bytes = max(os.fstat(file.fileno()).st_size, 1)
    totals = Totals()
    for piece in reader.pieces():
        put(piece)
        totals.add(piece)
        tell(Step(doing, min(file.tell() / whole_bytes, 1.0), totals.items, totals.size_bytes))
