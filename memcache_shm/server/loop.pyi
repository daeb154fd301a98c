"""A worker's loop."""

from collections.abc import Callable

from memcache_shm.server.config import ServerConfig
from memcache_shm.server.executor import Executor
from memcache_shm.server.guests import Guests
from memcache_shm.server.transport import Transport

def die_with_parent(signal_number: int) -> None:
    """Ask the kernel for that signal when the parent ends. Raises OSError."""

class WorkerLoop:
    """One epoll for all of a worker's connections."""

    def __init__(
        self,
        config: ServerConfig,
        executor: Executor,
        transport: Transport,
        guests: Guests,
        link: int,
        stop: int,
        renew_table: Callable[[], None],
        reload: Callable[[], None],
    ) -> None:
        """Called between requests, and must not raise: ``renew_table`` when the supervisor has made another table, ``reload`` when files
        are to be read again."""
    def run(self) -> None:
        """Serve until the link ends or ``stop`` becomes readable, then answer what has been read, and return."""
