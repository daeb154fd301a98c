"""How connections travel from the supervisor to a worker: SEQPACKET messages, one byte (the count) and the descriptors."""

cdef enum:
    HANDOVER_MAX = 32           # descriptors a message
