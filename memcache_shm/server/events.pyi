"""What clients may watch: a log of events that supervisor and workers share."""

class Events:
    """Made before the fork."""

    workers: int
    detail: bool
    sizes: bool

    def __init__(self, workers: int) -> None: ...
    def begin(self, which: int) -> None:
        """Before a worker is forked into this place: its predecessor's clients watch no longer."""
    def crawler(self) -> tuple[bool, int, int]:
        """What lru_crawler was told: enabled, sleep in microseconds, tocrawl."""
    def sums(self) -> dict[str, int]:
        """Sums over the workers, by memcached's names."""
