"""What a worker knows of a client that subscribes: plain C structs, no behaviour (see subscribers.pyx)."""

from libc.stdint cimport uint8_t, uint32_t, uint64_t

from memcache_shm.server.buffers cimport Buffer
from memcache_shm.server.connection cimport Connection

cdef struct Subscription


cdef struct Pattern:            # one that at least one client of the worker has
    Pattern *next               # of its bucket
    uint64_t hash
    Subscription *first         # whose it is
    uint32_t count              # of these
    uint8_t kind                # PATTERN_KEY or PATTERN_PREFIX
    uint8_t klen
    char key[1]                 # klen bytes


cdef struct Subscriber:
    Connection *client
    Buffer news                 # NOTIFYs that wait for the end of a reply or a subscribe line, or for the client to take what it was sent
    Subscription *patterns      # newest first
    Subscription *mark          # the newest one when the running subscribe line began
    uint32_t count              # of patterns
    bint owed                   # it is on the list of those who are to be sent something
    bint lost                   # it was not told everything, and does not know it yet
    uint64_t lost_from          # since this position of the feed
    uint64_t match              # number of the last match that it was found in
    Subscriber *next_owed
    Subscriber *next            # all subscribers of the worker
    Subscriber *previous


cdef struct Subscription:       # a subscriber's pattern
    Pattern *pattern
    Subscriber *who
    Subscription *next_of_pattern
    Subscription *previous_of_pattern
    bint pending                # its subscribe line has not ended yet: so far it tells nothing
    Subscription *next          # of the subscriber's
    Subscription *previous
