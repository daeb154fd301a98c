"""The parser for Python: tests, fuzzing and tools feed it bytes and look at the requests."""

from typing import Any

class RequestReader:
    """One client's stream: `feed` bytes as they come, in any cutting."""

    closed: bool
    """The stream asked for its end; what is fed now is ignored."""

    def __init__(self, max_value: int = 1048576) -> None: ...
    def feed(self, data: bytes) -> list[tuple[Any, ...]]:
        """The requests and ready replies that these bytes complete, as tuples that start with a name."""
    @property
    def pending(self) -> int:
        """Bytes held back for an incomplete request."""
    @property
    def at_eof(self) -> bytes:
        """The reply that is due if the client closes its side now."""
