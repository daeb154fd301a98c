# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""SipHash-1-3 for Python: known-answer tests and offline tools; the C-level inline function is in siphash.pxd."""

from libc.stdint cimport uint64_t


def siphash(key: bytes, data: bytes) -> int:
    """Hash ``data`` under a 16-byte ``key``. ValueError when the key has another length."""
    if len(key) != 16:
        raise ValueError("the hash key must have 16 bytes")
    cdef uint64_t k0 = <uint64_t> int.from_bytes(key[:8], "little")
    cdef uint64_t k1 = <uint64_t> int.from_bytes(key[8:], "little")
    cdef const unsigned char *p = data
    return siphash13(k0, k1, p, len(data))
