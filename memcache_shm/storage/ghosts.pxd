"""Ghosts: what a bucket remembers of the items it has evicted, and what their return teaches.

    bucket: 7 slots | ghosts:  fingerprint 11 | was proven 1, five times; the latest lowest; 0 = none

A ghost is 11 of the key's tag bits, so it costs no look at the key, and it lies in the cache line that a write has in hand. It enters from
below and pushes the oldest out: first in, first out, by one store. All of it is losable: a split, a merge, a repair may cost some.

An item that returns while its ghost is there was evicted too early. As in ARC (Megiddo and Modha, FAST 2003) each such return moves the
border between the classes: a new item's asks for more room for new ones, a proven one's for less, the rarer class with more weight.
"""

from libc.stdint cimport uint32_t, uint64_t

from memcache_shm.storage.layout cimport ShardControl, TAG_AT, TAG_MASK


cdef enum:
    GHOSTS = 5                      # in a bucket's word
    GHOST_BITS = 12
    GHOST_MASK = 0xfff
    ONE = 0x1000000                 # unit of shares: 2 ** 24 is all
    SHARE_START = 1677722           # 10 %
    SHARE_LEAST = 335544            # 2 %
    SHARE_MOST = 10066330           # 60 %
    STEP = 4                        # items by which a return moves the border, at least
    FEWEST = 64                     # records for which that is meant: with less the border moves as with these
    AVERAGE_LOG2 = 40               # unit of `evicted_proven`: 2 ** 40 is all


cdef inline uint64_t ghost_of(uint64_t word, bint proven) noexcept nogil:
    """What stays of an item with this slot word."""
    cdef uint64_t fingerprint = ((word >> TAG_AT) & TAG_MASK) >> 1
    return ((fingerprint if fingerprint != 0 else 1) << 1) | proven


cdef inline void haunt(uint64_t *ghosts, uint64_t word, bint proven) noexcept nogil:
    """Remember an evicted item."""
    if ghosts != NULL:
        ghosts[0] = ((ghosts[0] << GHOST_BITS) | ghost_of(word, proven)) & ((<uint64_t> 1 << (GHOSTS * GHOST_BITS)) - 1)


cdef inline int returned(uint64_t *ghosts, uint64_t word) noexcept nogil:
    """Whether an item with this tag was evicted lately, and as what: 1 proven, 0 new, -1 not that is known. Its ghost goes."""
    cdef uint64_t all_ = ghosts[0] if ghosts != NULL else 0, wanted = ghost_of(word, False) >> 1, below
    cdef int i, at
    for i in range(GHOSTS):
        at = i * GHOST_BITS
        if (all_ >> at & GHOST_MASK) >> 1 == wanted:
            below = all_ & ((<uint64_t> 1 << at) - 1)
            ghosts[0] = below | (all_ >> (at + GHOST_BITS)) << at
            return all_ >> at & 1
    return -1


cdef inline uint32_t share_of_new(ShardControl *c) noexcept nogil:
    """Which part of the records may be new, in 2 ** -24; whatever the shared word holds, within the limits."""
    cdef uint32_t share = c.share
    if share == 0:
        return SHARE_START
    return SHARE_LEAST if share < SHARE_LEAST else SHARE_MOST if share > SHARE_MOST else share


cdef inline uint64_t of_proven(ShardControl *c) noexcept nogil:
    """Which part of the evictions took proven items, in 2 ** -24, never none or all."""
    cdef uint64_t part = c.evicted_proven >> (AVERAGE_LOG2 - 24)
    return ONE // 128 if part < ONE // 128 else ONE - ONE // 128 if part > ONE - ONE // 128 else part


cdef inline void average_in(ShardControl *c, bint proven, uint64_t ghosts) noexcept nogil:
    """Keep account of which class was evicted, over as many evictions as there are ghosts: the hands take turns, each of many
    evictions, and an average over fewer would follow the turns."""
    cdef uint64_t all_ = <uint64_t> 1 << AVERAGE_LOG2, average = c.evicted_proven if c.evicted_proven < all_ else all_
    c.evicted_proven = average + (all_ - average) // ghosts if proven else average - average // ghosts


cdef inline void move_border(ShardControl *c, bint proven) noexcept nogil:
    """An item of that class has returned."""
    cdef uint64_t part = of_proven(c)
    cdef uint64_t records = c.records if c.records > FEWEST else FEWEST
    cdef uint64_t step = <uint64_t> STEP * ONE // records
    cdef uint32_t share = share_of_new(c)
    if proven:
        step = step * (ONE - part) // part if part < ONE // 2 else step
        c.share = SHARE_LEAST if share < SHARE_LEAST + step else share - <uint32_t> step
    else:
        step = step * part // (ONE - part) if part > ONE // 2 else step
        c.share = SHARE_MOST if share + step > SHARE_MOST else share + <uint32_t> step
