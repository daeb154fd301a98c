"""`memcache-shm backup`: a table into a file."""

from __future__ import annotations

import json
import os
import select
import signal
import stat
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from typing import Any

from memcache_shm.cli.arguments import Parser
from memcache_shm.cli.attaching import attach_named
from memcache_shm.cli.messages import EXIT_FAILURE, EXIT_OK, PROGRAM, UsageError, note, plural, say, say_aside
from memcache_shm.cli.progress import ProgressBar
from memcache_shm.client.addresses import source_address
from memcache_shm.client.local import attach_local
from memcache_shm.client.remote import RemoteTable
from memcache_shm.client.remote_items import RemoteItems
from memcache_shm.errors import BackupError, MemcacheError, TableNotFoundError
from memcache_shm.ops import backups
from memcache_shm.ops.backup_file import FileWriter
from memcache_shm.ops.backup_lines import KeysWriter, LinesWriter
from memcache_shm.ops.backup_sources import AttachedSource, RemoteSource
from memcache_shm.ops.whole_file import WholeFile
from memcache_shm.storage.units import format_size

STANDARD = "-"  # in place of a file's name
Write = Callable[[bytes | memoryview], object]

_HELP = """\
Write all items of a table into a file: keys and values of any bytes, flags, expiry,
CAS ids, stale marks. The file appears whole or not at all.

  binary   for 'restore': checksummed blocks (the default)
  jsonl    a JSON object an item and line, for people and other programs; 'restore'
           reads it, too, and such lines made by hand
  keys     the keys alone, as memcached's 'lru_crawler mgdump' lists them
"""
_EXAMPLES = f"""\
A table of this host is copied as it is at one instant while up to 256 MiB of it are in
use: writers wait meanwhile, about 0.1 s a million items and 0.2 ms a MiB (on a busy
host several times that), readers never. A larger one is copied shard by shard, each at
its own instant. A table behind a socket, any memcached since 1.6.18, is walked item by
item while it changes. The file says which it was.

exit status: 0 done; 1 failed (then an older FILE is as it was), or done without items
whose keys the protocol cannot name; 2 wrong usage

examples:
  {PROGRAM} backup app app.backup
  {PROGRAM} backup old-memcached:11211 - | {PROGRAM} restore - app
  {PROGRAM} backup --format jsonl app - | jq -r 'select(.flags == 1) | .key'
  {PROGRAM} backup --json app /backups/app-$(date +%F)
"""


def main(words: Sequence[str]) -> int:
    """Write one backup and say so in one line. 0; MemcacheError: why there is none."""
    parser = Parser(f"{PROGRAM} backup", _HELP, _EXAMPLES)
    parser.add_argument("source", metavar="SOURCE", help="NAME, HOST:PORT, a socket's path with a /, or channel:PATH")
    parser.add_argument("file", metavar="FILE", type=named_file, help=f"or {STANDARD} for standard output")
    parser.add_argument("--format", choices=("binary", "jsonl", "keys"), default="binary", help="see above")
    parser.add_argument("--json", action="store_true", help="say what was done as a JSON object")
    space = parser.parse_args(words)
    path = STANDARD if _is_standard_output(space.file) else space.file
    bar = ProgressBar(space.source, path == STANDARD)
    with interruptible("interrupted; no backup was made"), bar, _output(path, space.format) as write:
        said = _keys(space.source, write, bar) if space.format == "keys" else _items(space.source, space.format, write, bar)
    said = {"source": space.source, "file": space.file, "format": space.format} | said
    text = json.dumps(said) if space.json else _summary(said, path)
    if path != STANDARD:
        say(text)
    elif space.json:
        say_aside(text)
    else:
        note(text)
    return EXIT_FAILURE if said.get("unnamed") else EXIT_OK


def named_file(path: str) -> str:
    """`path`, for an argument that names a file. UsageError: it is empty."""
    if not path:
        raise UsageError(f"FILE: a file cannot have an empty name; write one, or {STANDARD} for a standard stream")
    return path


def _is_standard_output(path: str) -> bool:
    """Also by one of its own names (/dev/stdout, /dev/fd/1) where it is a pipe or a terminal: what is said must not get in between."""
    if path == STANDARD:
        return True
    try:
        output, named = os.fstat(sys.stdout.fileno()), os.stat(path)
    except (AttributeError, OSError, ValueError):  # closed, or a file that is not there yet
        return False
    mixes = stat.S_ISFIFO(output.st_mode) or stat.S_ISSOCK(output.st_mode) or sys.stdout.isatty()
    return mixes and os.path.samestat(output, named)


@contextmanager
def interruptible(message: str) -> Iterator[None]:
    """Ctrl-C and SIGTERM end this in order, whatever the program's start set: MemcacheError with `message`."""
    handlers = {number: signal.signal(number, signal.default_int_handler) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    except KeyboardInterrupt:
        raise MemcacheError(message) from None
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)


@contextmanager
def _output(path: str, form: str) -> Iterator[Write]:
    """What writes to the file that appears at the end, or to standard output."""
    if path != STANDARD:
        with WholeFile(path) as file:
            yield file.write
        return
    if sys.stdout is None:
        raise BackupError("standard output is closed; name a FILE")
    if form == "binary" and sys.stdout.isatty():
        raise BackupError(
            f"a binary backup is nothing for a terminal; name a FILE, write '| {PROGRAM} restore - TARGET', or --format jsonl"
        )
    yield _write_out


def _write_out(data: bytes | memoryview) -> None:
    left = memoryview(data)
    try:
        while left:
            try:
                left = left[os.write(sys.stdout.fileno(), left) :]
            except BlockingIOError:  # whoever made the pipe, or has it, too, made it so
                select.select([], [sys.stdout], [])
    except OSError as problem:
        raise BackupError(f"standard output: {problem.strerror}; what was written is no whole backup") from None


def _items(source: str, form: str, write: Write, bar: ProgressBar) -> dict[str, Any]:
    writer = FileWriter(write) if form == "binary" else LinesWriter(write)
    address = source_address(source)
    if address is not None:
        with RemoteTable(address) as table:
            return backups.write(RemoteSource(table), writer, bar.tell)._asdict()
    denied = (
        f"no right to write to table {source!r}, whose writers must wait for a moment; "
        "back it up through its daemon (HOST:PORT or a socket's path)"
    )
    with attach_named(source, False, denied) as cache:
        try:
            return backups.write(AttachedSource(cache), writer, bar.tell)._asdict()
        except MemoryError as problem:
            raise MemcacheError(f"{problem}; free some, or back it up through its daemon (HOST:PORT or a socket's path)") from None


def _keys(source: str, write: Write, bar: ProgressBar) -> dict[str, Any]:
    address = source_address(source)
    if address is not None:
        with RemoteTable(address) as remote:
            return {"items": backups.write_keys(RemoteItems(remote).keys(), remote.count(), KeysWriter(write), bar.tell)}
    try:
        table = attach_local(source)
    except TableNotFoundError as problem:
        raise MemcacheError(f"{str(problem).partition(';')[0]}; '{PROGRAM} ls' shows what there is") from None
    with closing(table):
        return {"items": backups.write_keys(table.keys(), table.count(), KeysWriter(write), bar.tell)}


def _summary(said: dict[str, Any], path: str) -> str:
    where = "" if path == STANDARD else f" to {path}"
    if said["format"] == "keys":
        return f"{plural(said['items'], 'key')} of {said['source']} listed{where}"
    text = f"{plural(said['items'], 'item')}, {format_size(said['bytes'])}, of {said['source']} backed up{where} in {said['took_s']:.2f} s"
    held = f"writers waited for {said['held_ns'] / 1e6:.1f} ms"
    text += {0: "; walked, so changes made meanwhile may be missing", 1: f"; as of one instant, {held}"}.get(
        said["instants"], f"; as of an instant for each of {said['instants']} shards, {held} at most"
    )
    others = {"gone before being read": said["gone"], "left out, whose keys the protocol cannot name": said["unnamed"]}
    return text + "".join(f"; {plural(count, 'item')} {what}" for what, count in others.items() if count)
