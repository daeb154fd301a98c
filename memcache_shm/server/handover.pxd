"""How connections travel from the supervisor to a worker, over their link, a socketpair: SEQPACKET messages of a `Handover`, and the
descriptors beside it."""

from libc.stdint cimport uint8_t

cdef enum:
    HANDOVER_MAX = 32           # descriptors a message
    LISTENERS_MAX = 256         # a byte names one


cdef struct Handover:           # sent up to the last listener that is used; a lone 0 wakes the worker
    uint8_t count
    uint8_t listener[HANDOVER_MAX]      # of each connection, its place among the config's
