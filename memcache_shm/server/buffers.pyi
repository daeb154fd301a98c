"""Byte buffers of a worker; used from Cython."""

class Pool:
    """Gives and takes back buffers whose sizes are powers of two."""
