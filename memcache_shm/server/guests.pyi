"""Clients that have not said who they are; used from Cython."""

from collections.abc import Callable

from memcache_shm.server.executor import Executor

class Guests:
    """Hears what they say until they are let in, and cuts them off when that is too much."""

    def __init__(self, executor: Executor, admits: Callable[[bytes], bool] | None) -> None:
        """``admits`` gets "user password"; None: no client is asked."""
