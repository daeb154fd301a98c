# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False, auto_pickle=False
"""Packed items (see `items`) in the mass: where a piece of them may be cut, and whether they make sense."""

from libc.stdint cimport uint8_t, uint64_t
from libc.string cimport memcpy

from memcache_shm.storage.layout cimport STATE_STALE, STATE_TOKEN_SENT
from memcache_shm.storage.packing cimport PACKED_HEAD, Packed

cdef enum:
    KEY_MAX = 250


cdef bint _makes_sense(const Packed *item) noexcept nogil:
    return (
        1 <= item.key_length <= KEY_MAX and item.zero == 0 and item.expires_ms >= 0
        and not item.state & ~(STATE_STALE | STATE_TOKEN_SENT)
    )


def stretch(const uint8_t[::1] block not None, uint64_t start, uint64_t most):
    """(end, items): how far the items that begin at `start` go on for at most `most` bytes, but for one item at least where there is one.

    ValueError: something there is no item, or not a whole one.
    """
    cdef uint64_t at = start, size = <uint64_t> block.shape[0], items = 0, next
    cdef Packed item
    if start > size:
        raise ValueError(f"{start} is behind the end of {size} bytes")
    with nogil:
        while at < size:
            next = size + 1
            if size - at >= PACKED_HEAD:
                memcpy(&item, &block[at], PACKED_HEAD)
                if _makes_sense(&item):
                    next = at + PACKED_HEAD + item.key_length + item.value_length
            if next > size or (items and next - start > most):
                break
            at = next
            items += 1
    if at < size and next > size:
        raise ValueError(f"no item at {at}")
    return at, items
