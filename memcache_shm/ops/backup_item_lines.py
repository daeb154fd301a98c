"""An item as a JSON object of one line: text as text, what is no UTF-8 in base64 under a name that says so.

    {"key": "user:1", "value": "Alice", "flags": 0, "exptime": 1795678975.125, "cas": 17, "stale": true, "token_sent": true}

`exptime` is unix time in seconds, 0 for never; the marks are there only where they are set. Whoever writes such lines by hand may leave
out all but key and value.
"""

from __future__ import annotations

import base64
import binascii
import json
from typing import Any

from memcache_shm.client.items import KEY_MAX_BYTES, STALE, TOKEN_SENT, Item

_MARKS = {"stale": STALE, "token_sent": TOKEN_SENT}
_KNOWN = {"key", "key_base64", "value", "value_base64", "flags", "exptime", "cas", *_MARKS}
_FLAGS_MOST = (1 << 32) - 1
_CAS_MOST = (1 << 64) - 1
_EXPTIME_MOST_S = 1 << 40
_VALUE_MOST_BYTES = (1 << 31) - 1
_WORDS = 40  # characters of a wrong value that a message quotes


def item_object(item: Item) -> dict[str, Any]:
    """What is written as one line."""
    exptime = item.expires_ms // 1000 if item.expires_ms % 1000 == 0 else item.expires_ms / 1000
    found = _text("key", item.key) | _text("value", item.value)
    found |= {"flags": item.flags, "exptime": exptime, "cas": item.cas}
    return found | {name: True for name, mark in _MARKS.items() if item.state & mark}


def _text(name: str, data: bytes) -> dict[str, Any]:
    try:
        return {name: data.decode()}
    except UnicodeDecodeError:
        return {f"{name}_base64": base64.b64encode(data).decode("ascii")}


def read_item(line: bytes) -> Item:
    """The item of a line. ValueError that goes on a sentence which begins with the line's number."""
    try:
        found = json.loads(line)
    except (ValueError, RecursionError):
        raise ValueError("is no JSON, or not whole") from None
    if not isinstance(found, dict):
        raise ValueError("is no JSON object")
    if unknown := sorted(found.keys() - _KNOWN):
        raise ValueError(f"has a field {unknown[0][:_WORDS]!r}, which no item has")
    key, value = _bytes(found, "key"), _bytes(found, "value")
    if not 1 <= len(key) <= KEY_MAX_BYTES:
        raise ValueError(f"has a key of {len(key)} bytes; 1 to {KEY_MAX_BYTES} are possible")
    if len(value) > _VALUE_MOST_BYTES:
        raise ValueError(f"has a value of {len(value)} bytes, more than any table takes")
    state = sum(mark for name, mark in _MARKS.items() if _mark(found, name))
    return Item(key, value, _whole(found, "flags", _FLAGS_MOST), _expires_ms(found), _whole(found, "cas", _CAS_MOST), state)


def _bytes(found: dict[str, Any], name: str) -> bytes:
    """The bytes of a field that is there as text or as base64."""
    text: Any = found.get(name)
    encoded: Any = found.get(f"{name}_base64")
    if (text is None) == (encoded is None):
        raise ValueError(f"has {'no' if text is None else 'both'} {name}{' or ' if text is None else ' and '}{name}_base64")
    if not isinstance(text if encoded is None else encoded, str):
        raise ValueError(f'has a {name} that is no text; write "{name}": "..."')
    try:
        return text.encode() if text is not None else base64.b64decode(encoded, validate=True)
    except (UnicodeEncodeError, binascii.Error, ValueError):
        raise ValueError(f"has a {name} that is {'no text' if encoded is None else 'no base64'}") from None


def _whole(found: dict[str, Any], name: str, most: int) -> int:
    number = found.get(name, 0)
    if type(number) is not int or not 0 <= number <= most:
        raise ValueError(f"has {name} {repr(number)[:_WORDS]}; a whole number from 0 to {most} is possible")
    return number


def _expires_ms(found: dict[str, Any]) -> int:
    exptime = found.get("exptime", 0)
    if type(exptime) not in (int, float) or not 0 <= exptime <= _EXPTIME_MOST_S:
        raise ValueError(f"has exptime {repr(exptime)[:_WORDS]}; seconds of unix time are possible, or 0 for never")
    return max(round(exptime * 1000), 1) if exptime else 0


def _mark(found: dict[str, Any], name: str) -> bool:
    mark = found.get(name, False)
    if type(mark) is not bool:
        raise ValueError(f"has {name} {repr(mark)[:_WORDS]}; true or false are possible")
    return mark
