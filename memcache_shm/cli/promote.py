"""`memcache-shm promote`: make a follower independent."""

from __future__ import annotations

from collections.abc import Sequence

from memcache_shm.cli.arguments import Parser, table_name
from memcache_shm.cli.attaching import attach_named
from memcache_shm.cli.messages import EXIT_OK, PROGRAM, plural
from memcache_shm.errors import MemcacheError
from memcache_shm.storage import following

_HELP = """\
Make a table independent that follows another ('--follow'): it takes writes from now
on, and its daemon stops following for good. Connections and attached programs stay.

What was written to the leader and had not come yet is missing: 'stats shm' tells how
far behind the table is (follow_lag_ms). CAS ids go on above all that came. With
'--follow-writable' there is nothing to promote: start that daemon without --follow.
"""
_EXAMPLES = f"""\
Take --follow out of the daemon's command line, too: its next start would follow again.

example:
  {PROGRAM} promote memcache_shm-11212
"""


def main(words: Sequence[str]) -> int:
    """Promote one table and say so in one line; MemcacheError when it does not follow."""
    parser = Parser(f"{PROGRAM} promote", _HELP, _EXAMPLES)
    parser.add_argument("name", metavar="NAME", type=table_name, help=f"as '{PROGRAM} ls' shows it")
    name = parser.parse_args(words).name
    with attach_named(name, False, f"no right to write to table {name!r}") as cache:
        table = cache.attached_table
        figures = following.figures(table)
        if not table.follows:
            raise MemcacheError(f"table {name!r} {_no_copy(figures)}")
        lag_ms = figures["follow_lag_ms"]
        highest = following.promote_table(table)
        print(f"{name} is independent with {plural(len(table), 'item')}, {_state(lag_ms)}; CAS ids go on above {highest}")
    return EXIT_OK


def _no_copy(figures: dict[str, int]) -> str:
    """Why there is nothing to promote. Without a connection just now the table does not tell whether its daemon follows."""
    writably = "takes writes as it follows another (--follow-writable); to end that start its daemon without --follow"
    if figures["follow_connected"]:
        return writably
    return f"follows no other ('{PROGRAM} ls' shows which do), or {writably}"


def _state(lag_ms: int) -> str:
    return "never in step with its leader: items are missing" if lag_ms < 0 else f"in step with its leader {lag_ms / 1000:.1f} s ago"
