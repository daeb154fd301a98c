"""A worker's loop."""

from collections.abc import Callable

from memcache_shm.server.executor import Executor

def die_with_parent(signal_number: int) -> None:
    """Ask the kernel for that signal when the parent ends. Raises OSError."""

class WorkerLoop:
    """One epoll for all of a worker's connections."""

    def __init__(self, executor: Executor, channel: int, stop: int, drain_s: float, renew_table: Callable[[], None]) -> None:
        """``renew_table`` is called between requests when the supervisor has made another table; it must not raise."""
    def run(self) -> None:
        """Serve until the channel ends or ``stop`` becomes readable, then answer what has been read, and return."""
