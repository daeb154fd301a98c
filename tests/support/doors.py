"""A worker's executor in this process, without sockets: what memcached's commands do to a table that a test has attached."""

from __future__ import annotations

from memcache_shm.server.buffers import Pool
from memcache_shm.server.config import ServerConfig
from memcache_shm.server.counters import Counters
from memcache_shm.server.executor import Executor
from memcache_shm.storage.table import Table

# Imported for what its import does: the loop brings all handlers.
import memcache_shm.server.loop  # noqa: F401  isort: skip

BUFFERS_MOST_BYTES = 64 << 20


def _no_other_table() -> Table:
    raise AssertionError("nobody removes the table")


def open_door(table: Table) -> Executor:
    """Commands for this table: `open_door(table).answer(b"mg k v\\r\\n")`."""
    config = ServerConfig(table=table, listeners=(), renew_table=_no_other_table)
    return Executor(config, Pool(BUFFERS_MOST_BYTES), Counters(1), 0, lambda group: b"END\r\n")
