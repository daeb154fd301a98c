"""Counts by the keys' prefixes, for `stats detail`."""

class Prefixes:
    """Made before the fork."""

    def __init__(self, delimiter: str) -> None:
        """The delimiter is one byte."""
    def clear(self) -> None:
        """Forget all. What is counted at this very moment may be lost."""
    def counts(self) -> dict[bytes, tuple[int, int, int, int]]:
        """Of each prefix: get, hit, set, del."""
