"""The seam between protocol and storage; its work is done in Cython."""

from collections.abc import Callable
from typing import final

from memcache_shm.server.backups import Backups
from memcache_shm.server.buffers import Pool
from memcache_shm.server.config import ServerConfig
from memcache_shm.server.counters import Counters
from memcache_shm.storage.table import Table

@final
class Executor:
    """Executes the requests of one worker's clients."""

    #: None, as at first: the command backup is not allowed.
    backups: Backups | None

    def __init__(self, config: ServerConfig, pool: Pool, counters: Counters, which: int, stats_text: Callable[[bytes], bytes]) -> None: ...
    def answer(self, requests: bytes) -> bytes:
        """The replies to whole requests of one client, without a connection: for tests and tools."""
    def set_table(self, table: Table) -> None:
        """Another table from the next request on."""
