"""The language of job files: a line of bytes becomes a command. Pure; running them is `jobs`.

    WRITE [(key,value)(key,value)]    READ [key,key]    DELETE [key,key]    SHOW    WAIT <ms>    BACKUP    HELP

Keys and values are any bytes but ``( ) [ ] ,`` and the line feed, blanks too; those around a command, its brackets and its pairs do not
count, nor those behind a comma between keys. A blank behind the comma of a pair is the value's.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import NamedTuple

HELP = """\
  WRITE [(key,value)(key,value)]  store values
  READ [key,key]                  print the pairs, KVSERROR where there is no such key
  DELETE [key,key]                remove keys; print those that are missing, with KVSMISSING
  SHOW                            print all pairs, sorted by key
  WAIT <milliseconds>             print "Waiting...", and wait
  BACKUP                          write all pairs to a file JOB-N.bck; the job goes on at once
  HELP                            print this list on standard output
  # text                          a comment
"""
_BLANKS = b" \t\r\n\v\f"
_COMMAND = re.compile(rb"([A-Z]+)[ \t]*(.*)", re.DOTALL)
_PAIR = re.compile(rb"[ \t]*\(([^()\[\],\n]+),([^()\[\],\n]*)\)[ \t]*")
_RESERVED = b"()[]\n"
_MILLISECONDS = re.compile(rb"[0-9]{1,12}")  # more are no time that a computer can wait


class InvalidLineError(ValueError):
    """The line is no command; whoever wrote the job file corrects it."""


class Write(NamedTuple):
    """Store these; of two values for one key the last one stays."""

    pairs: list[tuple[bytes, bytes]]


class Read(NamedTuple):
    """Print the values of these keys."""

    keys: list[bytes]


class Delete(NamedTuple):
    """Remove these keys."""

    keys: list[bytes]


class Show(NamedTuple):
    """Print everything."""


class Wait(NamedTuple):
    """Do nothing for so long."""

    ms: int


class Backup(NamedTuple):
    """Write everything to a file."""


class Help(NamedTuple):
    """Print what commands there are."""


Command = Write | Read | Delete | Show | Wait | Backup | Help


def parse(line: bytes) -> Command | None:
    """The command of a line, keys in alphabetical order (that of bytes); None for a blank line or a comment. InvalidLineError."""
    line = line.strip(_BLANKS)
    if not line or line.startswith(b"#"):
        return None
    match = _COMMAND.fullmatch(line)
    if match is None or match[1] not in _PARSERS:
        raise InvalidLineError
    return _PARSERS[match[1]](match[2])


def _write(rest: bytes) -> Write:
    body = _within_brackets(rest)
    pairs = []
    at = 0
    while at < len(body):
        match = _PAIR.match(body, at)
        if match is None:
            raise InvalidLineError
        pairs.append((match[1], match[2]))
        at = match.end()
    if not pairs:
        raise InvalidLineError
    return Write(sorted(pairs, key=lambda pair: pair[0]))


def _keys(rest: bytes) -> list[bytes]:
    body = _within_brackets(rest)
    first, *others = body.split(b",")
    keys = [first, *(key.lstrip(b" \t") for key in others)]
    if body.translate(None, _RESERVED) != body or not all(keys):
        raise InvalidLineError
    return sorted(keys)


def _within_brackets(rest: bytes) -> bytes:
    if len(rest) < 2 or not rest.startswith(b"[") or not rest.endswith(b"]"):
        raise InvalidLineError
    return rest[1:-1]


def _wait(rest: bytes) -> Wait:
    if _MILLISECONDS.fullmatch(rest) is None:
        raise InvalidLineError
    return Wait(int(rest))


def _alone(command: Command) -> Callable[[bytes], Command]:
    """The parser of a command that nothing follows."""

    def parse_rest(rest: bytes) -> Command:
        if rest:
            raise InvalidLineError
        return command

    return parse_rest


_PARSERS: dict[bytes, Callable[[bytes], Command]] = {
    b"WRITE": _write,
    b"READ": lambda rest: Read(_keys(rest)),
    b"DELETE": lambda rest: Delete(_keys(rest)),
    b"SHOW": _alone(Show()),
    b"WAIT": _wait,
    b"BACKUP": _alone(Backup()),
    b"HELP": _alone(Help()),
}
