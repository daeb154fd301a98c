"""What a daemon is told before it starts: plain data, filled by the command line, read by the supervisor."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from memcache_shm.server.listeners import Address, Listener
from memcache_shm.storage.table import Table


def _ignore_addresses(addresses: Sequence[Address]) -> None:
    """Nobody asked to be told."""


@dataclass(frozen=True)
class ServerConfig:
    """Everything the supervisor needs.

    The caller binds the ``listeners`` (see ``server.listeners``), because the table's name is made of the port and the table
    must exist before the workers are forked; ``serve`` closes them and unlinks the socket file. What becomes of the table
    afterwards is the caller's business too.
    """

    table: Table
    listeners: Sequence[Listener]
    #: Makes a table like ``table`` in its place when that was removed from outside. Raises MemcacheError or OSError.
    renew_table: Callable[[], Table]
    workers: int = 1
    #: Above it a client reads "ERROR Too many open connections" and is closed.
    max_connections: int = 1024
    #: 0 quiet, 1 or more: the supervisor's events.
    verbosity: int = 0
    #: Called once with the bound addresses, when every worker serves.
    on_start: Callable[[Sequence[Address]], None] = _ignore_addresses
    #: A worker without a sign of life for so long is reported, after the same time again aborted, then killed; 0: never.
    stuck_s: float = 10.0
    #: A graceful stop waits this long for replies that slow clients still have to take.
    drain_s: float = 5.0
