"""What a daemon is told before it starts: plain data, filled by the command line, read by the supervisor."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from memcache_shm.server.companions import Companion
from memcache_shm.server.credentials import Credentials
from memcache_shm.server.listeners import Address, Listener
from memcache_shm.server.saves import SaveFigures
from memcache_shm.server.tls import TlsOptions
from memcache_shm.storage.table import Table


def _ignore_addresses(addresses: Sequence[Address]) -> None:
    """Nobody asked to be told."""


def _ignore_end(insists: Callable[[], bool]) -> None:
    """Nothing is to be done."""


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
    #: All memory stays in RAM (``-k``).
    lock_memory: bool = False
    #: Standard streams end once a process serves (``-d``).
    leave_streams: bool = False
    #: Called once with the bound addresses, when every worker serves.
    on_start: Callable[[Sequence[Address]], None] = _ignore_addresses
    #: Of the listeners: connections that the kernel holds until they are accepted (``-b``).
    backlog: int = 1024
    #: Above ``max_connections``: True: "ERROR Too many open connections"; False: clients wait in the backlog.
    maxconns_fast: bool = True
    #: Access mask of the UNIX socket (``-a``).
    unix_mask: int = 0o700
    #: Whether the commands may be used: flush_all (``-F``), the dumps of keys (``-X``), watch (``-W``), shutdown (``-A``), debugtime.
    allow_flush: bool = True
    allow_dump: bool = True
    allow_watch: bool = True
    allow_shutdown: bool = False
    allow_debugtime: bool = False
    #: False: items have no CAS id for classic commands (``-C``).
    use_cas: bool = True
    #: Ends a key's prefix in ``stats detail`` (``-D``), which is on from the start with ``detail``.
    prefix_delimiter: str = ":"
    detail: bool = False
    #: ``stats sizes`` counts (``-o track_sizes``).
    track_sizes: bool = False
    #: Clients over rings in shared memory at a time (``--channels``); 0: none.
    channels: int = 256
    #: Of all buffers for requests that are not complete and replies that are not taken; whoever needs more is closed
    #: (``-o read_buf_mem_limit``).
    buffer_limit_bytes: int = 256 << 20
    #: A connection without a request for so many seconds is closed; 0: never.
    idle_timeout_s: int = 0
    #: Requests of one connection a turn (``-R``).
    requests_per_event: int = 500
    #: Users and passwords of the ASCII authentication (``-Y``); empty: none is asked for.
    auth_file: str = ""
    #: None: no listener speaks TLS (``-Z``).
    tls: TlsOptions | None = None
    #: What the two say, read while it could be.
    credentials: Credentials = field(default_factory=Credentials)
    #: A worker without a sign of life for so long is reported, after the same time again aborted, then killed; 0: never.
    stuck_s: float = 10.0
    #: What the command backup does with the name of a file, in a child of the worker: its result is the reply, a line without its
    #: end. None: it is not allowed (no ``--backup-dir``).
    back_up: Callable[[str], str] | None = None
    #: What a companion tells of the table's being saved (``--save``).
    saves: SaveFigures | None = None
    #: Called once at a graceful end, when no child is left; its argument tells whether a further signal asks to stop at once.
    on_end: Callable[[Callable[[], bool]], None] = _ignore_end
    #: Children besides the workers.
    companions: Sequence[Companion] = ()
    #: A graceful stop waits this long for replies that slow clients still have to take.
    drain_s: float = 5.0
