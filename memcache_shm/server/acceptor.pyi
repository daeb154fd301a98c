"""The supervisor's accept loop."""

from collections.abc import Sequence

from memcache_shm.server.counters import Counters

class Acceptor:
    """Takes connections in batches and hands each to the worker with the fewest."""

    def __init__(self, counters: Counters, listeners: Sequence[int], wake: int, max_connections: int, refuses: bool = True) -> None:
        """``refuses``: what comes above ``max_connections`` is told so and closed; else it waits in the backlog."""
    def set_link(self, which: int, fd: int) -> None:
        """The supervisor's end of a worker's link; -1 for a worker that is gone."""
    def avoid(self, which: int, avoided: bool) -> None:
        """Whether new connections go to others than that worker."""
    def run(self, timeout_ms: int = -1) -> None:
        """Accept until the wake descriptor is readable, a worker came up or went, or the time is over. Raises OSError."""
