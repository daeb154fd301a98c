"""Figures of one daemon, shared by supervisor and workers."""

SUPERVISED: tuple[str, ...]

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
    def beats(self, which: int) -> int:
        """Advances with all a worker does."""
    def lost(self) -> int:
        """Connections that workers could not take for want of descriptors."""
    def pauses(self) -> tuple[int, int]:
        """How often accepting paused for want of descriptors or memory, and the last errno."""
    def note(self, name: str, count: int = 1) -> None:
        """For the supervisor alone: add to one of the figures in ``SUPERVISED``."""
    def succeed(self, shmid: int, semid: int, uuid: str) -> None:
        """For the supervisor alone: that table takes the place of the present one; each worker attaches it in its next round."""
    def successor(self) -> tuple[int, int, str]:
        """What ``succeed`` was told last: shmid, semid, uuid."""
    @property
    def reloads(self) -> int:
        """How often files were asked to be read again."""
    def ask_reload(self) -> None:
        """For the supervisor alone: files named on the command line are to be read again."""
    def pids(self) -> list[int]: ...
    @property
    def uptime_s(self) -> int:
        """Seconds since these figures were made, at least 1."""
    def sums(self) -> dict[str, int]:
        """Sums over the workers, by memcached's names."""
    def base(self) -> list[int]:
        """The figures of the last `set_base`, padded with 0: they are taken off what `stats` prints."""
    def set_base(self, figures: list[int]) -> None: ...
