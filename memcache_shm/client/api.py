"""How a program comes to a cache object: `open`, `attach`, `connect`; and `unlink`."""

from __future__ import annotations

import os

from memcache_shm.client import inputs
from memcache_shm.client.addresses import lasting_address
from memcache_shm.client.cache import Cache
from memcache_shm.client.handling import Handling
from memcache_shm.client.remote import DEFAULT_TIMEOUT_S
from memcache_shm.client.remote_cache import RemoteCache
from memcache_shm.client.types import Serde
from memcache_shm.client.write_through import WriteThroughCache
from memcache_shm.errors import IllegalInputError
from memcache_shm.storage import registry
from memcache_shm.storage.geometry import Geometry
from memcache_shm.storage.units import DEFAULT_MEMORY_BYTES, default_max_item, parse_size


def open(
    name: str,
    *,
    memory: int | str | None = None,
    max_item: int | str | None = None,
    elements: int | None = None,
    element_size: int | str | None = None,
    mode: int = registry.DEFAULT_MODE,
    evict: bool = True,
    feed: int | str | None = None,
    serde: Serde | None = None,
    key_prefix: str | bytes = b"",
    default_noreply: bool = False,
    allow_unicode_keys: bool = False,
    encoding: str = "ascii",
    ignore_exc: bool = False,
) -> Cache:
    """The table `name`, attached; made when there is none. No daemon is needed.

    Give `memory` (the whole segment in bytes, or with k, m, g; 64 MiB by default) and `max_item` (the largest value; 1 MiB by
    default, at most a quarter of the memory), or `elements` and `element_size` for exactly that many items. An existing table
    must have been made with the same figures (else TableExistsError); give none to take it as it is. `mode` (permission bits)
    and `evict` (False: a full table refuses with NoSpaceError) count when the table is made. `feed` is the memory for the feed of
    changes (0: none; 1/256 of the table's by default). The table outlives the process, until `unlink`. TableRemovedError: its daemon
    lost it to ipcrm or a logout, and is about to make a new one.

    The other arguments are pymemcache's, which see `memcache_shm.client.cache`.
    """
    handling = Handling(serde, key_prefix, default_noreply, allow_unicode_keys, encoding, ignore_exc)
    inputs.check_mode(mode)
    unspecified = memory is max_item is elements is element_size is feed is None
    geometry = _geometry(memory, max_item, elements, element_size, feed)
    table, state = registry.open_or_create(name, geometry, any_geometry=unspecified, mode=mode, evict=evict)
    return Cache(table, name, state.directory, **handling.options)


def attach(
    name: str,
    *,
    readonly: bool = False,
    writes: str | os.PathLike[str] | None = None,
    timeout: float = DEFAULT_TIMEOUT_S,
    user: str | int | None = None,
    serde: Serde | None = None,
    key_prefix: str | bytes = b"",
    default_noreply: bool = False,
    allow_unicode_keys: bool = False,
    encoding: str = "ascii",
    ignore_exc: bool = False,
) -> Cache:
    """The table `name`, which a daemon or `open` made; a daemon's is "memcache_shm-PORT" unless it got a ``--name``.

    Looked for in one's own state directory and in root's, or in that of `user` (name or uid). `readonly` maps it without the
    right to write: reading then needs read permission only. `writes`, the path of the UNIX socket of the daemon that serves it, goes
    with that: changes go through a channel to the daemon, and what was written is read (`memcache_shm.client.write_through`);
    `timeout` is the limit of each wait for it in seconds. The others as for `open`. Raises TableNotFoundError, TableRemovedError,
    LayoutError, PermissionError; with `writes` RemoteError, also where another table is served.
    """
    handling = Handling(serde, key_prefix, default_noreply, allow_unicode_keys, encoding, ignore_exc)
    timeout_s = inputs.check_timeout(timeout)
    path = None if writes is None else inputs.check_socket_path(writes, "writes")
    if path is not None and not readonly:
        raise IllegalInputError("writes goes with readonly=True: who may write to the mapped table needs no daemon for it")
    table, state = registry.attach(name, readonly=readonly, user=user)
    if path is not None:
        return WriteThroughCache(table, state, path, timeout_s, handling)
    return Cache(table, name, state.directory, **handling.options)


def connect(
    address: str | os.PathLike[str],
    *,
    timeout: float = DEFAULT_TIMEOUT_S,
    serde: Serde | None = None,
    key_prefix: str | bytes = b"",
    default_noreply: bool = False,
    allow_unicode_keys: bool = False,
    encoding: str = "ascii",
    ignore_exc: bool = False,
) -> RemoteCache:
    """The table of the daemon, or the memcached, at `address`: "channel:/path/to/socket", "/path/to/socket" (or a path-like object) or
    "HOST:PORT".

    A channel is the fastest, and for daemons of this host; the path is that of the daemon's UNIX socket (``-s``). `timeout` is the limit
    of each wait in seconds. The others as for `open`. Raises RemoteError when nobody answers there, IllegalInputError for what is no
    address.
    """
    handling = Handling(serde, key_prefix, default_noreply, allow_unicode_keys, encoding, ignore_exc)
    if isinstance(address, os.PathLike):
        address = inputs.check_socket_path(address, "address")
    return RemoteCache(lasting_address(address), inputs.check_timeout(timeout), handling)


def unlink(name: str) -> None:
    """Remove the table `name`; who has it attached gets TableRemovedError from then on.

    Raises TableNotFoundError, TableExistsError while a daemon serves it, PermissionError.
    """
    registry.remove(name)


def _geometry(
    memory: int | str | None, max_item: int | str | None, elements: int | None, element_size: int | str | None, feed: int | str | None
) -> Geometry:
    """The geometry meant by open's arguments; IllegalInputError when they do not fit together."""
    try:
        feed_bytes = None if feed is None else parse_size(feed, "feed")
        if elements is None and element_size is None:
            memory_bytes = DEFAULT_MEMORY_BYTES if memory is None else parse_size(memory, "memory")
            max_item_bytes = default_max_item(memory_bytes) if max_item is None else parse_size(max_item, "max_item")
            return Geometry.by_memory(memory_bytes, max_item_bytes, feed_bytes)
        if elements is None or element_size is None:
            raise IllegalInputError("elements and element_size go together; give both")
        if memory is not None or max_item is not None:
            raise IllegalInputError("give either memory and max_item, or elements and element_size")
        count = inputs.check_count(elements, "elements")
        return Geometry.by_elements(count, parse_size(element_size, "element_size"), feed_bytes)
    except ValueError as error:
        raise IllegalInputError(str(error)) from None
