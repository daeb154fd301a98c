"""`memcache-shm client`: operations on a daemon's table from a command line or a pipe, sent one behind the other."""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
from collections.abc import Iterable, Sequence

from memcache_shm.cli.arguments import Parser, table_name
from memcache_shm.cli.messages import EXIT_FAILURE, EXIT_OK, PROGRAM, UsageError, error, paint
from memcache_shm.client.addresses import ChannelAddress, is_table, socket_path, source_address
from memcache_shm.client.listing import socket_of
from memcache_shm.client.remote import DEFAULT_TIMEOUT_S
from memcache_shm.client.wire import Connection
from memcache_shm.errors import MemcacheError, TableNotFoundError
from memcache_shm.ops.operations import STDIN, Operation, Result, of_words
from memcache_shm.ops.pipelining import batches_of, carry_out

_HELP = """\
Insert, read and delete keys of a daemon of this host, over a channel: rings in shared
memory, made through its UNIX socket (-s PATH). Operations are sent one behind the
other, without waiting for the replies, and done in their order; each prints a line.

  insert KEY VALUE   store the value, in place of an older one
  read KEY           print the value
  delete KEY         remove the key
  -                  operations of standard input, one a line, in the same words

In a line, what has blanks or bytes that are no text goes into quotes, with the escapes
\\" \\\\ \\n \\r \\t \\xHH; a VALUE without quotes is all that is left of the line. Keys and
values are printed likewise.
"""
_EXAMPLES = f"""\
ID is the name of a table ('{PROGRAM} ls' shows it), the PORT (-p) of a daemon without
a --name, or the path of a daemon's UNIX socket (with a /; channel:PATH is the same).

exit status: 0 done, also when a key was not found; 1 an operation failed, there is no
daemon, or the connection was lost; 2 wrong usage

examples:
  {PROGRAM} -d -p 11211 -s /tmp/cache.sock    # a daemon, in the background
  {PROGRAM} client 11211 insert 1 2 insert 2 4 read 1 delete 2
  {PROGRAM} client --json /tmp/cache.sock read 1 | jq -r .value
  seq 100000 | sed 's/.*/insert key& &/' | {PROGRAM} client 11211 - read key7
"""


def main(words: Sequence[str]) -> int:
    """Carry out the operations. 0; 1 when one failed. MemcacheError when there is no daemon, or it went away."""
    parser = Parser(f"{PROGRAM} client", _HELP, _EXAMPLES)
    parser.add_argument("--json", action="store_true", help="one JSON object a line; *_base64 where bytes are no UTF-8")
    parser.add_argument("identity", metavar="ID", help="a table's name, a daemon's port, or a socket's path with a /")
    parser.add_argument("operations", metavar="OP...", nargs=argparse.REMAINDER, help="insert KEY VALUE, read KEY, delete KEY, or -")
    space = parser.parse_args(words)
    steps = list(of_words([os.fsencode(word) for word in space.operations]))
    if not steps:
        raise UsageError(f"which operations? insert KEY VALUE, read KEY, delete KEY, or {STDIN} ('{PROGRAM} client --help' explains)")
    if sys.stdout is None or (None in steps and sys.stdin is None):  # '>&-', '<&-'
        raise MemcacheError(f"standard {'output' if sys.stdout is None else 'input'} is closed; it is needed")
    with Connection(ChannelAddress(_path_of(space.identity)), DEFAULT_TIMEOUT_S) as connection:
        return EXIT_OK if _Run(connection, space.json).all(steps) else EXIT_FAILURE


def _path_of(identity: str) -> str:
    """The socket that `identity` means. MemcacheError, UsageError."""
    address = source_address(identity)
    if address is not None:
        path = socket_path(address)
        if path is None:
            raise UsageError(
                f"ID: {identity!r} is no table of this host, and channels lead to no other host; write a table's name, the PORT alone, or"
                " the path of the daemon's socket"
            )
        return path
    named = is_table(identity) or not (identity.isascii() and identity.isdigit())
    try:
        return socket_of(table_name(identity) if named else f"memcache_shm-{int(identity)}")
    except argparse.ArgumentTypeError as problem:
        raise UsageError(f"ID: {problem}") from None
    except TableNotFoundError as problem:
        raise MemcacheError(f"{str(problem).partition(';')[0]}; '{PROGRAM} ls' shows what there is") from None


class _Run:
    """Operations carried out on a connection, and their results printed."""

    def __init__(self, connection: Connection, as_json: bool) -> None:
        self._connection = connection
        self._as_json = as_json
        self._failed = False
        self._columns = shutil.get_terminal_size().columns if sys.stdout.isatty() else None

    def all(self, steps: Iterable[Operation | None]) -> bool:
        """Carry out `steps`, None being those of standard input; whether none failed. RemoteError, once all that is known is printed."""
        given: list[Operation] = []
        for step in steps:
            if step is not None:
                given.append(step)
                continue
            self._batch(given)
            given = []
            for batch in batches_of(sys.stdin.fileno(), self._complain):
                self._batch(batch)
        self._batch(given)
        return not self._failed

    def _batch(self, operations: Sequence[Operation]) -> None:
        """Those that are there together; their results are seen at once."""
        try:
            for result in carry_out(self._connection, operations):
                self._failed |= result.outcome == "failed"
                print(self._line(result))
        finally:
            sys.stdout.flush()

    def _line(self, result: Result) -> str:
        if self._as_json:
            return json.dumps(result.to_object())
        return result.line(sys.stdout.encoding, self._columns, lambda text, code: paint(text, code, sys.stdout))

    def _complain(self, problem: str) -> None:
        self._failed = True
        error(problem)
