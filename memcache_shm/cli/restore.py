"""`memcache-shm restore`: a backup into a table."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from typing import BinaryIO

from memcache_shm.cli.arguments import Parser
from memcache_shm.cli.attaching import attach_named
from memcache_shm.cli.backup import STANDARD, interruptible, named_file
from memcache_shm.cli.messages import EXIT_FAILURE, EXIT_OK, PROGRAM, UsageError, note, plural, say
from memcache_shm.cli.progress import ProgressBar
from memcache_shm.client.addresses import source_address
from memcache_shm.client.remote import RemoteTable
from memcache_shm.errors import BackupError, MemcacheError, TableRemovedError
from memcache_shm.ops import backups
from memcache_shm.ops.backup_targets import AttachedTarget, RemoteTarget, Target
from memcache_shm.ops.backups import Loaded

_HELP = """\
Put the items of a backup into a table, over what is there: values, flags, expiry, CAS
ids, stale marks. The whole file is verified first (what comes from a pipe is put by in
$TMPDIR for that), and nothing is written unless it is right to the last byte.
"""
_EXAMPLES = f"""\
FILE may be any that '{PROGRAM} backup' made, but for a list of keys, or JSON lines made
by hand: {{"key": "user:1", "value": "Alice", "flags": 0, "exptime": 0}}

What is over by now is left out. An item that is too large for the table, or finds no
room, is refused, and the older one of its key is gone all the same. With --replace the
table has nothing at first, while the items come; without it they come to those that
are there.

A table of this host, by its name, gives out CAS ids above those restored from then on.
Behind a socket that cannot be had: our daemon takes the CAS ids but may give them out
again, a memcached gives each item one of its own.

exit status: 0 done; 1 failed, or some items were refused or evicted again; 2 wrong usage

examples:
  {PROGRAM} restore app.backup app
  {PROGRAM} restore --replace app.backup app
  ssh db1 {PROGRAM} backup app - | {PROGRAM} restore - 127.0.0.1:11211
"""


def main(words: Sequence[str]) -> int:
    """Restore one backup and say so in one line. 0 when every item is in the table that is not over; MemcacheError."""
    parser = Parser(f"{PROGRAM} restore", _HELP, _EXAMPLES)
    parser.add_argument("file", metavar="FILE", type=named_file, help=f"or {STANDARD} for standard input")
    parser.add_argument("target", metavar="TARGET", help="NAME, HOST:PORT, a socket's path with a /, or channel:PATH")
    parser.add_argument("--replace", action="store_true", help="empty the table before: for one of this host")
    parser.add_argument("--json", action="store_true", help="say what was done as a JSON object")
    space = parser.parse_args(words)
    if space.replace and source_address(space.target) is not None:
        raise UsageError(
            f"--replace: only for a table of this host by its name; empty {space.target} before ('{PROGRAM} console {space.target}', FLUSH)"
        )
    with interruptible("interrupted; nothing was written"), ProgressBar(space.target) as bar:
        loaded = _restore(space.file, space.target, space.replace, bar)
    if space.json:
        say(json.dumps({"file": space.file, "target": space.target} | _object(loaded)))
    else:
        say(_summary(space.target, loaded))
        _note_cas(space.target, loaded)
    return EXIT_FAILURE if loaded.refused or loaded.lost or loaded.unnamed else EXIT_OK


def _restore(path: str, target: str, replace: bool, bar: ProgressBar) -> Loaded:
    with _target(target, replace) as found, _input(path) as file:
        reader = backups.reader_of(file, _named(path))
        backups.verify(reader, file, bar.tell)
        with interruptible("interrupted; a part of the backup may be in the table"):
            try:
                return backups.restore(reader, file, found, bar.tell)
            except TableRemovedError:
                raise MemcacheError(
                    f"table {target!r} was removed or made anew meanwhile; restore again into the one that is there"
                ) from None


@contextmanager
def _target(target: str, replace: bool) -> Iterator[Target]:
    """First of all: a table that is not there, or may not be written to, needs no reading of the file."""
    address = source_address(target)
    if address is not None:
        with RemoteTable(address) as table:
            yield RemoteTarget(table)
        return
    with attach_named(target, False, f"no right to write to table {target!r}") as cache, closing(AttachedTarget(cache, replace)) as found:
        yield found


@contextmanager
def _input(path: str) -> Iterator[BinaryIO]:
    if path != STANDARD:
        with backups.opened(path) as file:
            yield file
        return
    if sys.stdin is None or sys.stdin.isatty():
        raise BackupError("standard input is no file and no pipe; name a FILE")
    with backups.seekable(sys.stdin.buffer, _named(path)) as file:
        yield file


def _named(path: str) -> str:
    return "standard input" if path == STANDARD else path


def _object(loaded: Loaded) -> dict[str, object]:
    return loaded._asdict() | {"facts": loaded.facts.to_dict()}


def _summary(target: str, loaded: Loaded) -> str:
    facts = loaded.facts
    origin = f" of {facts.source}" if facts.source else ""
    if facts.created_s:
        origin += time.strftime(", made %Y-%m-%d %H:%M:%S,", time.localtime(facts.created_s))
    text = f"{plural(loaded.items, 'item')}{origin} restored to {target} in {loaded.took_s:.2f} s"
    others = {
        "of them evicted again for want of room": loaded.lost,
        "refused, too large or for want of room": loaded.refused,
        "refused, whose keys the protocol cannot name": loaded.unnamed,
        "over by now": loaded.expired,
        "for ever, since this host's clock does not reach to their expiry": loaded.endless,
        "others evicted meanwhile": loaded.evicted - loaded.lost,
        "that were there before removed": loaded.removed,
    }
    return text + "".join(f"; {count} {what}" for what, count in others.items() if count)


def _note_cas(target: str, loaded: Loaded) -> None:
    if not loaded.keeps_cas:
        note(f"{target} gave the items CAS ids of its own: it does not let clients choose them")
    elif not loaded.raises_cas:
        note(f"{target} may give CAS ids out again that were restored: where clients keep some, restore by the table's name on its host")
