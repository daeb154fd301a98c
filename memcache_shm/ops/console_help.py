"""What the console's HELP says."""

from __future__ import annotations

from typing import NamedTuple


class Topic(NamedTuple):
    """The help for one command."""

    usage: str
    summary: str
    more: str


TOPICS = {
    "add": Topic(
        "ADD <key> [value]",
        "store a value, in place of an older one",
        """\
The value is the rest of the line; without one the key is its own value. The item has no
flags and does not expire by itself.

  ADD user:1 Alice Cooper
  ADD "key with blanks" value
  ADD bytes "two lines\\n and a byte \\xff"
  ADD empty ""
""",
    ),
    "delete": Topic(
        "DELETE <key>",
        "remove an item",
        """\
It fails when there is no such key.

  DELETE user:1
  DELETE "key with blanks"
""",
    ),
    "find": Topic(
        "FIND <key>",
        "show the value of a key",
        """\
Looking is no use: it does not keep an item from being evicted. On a terminal a long value is cut
and its size told; in a pipe it is whole. What is no printable text has quotes and escapes around
it, as ADD takes them.

  FIND user:1
""",
    ),
    "show": Topic(
        "SHOW [prefix]",
        "list keys and values",
        """\
All of them, or those whose key begins with the prefix; a * at its end changes nothing. They are
sorted by key, unless there are more than {most}: then they come as the table has them.
On a terminal it stops at each page: space shows the next one, q ends. What is changed meanwhile
is shown as it was, or as it is.

  SHOW
  SHOW user:
""",
    ),
    "flush": Topic("FLUSH", "remove everything", "All items of the table go, at once; nobody is asked first.\n"),
    "watch": Topic(
        "WATCH [prefix [count]]",
        "show changes as they happen",
        """\
Every change to keys that begin with the prefix ("" or *: to all), by whomever, until Ctrl-C or until
so many were shown: set, touch, delete, expire, evict and flush. Changes that follow each other
closely may be shown as one, the last one never left out. A line "lost" says that they came too fast and
some were left out; for a table of this host all items follow, as "set", over a socket only what changes
from then on.

  WATCH
  WATCH user: 10
""",
    ),
    "help": Topic("HELP [command]", "this list, or all about one command", "  HELP ADD\n"),
    "exit": Topic("EXIT", "leave; Ctrl-D does the same", "The table stays.\n"),
}

_WORDS = """\
Commands may be written in small letters. A key with blanks or other bytes goes into quotes, where
\\" \\\\ \\n \\r \\t and \\xHH stand for what cannot be typed; what is shown can be typed again.
"""


def overview() -> str:
    """All commands, a line each."""
    width = max(len(topic.usage) for topic in TOPICS.values())
    return "".join(f"  {topic.usage:<{width}}  {topic.summary}\n" for topic in TOPICS.values()) + "\n" + _WORDS


def about(command: str, most: int) -> str | None:
    """All about one; `most` is how many keys SHOW sorts. None: there is no such command."""
    topic = TOPICS.get(command)
    return None if topic is None else f"{topic.usage}: {topic.summary}\n\n{topic.more.replace('{most}', str(most))}"
