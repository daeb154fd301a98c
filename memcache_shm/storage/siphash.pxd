"""SipHash-1-3 with a 128-bit key: the hash of every key of a table.

Aumasson and Bernstein, "SipHash: a fast short-input PRF" (2012), with 1 compression and 3 finalisation rounds.
Input bytes are read as little-endian words.
"""

from libc.stdint cimport uint8_t, uint64_t
from libc.string cimport memcpy


cdef struct SipState:
    uint64_t v0
    uint64_t v1
    uint64_t v2
    uint64_t v3


cdef inline uint64_t rotl(uint64_t x, int b) noexcept nogil:
    return (x << b) | (x >> (64 - b))


cdef inline void sip_round(SipState *s) noexcept nogil:
    s.v0 += s.v1
    s.v2 += s.v3
    s.v1 = rotl(s.v1, 13) ^ s.v0
    s.v3 = rotl(s.v3, 16) ^ s.v2
    s.v0 = rotl(s.v0, 32) + s.v3
    s.v2 += s.v1
    s.v1 = rotl(s.v1, 17) ^ s.v2
    s.v3 = rotl(s.v3, 21) ^ s.v0
    s.v2 = rotl(s.v2, 32)


cdef inline uint64_t siphash13(uint64_t k0, uint64_t k1, const void *data, size_t n) noexcept nogil:
    cdef SipState s
    cdef const uint8_t *p = <const uint8_t *> data
    cdef const uint8_t *end = p + (n & ~(<size_t> 7))
    cdef uint64_t m
    s.v0 = k0 ^ <uint64_t> 0x736f6d6570736575
    s.v1 = k1 ^ <uint64_t> 0x646f72616e646f6d
    s.v2 = k0 ^ <uint64_t> 0x6c7967656e657261
    s.v3 = k1 ^ <uint64_t> 0x7465646279746573
    while p < end:
        memcpy(&m, p, 8)
        s.v3 ^= m
        sip_round(&s)
        s.v0 ^= m
        p += 8
    m = 0
    memcpy(&m, p, n & 7)
    m |= (<uint64_t> n) << 56
    s.v3 ^= m
    sip_round(&s)
    s.v0 ^= m
    s.v2 ^= 0xff
    sip_round(&s)
    sip_round(&s)
    sip_round(&s)
    return s.v0 ^ s.v1 ^ s.v2 ^ s.v3
