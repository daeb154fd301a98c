"""What a listener to the feed of changes is told, and what it asks for."""

from __future__ import annotations

from typing import Any, NamedTuple

from memcache_shm.client import inputs
from memcache_shm.errors import IllegalInputError

EVERYTHING = b"*"


class Change(NamedTuple):
    """One change of a table.

    kind      what it tells
    set       `key` is stored: `value`, `flags`, `exptime`, `cas` as they are now. Of several changes in a row earlier ones may be left out
    touch     `key` has another expiry: `flags`, `exptime`, `cas` as they are now, `value` None
    delete    `key` is gone; `cas` is the number of the version that went
    expire    the same, since its time was over; told when that is noticed
    evict     the same, for want of room
    flush     everything is gone (flush_all)
    lost      what lay between the positions `first` and `last` of the feed was not told (0 and 0: a connection was lost): forget what you
              know of any key. A subscription and a mirror get all that is there anew, by themselves; a stream of `RemoteFeed.subscribe`
              does not

    `exptime` is unix time in whole seconds, 0 for never. `key` is None for flush and lost.
    """

    kind: str
    key: bytes | None
    value: Any = None  # bytes, unless a serde made something else of them
    flags: int = 0
    exptime: int = 0
    cas: int = 0
    first: int = 0
    last: int = 0


# Kinds of the streams that keep a copy in step (`AttachedFeed` and `RemoteFeed.sync`); a subscription is not told these.
SYNCED = "synced"  # the copy is complete; `last` is the position in the feed
ALIVE = "alive"  # all changes up to position `last` were told


def encode_pattern(pattern: object, allow_unicode_keys: bool, key_prefix: bytes) -> bytes:
    """The bytes of a key, or of a prefix with ``*`` at its end. Raises IllegalInputError, TypeError for what is neither str nor bytes."""
    if isinstance(pattern, bytearray | memoryview):
        pattern = bytes(pattern)
    encoded = inputs.encode_key(pattern, allow_unicode_keys, key_prefix)
    key = encoded.removesuffix(EVERYTHING)
    if not key and encoded:
        return encoded
    if not key or len(key) > inputs.KEY_MAX_BYTES or any(byte in b"\0 \t\n\v\f\r" for byte in key):
        inputs.refuse_key(key)
    return encoded


def check_patterns(patterns: tuple[Any, ...]) -> tuple[Any, ...]:
    """`patterns`, or the one for all keys when there are none. A list or a number in place of the patterns is refused."""
    for pattern in patterns:
        if not isinstance(pattern, str | bytes | bytearray | memoryview):
            raise IllegalInputError(f"patterns are keys or prefixes such as 'user:*', as str or bytes, got bad value: {pattern!r}")
    return patterns or ("*",)
