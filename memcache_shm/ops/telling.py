"""A change of a table as people and programs read it: a line, or an object for JSON."""

from __future__ import annotations

import base64
import time
from collections.abc import Callable
from typing import Any

from memcache_shm.client.changes import Change
from memcache_shm.ops.quoting import shown_value, shown_word, width

_COLOURS = {"set": "32", "touch": "36", "delete": "31", "expire": "33", "evict": "33", "flush": "31", "lost": "35"}  # SGR codes
_KIND_COLUMNS = max(map(len, _COLOURS))
_VALUE_COLUMNS_LEAST = 10
_DAY_S = 86400

Paint = Callable[[str, str], str]  # text and SGR code -> what is printed


def plain(text: str, _code: str) -> str:
    """No colours."""
    return text


def change_line(change: Change, at_s: float, encoding: str, columns: int | None = None, paint: Paint = plain) -> str:
    """One line: time of day, kind, key, value, what flags and expiry it has. The value is cut so that it fits into `columns`, if given."""
    moment = time.strftime("%H:%M:%S", time.localtime(at_s)) + f".{int(at_s * 1000) % 1000:03}"
    head = f"{moment} {change.kind:<{_KIND_COLUMNS}} {_what(change, encoding)}"
    tail = "".join(f"  {remark}" for remark in _remarks(change, at_s))
    value = ""
    if change.kind == "set":
        room = None if columns is None else max(_VALUE_COLUMNS_LEAST, columns - width(head) - width(tail) - 2)
        value = "  " + shown_value(change.value, encoding, room)
    painted = f"{paint(moment, '2')} {paint(f'{change.kind:<{_KIND_COLUMNS}}', _COLOURS.get(change.kind, '0'))}"
    return f"{painted} {_what(change, encoding)}{value}{paint(tail, '2') if tail else ''}".rstrip()


def change_object(change: Change, at_s: float) -> dict[str, Any]:
    """The same for JSON: what is no UTF-8 is in base64, under a name that says so."""
    found: dict[str, Any] = {"time": round(at_s, 6), "kind": change.kind}
    if change.kind == "lost":
        return found | {"first": change.first, "last": change.last}
    if change.key is not None:
        found |= text_field("key", change.key)
    if change.value is not None:
        found |= text_field("value", change.value)
    if change.kind in ("set", "touch"):
        found |= {"flags": change.flags, "exptime": change.exptime}
    return found | ({"cas": change.cas} if change.cas else {})


def _what(change: Change, encoding: str) -> str:
    if change.kind == "lost":
        return f"what came between {change.first} and {change.last} was not told"
    return "everything" if change.key is None else shown_word(change.key, encoding)


def _remarks(change: Change, at_s: float) -> list[str]:
    remarks = [f"flags {change.flags}"] if change.flags else []
    if change.exptime:
        remarks.append(f"until {_moment(change.exptime, at_s)}")
    elif change.kind == "touch":
        remarks.append("for good")
    return remarks


def _moment(exptime: int, at_s: float) -> str:
    """Time of day, and the date where it is not near; a number that is no time, such as a server may tell, as it is."""
    try:
        form = "%H:%M:%S" if exptime - at_s < _DAY_S else "%Y-%m-%d %H:%M:%S"
        return time.strftime(form, time.localtime(exptime))
    except (OverflowError, OSError, ValueError):
        return str(exptime)


def text_field(name: str, data: bytes) -> dict[str, str]:
    """A field of an object for JSON: what is no UTF-8 is in base64, and the name says so."""
    try:
        return {name: data.decode()}
    except UnicodeDecodeError:
        return {f"{name}_base64": base64.b64encode(data).decode("ascii")}
