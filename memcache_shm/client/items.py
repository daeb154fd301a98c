"""An item as it is copied from table to table, and its packed form: that of snapshots and backup files.

    0 value bytes (4) | 4 flags (4) | 8 expires_ms (8) | 16 CAS id (8) | 24 key bytes (1) | 25 state (1) | 26 zero (2) | 28 key, value

Little-endian. `memcache_shm.storage.packing` is the same for the core.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import NamedTuple

HEAD = struct.Struct("<IIqQBBH")
STALE = 2  # of Item.state, as in storage/layout.pxd
TOKEN_SENT = 4
KEY_MAX_BYTES = 250
CAS_SANE = (1 << 60) - 1  # a larger id was chosen by a client, as in storage/versions.pxd


class Item(NamedTuple):
    """One item with all that a client can see of it."""

    key: bytes  # 1 to 250 of any kind
    value: bytes
    flags: int  # 32 bits
    expires_ms: int  # unix time, ms; 0 never
    cas: int  # 64 bits; 0: the table that takes it gives it one
    state: int = 0  # STALE, TOKEN_SENT


def higher_cas(highest: int, cas: int) -> int:
    """The higher of two ids, above which later ones are to be; one that only a client can have chosen does not count."""
    return cas if highest < cas <= CAS_SANE else highest


def pack(item: Item) -> bytes:
    """Its packed form. struct.error for what does not fit."""
    head = HEAD.pack(len(item.value), item.flags, item.expires_ms, item.cas, len(item.key), item.state, 0)
    return head + item.key + item.value


def unpack(block: bytes | bytearray | memoryview) -> Iterator[Item]:
    """The items that are packed in `block` one after the other. ValueError where that makes no sense."""
    view = memoryview(block).cast("B")
    at, end = 0, len(view)
    while at < end:
        if end - at < HEAD.size:
            raise ValueError(f"{end - at} bytes are left over at {at}")
        value_bytes, flags, expires_ms, cas, key_bytes, state, zero = HEAD.unpack_from(view, at)
        key_at = at + HEAD.size
        value_at = key_at + key_bytes
        at = value_at + value_bytes
        if not 1 <= key_bytes <= KEY_MAX_BYTES or at > end or state & ~(STALE | TOKEN_SENT) or zero or expires_ms < 0:
            raise ValueError(f"no item at {key_at - HEAD.size}")
        yield Item(bytes(view[key_at:value_at]), bytes(view[value_at:at]), flags, expires_ms, cas, state)
