"""`memcache-shm console`: a session with a table, on a terminal or in a pipe."""

from __future__ import annotations

import shutil
import signal
import sys
from collections.abc import Iterator, Sequence

from memcache_shm.cli.arguments import Parser
from memcache_shm.cli.messages import EXIT_FAILURE, EXIT_OK, PROGRAM, UsageError, error, paint, plural
from memcache_shm.client.addresses import DEFAULT_PORT
from memcache_shm.client.listing import list_tables
from memcache_shm.client.remote import DEFAULT_TIMEOUT_S
from memcache_shm.client.tables import AnyTable, open_table
from memcache_shm.errors import MemcacheError, TableNotFoundError
from memcache_shm.ops.console import Console, Face
from memcache_shm.ops.console_help import overview
from memcache_shm.ops.editing import Editor, history_path
from memcache_shm.ops.paging import Pager

_HELP = f"""\
Look at a table and change it, by hand or from a script: a table of this host by its
name, or any memcached behind a socket. Without a target it is the only table there
is, or memcache_shm-{DEFAULT_PORT}.

{overview()}
On a terminal TAB completes commands and keys, and the history is kept in
$XDG_STATE_HOME/{PROGRAM}/console_history (~/.local/state/...), for your eyes only.
In a pipe there is no prompt, and nothing is cut; errors have the line's number.
"""
_EXAMPLES = f"""\
exit status: 0 done, 1 a command from a pipe failed or there is no such table, 2 wrong usage

examples:
  {PROGRAM} console app
  {PROGRAM} console 127.0.0.1:11211
  {PROGRAM} console /run/cache.sock
  printf 'ADD a 1\\nFIND a\\n' | {PROGRAM} console app
  echo SHOW user: | {PROGRAM} console app | wc -l
"""
_TIMEOUT_MOST_S = 86400
_GONE = "gone"  # state of a table that cannot be looked at, as `ls` shows it
_UNFINISHED = "unfinished"


def main(words: Sequence[str]) -> int:
    """Run a session. 0; 1 when there is no such table, or a command that came from a pipe failed."""
    parser = Parser(f"{PROGRAM} console", _HELP, _EXAMPLES)
    parser.add_argument("target", nargs="?", metavar="NAME|HOST:PORT|SOCKET", help="a path with a / is a socket, channel:PATH a channel")
    parser.add_argument(
        "--timeout", type=float, default=DEFAULT_TIMEOUT_S, metavar="SECONDS", help="how long to wait for a server (default 5)"
    )
    space = parser.parse_args(words)
    if not 0 < space.timeout <= _TIMEOUT_MOST_S:
        raise UsageError(f"--timeout: must be more than 0 and at most {_TIMEOUT_MOST_S}, not {space.timeout:g}")
    if sys.stdin is None or sys.stdout is None:  # '<&-', '>&-'
        raise MemcacheError(f"standard {'input' if sys.stdin is None else 'output'} is closed; a console needs both")
    table = _open(space.target or _only_table(), space.timeout)
    try:
        if sys.stdin.isatty() and sys.stdout.isatty():
            _interact(table)
            return EXIT_OK
        return EXIT_OK if _run(table) else EXIT_FAILURE
    finally:
        table.close()


def _open(target: str, timeout_s: float) -> AnyTable:
    try:
        return open_table(target, timeout_s)
    except TableNotFoundError as problem:
        raise MemcacheError(f"{str(problem).partition(';')[0]}; '{PROGRAM} ls' shows what there is") from None
    except PermissionError:
        raise MemcacheError(f"no right to read table {target!r}; run it as the table's owner") from None


def _only_table() -> str:
    """The table that is meant when none is named."""
    names = [table.name for table in list_tables() if table.state not in (_GONE, _UNFINISHED)]
    usual = f"memcache_shm-{DEFAULT_PORT}"
    if not names:
        raise MemcacheError("there is no table on this host; start a daemon, or name a server: HOST:PORT or a socket's path")
    if len(names) > 1 and usual not in names:
        raise UsageError(f"which table? There are {', '.join(names)} ('{PROGRAM} console --help' explains)")
    return names[0] if len(names) == 1 else usual


def _interact(table: AnyTable) -> None:
    signal.signal(signal.SIGINT, signal.default_int_handler)  # Ctrl-C ends a line or a command here, not the program
    sys.stdin.reconfigure(errors="surrogateescape")  # type: ignore[union-attr]  # a text stream, whatever its annotation says
    face = Face(
        sys.stdout,
        lambda message: print(f"{paint('error:', '31', sys.stderr)} {message}", file=sys.stderr),
        lambda text, code: paint(text, code, sys.stdout),
        lambda: shutil.get_terminal_size().columns,
        Pager(sys.stdin, sys.stdout, lambda text, code: paint(text, code, sys.stdout)),
    )
    console = Console(table, face)
    print(f"{table.name}: {plural(table.count(), 'item')}. HELP tells the commands, TAB completes, Ctrl-D ends.")
    console.interact(Editor(console.complete, history_path(PROGRAM)))


def _run(table: AnyTable) -> bool:
    """Carry out the commands of standard input; whether all did what they say."""
    number = 0

    def numbered() -> Iterator[bytes]:
        nonlocal number
        for number, line in enumerate(sys.stdin.buffer, 1):  # noqa: B007
            yield line

    face = Face(sys.stdout, lambda message: error(f"line {number}: {message}"), lambda text, code: paint(text, code, sys.stdout))
    return Console(table, face).run(numbered())
