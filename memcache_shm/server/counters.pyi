"""Figures of one daemon, shared by supervisor and workers."""

class Counters:
    """Made before the fork; each figure has one writer."""

    workers: int
    verbosity: int

    def __init__(self, workers: int) -> None: ...
    def begin(self, which: int) -> None:
        """Before a worker is forked into this place: its predecessor's connections are gone."""
    def set_pid(self, which: int, pid: int) -> None: ...
    def is_up(self, which: int) -> bool:
        """Whether the worker has reached its loop."""
    def pids(self) -> list[int]: ...
    @property
    def uptime_s(self) -> int:
        """Seconds since these figures were made, at least 1."""
    def sums(self) -> dict[str, int]:
        """Sums over the workers, by memcached's names."""
    def base(self) -> list[int]:
        """The figures of the last `set_base`, padded with 0: they are taken off what `stats` prints."""
    def set_base(self, figures: list[int]) -> None: ...
