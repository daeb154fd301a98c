"""The daemon's connections, as `stats conns` and the event log name them."""

class Roster:
    """Made before the fork."""

    size: int

    def __init__(self, size: int, first: int) -> None:
        """So many seats; the first one's number."""
    def forget(self, which: int) -> None:
        """For the supervisor, when a worker is gone: so are its connections."""
    def seated(self) -> list[tuple[int, int, str, int, int, bool, str, int]]:
        """Of each connection: number, family, host, port, listener, whether it has a channel, state, seconds since its last request."""
