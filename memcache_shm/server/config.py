"""What a daemon is told before it starts: plain data, filled by the command line, read by the supervisor."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from memcache_shm.server.listeners import Address, Listener
from memcache_shm.storage.table import Table


def _ignore_addresses(addresses: Sequence[Address]) -> None:
    """Nobody asked to be told."""


def _ignore_stop() -> None:
    """Nobody asked to be told."""


@dataclass(frozen=True)
class ServerConfig:
    """Everything the supervisor needs.

    ``listeners`` (see ``server.listeners``) are bound by the caller, because the table's name is made of the port and
    the table must exist before the workers are forked. ``serve`` closes them and unlinks the socket file.

    ``on_start`` is called once, when every worker serves; ``on_stop`` once, at a graceful end, after the table went.
    """

    table: Table
    listeners: Sequence[Listener] = field(default_factory=list)
    workers: int = 1
    #: Above it a client reads "ERROR Too many open connections" and is closed.
    max_connections: int = 1024
    #: 0 quiet, 1 supervisor's events, 2 workers' too.
    verbosity: int = 0
    #: This daemon made the table (or took over one that a daemon left behind) and removes it at its end.
    owns_table: bool = True
    #: ``--keep``: leave the table even so.
    keep: bool = False
    on_start: Callable[[Sequence[Address]], None] = _ignore_addresses
    on_stop: Callable[[], None] = _ignore_stop
    #: A graceful stop waits this long for replies that slow clients still have to take.
    drain_s: float = 5.0
