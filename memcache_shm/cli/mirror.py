"""`memcache-shm mirror`: what changes in a table, line by line."""

from __future__ import annotations

import argparse
import json
import logging
import shutil
import signal
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence

from memcache_shm.cli.arguments import Parser, whole
from memcache_shm.cli.messages import EXIT_OK, PROGRAM, note, paint, plural
from memcache_shm.client.changes import Change
from memcache_shm.client.keeping import Keeper, Stream, opener
from memcache_shm.errors import MemcacheError, TableNotFoundError
from memcache_shm.ops.telling import change_line, change_object

_HELP = """\
Keep a copy of a table in step and print each change, one a line: the time, what
happened, the key, and for what was stored the value, its flags and until when it
lives. A source that goes away and comes again is read anew, and what is other than
before is printed. Ctrl-C ends.

  set     stored; of several changes in a row earlier ones may be left out
  touch   another expiry           delete  removed
  expire  its time was over        evict   gone for want of room
  flush   everything is gone       lost    this program was too slow; it reads all anew
"""
_EXAMPLES = f"""\
A source is a table of this host by its name, HOST:PORT of a daemon, or the path of
its UNIX socket (with a /; channel:PATH is a channel to it). The table needs a feed:
--feed of the daemon, feed= of open(); it has one unless that was switched off.

exit status: 0 ended by Ctrl-C or --count, 1 no such source, 2 wrong usage

examples:
  {PROGRAM} mirror app
  {PROGRAM} mirror --all 127.0.0.1:11211
  {PROGRAM} mirror --json /run/cache.sock | jq -r 'select(.kind == "evict") | .key'
  {PROGRAM} mirror --count 1 app
"""
_WAITING_BYTES = 16 << 20  # of changes that wait for a slow reader, before the mirror waits as well
_CHANGE_BYTES = 512  # what a change takes besides its key and value
_LOOK_S = 0.1  # between two looks whether it should go on
_COUNT_MAX = 1 << 62


def main(words: Sequence[str]) -> int:
    """Print changes until Ctrl-C, or so many. 0; MemcacheError when there is no such source."""
    parser = Parser(f"{PROGRAM} mirror", _HELP, _EXAMPLES)
    parser.add_argument("source", metavar="NAME|HOST:PORT|SOCKET", help="a path with a / is a socket, channel:PATH a channel")
    parser.add_argument("--all", action="store_true", help="print the items that it starts with, too")
    parser.add_argument("--count", type=whole(1, _COUNT_MAX), metavar="N", help="end after N lines")
    parser.add_argument("--json", action="store_true", help="one JSON object a line; *_base64 where bytes are no UTF-8")
    space = parser.parse_args(words)
    if sys.stdout is None:
        raise MemcacheError("standard output is closed, and that is where the changes would be printed")
    connect = opener(space.source)
    handler = signal.signal(signal.SIGINT, signal.default_int_handler)  # an end in order, whatever the program's start set
    logging.basicConfig(format=f"{PROGRAM}: %(message)s")
    try:
        _print(Following(connect, space.all), space)
    except KeyboardInterrupt:
        pass
    except TableNotFoundError as problem:
        raise MemcacheError(f"{str(problem).partition(';')[0]}; '{PROGRAM} ls' shows what there is") from None
    finally:
        signal.signal(signal.SIGINT, handler)
    return EXIT_OK


class Waiting:
    """Changes that wait for their reader, each with its time: bounded by their bytes, since a value may have many."""

    def __init__(self) -> None:
        self._entries: deque[tuple[float, Change]] = deque()
        self._bytes = 0
        self._moved = threading.Condition()

    def put(self, entry: tuple[float, Change], limit_s: float) -> bool:
        """Whether there was room within the limit; for one, however long, if nothing else waits."""
        size = self._size(entry[1])
        with self._moved:
            if not self._moved.wait_for(lambda: not self._entries or self._bytes + size <= _WAITING_BYTES, limit_s):
                return False
            self._entries.append(entry)
            self._bytes += size
            self._moved.notify_all()
        return True

    def get(self, limit_s: float) -> tuple[float, Change] | None:
        """The next one; None when none came within the limit."""
        with self._moved:
            if not self._moved.wait_for(lambda: self._entries, limit_s):
                return None
            entry = self._entries.popleft()
            self._bytes -= self._size(entry[1])
            self._moved.notify_all()
        return entry

    @staticmethod
    def _size(change: Change) -> int:
        return _CHANGE_BYTES + len(change.key or b"") + len(change.value or b"")


class Following:
    """Changes handed from the mirror's thread to the one that prints: a reader that is slow makes the mirror wait, and miss something,
    rather than grow."""

    def __init__(self, connect: Callable[[], Stream], initial: bool) -> None:
        self._changes = Waiting()
        self._over = threading.Event()
        self._keeper = Keeper(connect, self._put, initial)
        self._started = False

    def _put(self, change: Change) -> None:
        entry = time.time(), change
        while not self._over.is_set() and not self._changes.put(entry, _LOOK_S):
            pass

    def __iter__(self) -> Iterator[tuple[float, Change]]:
        """Time and change, without an end. Raises why the source could not be followed at all."""
        try:
            while True:
                entry = self._changes.get(_LOOK_S)
                if entry is None:
                    self._check_start()
                else:
                    yield entry
        finally:
            self._over.set()
            self._keeper.end()
            self._keeper.join(1.0)

    def _check_start(self) -> None:
        if self._started or not self._keeper.settled.is_set():
            return
        problem = self._keeper.problem
        if problem is not None and not self._keeper.complete:
            raise problem
        self._started = True
        if sys.stderr is not None and sys.stderr.isatty():
            note(f"{plural(len(self._keeper.mirrored.items), 'item')}; changes follow, Ctrl-C ends")


def _print(changes: Following, space: argparse.Namespace) -> None:
    columns = shutil.get_terminal_size().columns if sys.stdout.isatty() else None
    for number, (at_s, change) in enumerate(changes, 1):
        if space.json:
            line = json.dumps(change_object(change, at_s))
        else:
            line = change_line(change, at_s, sys.stdout.encoding, columns, lambda text, code: paint(text, code, sys.stdout))
        print(line, flush=True)
        if number == space.count:
            break
