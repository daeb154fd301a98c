"""`memcache-shm console`: looking at a table and changing it, by hand or from a script.

The commands know nothing of where the table is (`AnyTable`) nor of where lines come from and go to: `Face` tells what the output can
show. Lines come from a terminal (`interact`) or from anywhere else (`run`); there a failed command is counted.
"""

from __future__ import annotations

import cmd
import re
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import NoReturn, TextIO

from memcache_shm.client.tables import AnyTable, Changes
from memcache_shm.errors import IllegalInputError, MemcacheError
from memcache_shm.ops.console_help import TOPICS, about, overview
from memcache_shm.ops.editing import Editor
from memcache_shm.ops.paging import Pager
from memcache_shm.ops.quoting import harmless, shown_value, shown_word, take_rest, take_word, to_bytes, width
from memcache_shm.ops.telling import change_line

SORTED_MOST = 10_000  # keys that SHOW sorts: what a person may want to look through, and little memory
_AT_ONCE = 64  # values asked for together
_FOUND_LINES = 10  # of a terminal for the value that FIND shows
_LEAST_COLUMNS = 20
_COMPLETED_MOST = 200  # keys offered for completion
_COMPLETION_S = 0.3  # looking for them takes no longer
_KEY_COLOUR = "36"
_BLANKS = " \t"
_PLAIN = re.compile(rb"[^\x00-\x20\x7f]*")  # what a pattern of the feed can have
_BLANK = re.compile("[ \t]")


@dataclass(frozen=True)
class Face:
    """What the console writes to, and how."""

    out: TextIO
    complain: Callable[[str], None]  # one line for what went wrong
    paint: Callable[[str, str], str]  # a text in the colour of an SGR code, where colours are shown
    columns: Callable[[], int] | None = None  # of the terminal; None: no terminal, nothing is cut
    pager: Pager | None = None  # None: nobody to ask for the next page


class Console(cmd.Cmd):
    """A session with one table. A command that fails says so in a line, and the next one tries again."""

    def __init__(self, table: AnyTable, face: Face) -> None:
        super().__init__(stdout=face.out)
        self.table = table
        self.face = face
        self.failed = 0  # commands so far
        self._encoding = face.out.encoding or "ascii"

    # Where lines come from

    def run(self, lines: Iterable[bytes]) -> bool:
        """Carry out all `lines`, or those up to EXIT; whether every command did what it says."""
        for line in lines:
            if self.onecmd(line.decode("utf-8", "surrogateescape").rstrip("\r\n")):
                break
        return not self.failed

    def interact(self, editor: Editor) -> None:
        """Read commands from a terminal until EXIT or Ctrl-D. Ctrl-C leaves the line, or the command that runs."""
        prompt = f"{shown_word(to_bytes(self.table.name), self._encoding)}> "
        while True:
            try:
                if self.onecmd(editor.read(prompt)):
                    return
            except EOFError:
                self._say("")
                return
            except KeyboardInterrupt:
                self._say("")

    def onecmd(self, line: str) -> bool:
        """Carry out one line; whether it was the last one."""
        try:
            return bool(super().onecmd(line))
        except BrokenPipeError:
            raise
        except (MemcacheError, OSError) as problem:
            self.failed += 1
            self.face.complain(harmless(getattr(problem, "strerror", None) or str(problem)))
        finally:
            self.face.out.flush()
        return False

    def parseline(self, line: str) -> tuple[str | None, str | None, str]:
        """(command in small letters, what follows it, the line)."""
        line = line.strip(_BLANKS)
        word = _BLANK.split(line, maxsplit=1)[0]
        return word.lower() or None, line[len(word) :].lstrip(_BLANKS), line

    def emptyline(self) -> bool:
        """An empty line is no command."""
        return False

    def default(self, line: str) -> NoReturn:
        """What is no command."""
        word = shown_value(to_bytes(_BLANK.split(line, maxsplit=1)[0]), self._encoding, _LEAST_COLUMNS)
        raise IllegalInputError(f"unknown command {word}; there are {', '.join(TOPICS).upper()}")

    # The commands

    def do_add(self, rest: str) -> None:
        """ADD <key> [value]"""
        key, value = take_word(to_bytes(rest))
        if not key:
            raise IllegalInputError(f"which key? {TOPICS['add'].usage}")
        self.table.set(key, take_rest(value) if value else key)
        self._say("OK")

    def do_delete(self, rest: str) -> None:
        """DELETE <key>"""
        key = self._one_key("delete", rest)
        if not self.table.delete(key):
            raise MemcacheError(f"no key {self._word(key)}")
        self._say("OK")

    def do_find(self, rest: str) -> None:
        """FIND <key>"""
        key = self._one_key("find", rest)
        value = self.table.get(key)
        if value is None:
            raise MemcacheError(f"no key {self._word(key)}")
        self._say(shown_value(value, self._encoding, None if self.face.columns is None else self.face.columns() * _FOUND_LINES))

    def do_show(self, rest: str) -> None:
        """SHOW [prefix]"""
        prefix, more = _prefix(rest)
        if more:
            raise IllegalInputError(f"one prefix at a time, with blanks in quotes: {TOPICS['show'].usage}")
        keys, total = self._sorted(self.table.keys(prefix))
        bare: list[bytes] = []
        lines = self._lines(keys, bare)
        if self.face.pager is None:
            for line, _ in lines:
                self._say(line)
        else:
            count, complete = self.face.pager.show(lines, total)
            remark = "" if complete else "; there are more" if total is None else f" of {total}"
            self._say(f"{count} item{'' if count == 1 else 's'}{remark}")
        if bare:
            raise MemcacheError(
                f"{len(bare)} shown without the value: the protocol cannot name a long key with blanks or control characters"
            )

    def do_watch(self, rest: str) -> None:
        """WATCH [prefix [count]]"""
        prefix, more = _prefix(rest)
        if more and (not more.isdigit() or int(more) == 0):
            raise IllegalInputError(f"a count is a number from 1 on: {TOPICS['watch'].usage}")
        most = int(more) if more else None
        plain = _PLAIN.match(prefix)
        changes = self.table.watch(plain[0] if plain else b"")
        if self.face.pager is not None:
            self._say("watching; Ctrl-C ends it")
            self.face.out.flush()
        try:
            for line in islice(self._told(changes, prefix), most):
                self._say(line)
                self.face.out.flush()
        finally:
            changes.close()

    def do_flush(self, rest: str) -> None:
        """FLUSH"""
        _nothing("flush", rest)
        self.table.flush_all()
        self._say("OK")

    def do_help(self, arg: str) -> None:
        """HELP [command]"""
        text = about(arg.lower(), SORTED_MOST) if arg else overview()
        if text is None:
            raise IllegalInputError(f"no help for that; there are {', '.join(TOPICS).upper()}")
        self.face.out.write(text)

    def do_exit(self, rest: str) -> bool:
        """EXIT"""
        _nothing("exit", rest)
        return True

    # Completion; readline asks for it with the word before the cursor, which begins at `begin` of the line

    def completenames(self, text: str, *_: object) -> list[str]:
        """Commands, in the letters that were begun with."""
        names = [name if text and text.islower() else name.upper() for name in TOPICS]
        return [name + " " for name in names if name.startswith(text)]

    def complete_help(self, text: str, *_: object) -> list[str]:
        """Commands."""
        return [name.rstrip() for name in self.completenames(text)]

    def completedefault(self, *ignored: object) -> list[str]:
        """Nothing, for commands without a key."""
        return []

    def complete_find(self, text: str, line: str, begin: int, end: int) -> list[str]:
        """Keys of the table; not all, where there are many, and none where it cannot be reached."""
        typed = _BLANK.split(line[:end].lstrip(_BLANKS), maxsplit=1)[-1].lstrip(_BLANKS)
        try:
            before = take_word(to_bytes(typed + '"' if typed.startswith('"') else typed))
            keys = self._keys_for_completion(before[0])
        except (MemcacheError, OSError):
            return []
        if before[1]:
            return []
        words = [self._word(key) for key in keys]
        if typed.startswith('"'):
            words = [word if word.startswith('"') else f'"{word}"' for word in words]
        return sorted(word[len(typed) - len(text) :] + " " for word in words if word.startswith(typed))

    complete_add = complete_delete = complete_show = complete_watch = complete_find

    def _keys_for_completion(self, prefix: bytes) -> list[bytes]:
        end = time.monotonic() + _COMPLETION_S
        found = []
        for key in self.table.keys(b""):
            if key.startswith(prefix):
                found.append(key)
            if len(found) == _COMPLETED_MOST or time.monotonic() > end:
                break
        return found

    # Beneath

    def _say(self, line: str) -> None:
        self.face.out.write(line + "\n")

    def _word(self, key: bytes) -> str:
        return shown_word(key, self._encoding)

    def _one_key(self, command: str, rest: str) -> bytes:
        key, more = take_word(to_bytes(rest))
        if not key:
            raise IllegalInputError(f"which key? {TOPICS[command].usage}")
        if more:
            raise IllegalInputError(f"one key at a time, with blanks in quotes: {TOPICS[command].usage}")
        return key

    def _sorted(self, keys: Iterator[bytes]) -> tuple[Iterator[bytes], int | None]:
        """`keys` in order and their number, if they are few enough; as they come, else."""
        first = list(islice(keys, SORTED_MOST + 1))
        if len(first) <= SORTED_MOST:
            return iter(sorted(first)), len(first)
        return _chain(first, keys), None

    def _lines(self, keys: Iterator[bytes], bare: list[bytes]) -> Iterator[tuple[str, int]]:
        """A line for each key that is still there, and how many columns it takes; the key alone for one that cannot be asked for, which
        is put into `bare`."""
        while some := list(islice(keys, _AT_ONCE)):
            for key, value in zip(some, self.table.values(some), strict=True):
                if value is not None:
                    yield self._line(key, value)
                elif not self.table.can_ask(key):
                    bare.append(key)
                    yield self.face.paint(self._word(key), _KEY_COLOUR), width(self._word(key))

    def _told(self, changes: Changes, prefix: bytes) -> Iterator[str]:
        """A line for each change."""
        for change in changes:
            if change.key is None or change.key.startswith(prefix):
                columns = None if self.face.columns is None else self.face.columns()
                yield change_line(change, time.time(), self._encoding, columns, self.face.paint)

    def _line(self, key: bytes, value: bytes) -> tuple[str, int]:
        word = self._word(key)
        columns = None if self.face.columns is None else max(_LEAST_COLUMNS, self.face.columns() - width(word) - 1)
        shown = shown_value(value, self._encoding, columns)
        return f"{self.face.paint(word, _KEY_COLOUR)} {shown}", width(word) + 1 + (0 if columns is None else width(shown))


def _chain(first: list[bytes], rest: Iterator[bytes]) -> Iterator[bytes]:
    yield from first
    first.clear()
    yield from rest


def _prefix(rest: str) -> tuple[bytes, bytes]:
    """The prefix that a line begins with, and what follows; a * at the end of a word without quotes is not part of it."""
    typed = to_bytes(rest).strip()
    prefix, more = take_word(typed)
    return (prefix if typed.startswith(b'"') else prefix.removesuffix(b"*")), more


def _nothing(command: str, rest: str) -> None:
    if rest:
        raise IllegalInputError(f"{command.upper()} takes no argument")
