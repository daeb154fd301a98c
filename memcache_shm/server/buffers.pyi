"""Byte buffers of a worker; used from Cython."""

class Pool:
    """Gives and takes back buffers whose sizes are powers of two."""

    def __init__(self, most: int) -> None:
        """At most so many bytes are handed out at a time."""
