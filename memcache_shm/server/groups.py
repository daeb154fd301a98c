"""The groups of ``stats`` that memcached has for its slab classes, connections and prefixes.

Each function makes the lines of one group of what it is given; ``stats.py`` prints them. All items are in one class, number 1; what
memcached counts for its LRU segments, slab pages and automover is 0 here.
"""

from __future__ import annotations

import random
import socket
from collections.abc import Iterator, Mapping, Sequence

from memcache_shm.server.listeners import Address
from memcache_shm.server.prefixes import Prefixes
from memcache_shm.server.roster import Roster
from memcache_shm.storage.occupancy import free_space
from memcache_shm.storage.table import Table
from memcache_shm.storage.walk import oldest_idle_s

Figures = Mapping[str, int]
Lines = Iterator[tuple[str, object]]

#: Items that `age` is an estimate from.
_SAMPLE = 1024
#: memcached's figures of a class, in its order; those that are not worked out are 0.
_ITEM_FIGURES = (
    *("number", "number_hot", "number_warm", "number_cold", "age_hot", "age_warm", "age", "mem_requested"),
    *("evicted", "evicted_nonzero", "evicted_time", "outofmemory", "tailrepairs", "reclaimed"),
    *("expired_unfetched", "evicted_unfetched", "evicted_active", "crawler_reclaimed", "crawler_items_checked", "lrutail_reflocked"),
    *("moves_to_cold", "moves_to_warm", "moves_within_lru", "direct_reclaims"),
    *("hits_to_hot", "hits_to_warm", "hits_to_cold", "hits_to_temp"),
)
#: Of these, those that the daemon counts under the same name.
_ITEM_COUNTERS = ("reclaimed", "expired_unfetched", "evicted_unfetched", "crawler_reclaimed", "crawler_items_checked")


def item_lines(figures: Figures, table: Table) -> Lines:
    """``stats items``: nothing while there are no items, as in memcached.

    `number_hot` are the items that were not asked for again yet, `number_warm` those that were (eviction's new and proven ones). `age` is
    how long the longest unused of about a thousand items has not been asked for, in steps of 64 s.
    """
    number = figures["curr_items"]
    if not number:
        return
    hot = min(figures["shm_new_records"], number)
    values = dict.fromkeys(_ITEM_FIGURES, 0) | {
        "number": number,
        "number_hot": hot,
        "number_warm": number - hot,
        "age": oldest_idle_s(table, random.random(), _SAMPLE),
        "mem_requested": figures["bytes"],
        "evicted": figures["evictions"],
        "outofmemory": figures["store_no_memory"],
        "direct_reclaims": figures["evictions"],
        "hits_to_warm": figures["get_hits"],
    }
    values |= {name: figures[name] for name in _ITEM_COUNTERS}
    for name, value in values.items():
        yield f"items:1:{name}", value


def slab_lines(figures: Figures, table: Table) -> Lines:
    """``stats slabs``: the arena as one page whose chunks are granules (with elements: their places)."""
    chunk = table.geometry.plan.records.granule_bytes
    total = figures["shm_arena_bytes"] // chunk
    free = min(free_space(table)["shm_free_bytes"] // chunk, total)
    values = {
        "chunk_size": chunk,
        "chunks_per_page": total,
        "total_pages": 1,
        "total_chunks": total,
        "used_chunks": total - free,
        "free_chunks": free,
        "free_chunks_end": 0,
        "mem_requested": figures["bytes"],
    }
    names = ("get_hits", "cmd_set", "delete_hits", "incr_hits", "decr_hits", "cas_hits", "cas_badval", "touch_hits")
    values |= {name: figures[name] for name in names}
    for name, value in values.items():
        yield f"1:{name}", value
    yield "active_slabs", 1
    yield "total_malloced", figures["limit_maxbytes"]


def connection_lines(roster: Roster, addresses: Sequence[Address], uptime_s: int) -> Lines:
    """``stats conns``: the listeners and all workers' connections, by numbers that are unique in the daemon."""
    for number, address in enumerate(addresses):
        yield f"{number}:addr", _door(address)
        yield f"{number}:state", "conn_listening"
        yield f"{number}:secs_since_last_cmd", uptime_s
    for number, family, host, port, listener, channel, state, idle_s in roster.seated():
        door = _door(addresses[listener]) if listener < len(addresses) else "unknown"
        yield f"{number}:addr", f"channel:{addresses[listener].path}" if channel else _peer(family, host, port, door)
        yield f"{number}:listen_addr", door
        yield f"{number}:state", state
        yield f"{number}:secs_since_last_cmd", idle_s


def _door(address: Address) -> str:
    if address.path:
        return f"unix:{address.path}"
    return f"tcp6:[{address.host}]:{address.port}" if ":" in address.host else f"tcp:{address.host}:{address.port}"


def _peer(family: int, host: str, port: int, door: str) -> str:
    """A UNIX socket's client has no address of its own."""
    if family == socket.AF_INET6:
        return f"tcp6:[{host}]:{port}"
    return f"tcp:{host}:{port}" if family == socket.AF_INET else door


def prefix_lines(prefixes: Prefixes) -> bytes:
    """``stats detail dump``, without its END."""
    return b"".join(b"PREFIX %b get %d hit %d set %d del %d\r\n" % (name, *counts) for name, counts in prefixes.counts().items())
