"""`memcache-shm ls` and `memcache-shm rm`."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict

from memcache_shm.cli.arguments import Parser, table_name
from memcache_shm.cli.messages import EXIT_FAILURE, EXIT_OK, PROGRAM, error, paint
from memcache_shm.client.api import unlink
from memcache_shm.client.listing import TableInfo, list_tables
from memcache_shm.errors import MemcacheError
from memcache_shm.ops.quoting import harmless

_COLUMNS = ("NAME", "STATE", "PID", "ITEMS", "FILL", "CREATED", "GEOMETRY")
_STATES = """\
states:
  served       a daemon has it
  open         made by memcache_shm.open(); needs no daemon
  kept         its daemon ended with --keep
  left behind  its daemon was killed; the next start with the same name takes it over
  unfinished   being made this moment, or its maker was killed; the next start, open() or 'rm' clears it
  gone         removed from outside (ipcrm, logout); only the name is left
  ..., follows a copy of another daemon's table (--follow); 'promote' makes it independent

SOCKET, where a daemon has one (-s PATH), is what 'client' and other clients connect to.
"""


def ls(words: Sequence[str]) -> int:
    """List the tables. 0, also when there are none."""
    parser = Parser(f"{PROGRAM} ls", "List your tables, and root's where you may read them.", _STATES)
    parser.add_argument("--json", action="store_true", help="one JSON array instead of a table")
    as_json = parser.parse_args(words).json
    tables = list_tables()
    if as_json:
        print(json.dumps([asdict(table) for table in tables], indent=1))
    elif tables:
        rows = [_COLUMNS, *(_row(table) for table in tables)]
        if any(table.socket for table in tables):
            sockets = (harmless(table.socket, sys.stdout.encoding) or "-" for table in tables)
            rows = [(*row, cell) for row, cell in zip(rows, ("SOCKET", *sockets), strict=True)]
        _print_rows(rows)
    return EXIT_OK


def _row(table: TableInfo) -> tuple[str, ...]:
    return (
        table.name,
        f"{table.state}, follows" if table.follows else table.state,
        "-" if table.pid is None else str(table.pid),
        "-" if table.items is None else str(table.items),
        "-" if table.fill is None else f"{table.fill:.0%}",
        time.strftime("%Y-%m-%d %H:%M", time.localtime(table.created)),
        table.geometry,
    )


def _print_rows(rows: Sequence[Sequence[str]]) -> None:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for number, row in enumerate(rows):
        line = "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        print(line if number else paint(line, "1", sys.stdout))


def rm(words: Sequence[str]) -> int:
    """Remove tables by name; 1 when one could not be removed, the others are."""
    parser = Parser(
        f"{PROGRAM} rm",
        "Remove tables and all that is in them. One that a daemon serves is refused: stop the daemon.",
        f"example:\n  {PROGRAM} rm app memcache_shm-11211\n",
    )
    parser.add_argument("names", nargs="+", metavar="NAME", type=table_name, help=f"as '{PROGRAM} ls' shows it")
    status = EXIT_OK
    for name in parser.parse_args(words).names:
        try:
            unlink(name)
        except (MemcacheError, PermissionError) as problem:
            error(str(problem))
            status = EXIT_FAILURE
    return status
