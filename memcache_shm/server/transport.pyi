"""The seam between connections and sockets; used from Cython."""

from collections.abc import Iterable
from typing import final

from memcache_shm.server.credentials import Credentials
from memcache_shm.server.executor import Executor

@final
class Transport:
    """Receives and sends for one worker's connections, in plain text or by TLS."""

    def __init__(self, executor: Executor, credentials: Credentials, tls: Iterable[bool]) -> None:
        """``tls``: of each listener, whether its connections begin with a handshake."""
