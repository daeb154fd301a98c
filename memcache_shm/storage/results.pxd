"""What operations on a table take and come to."""

from libc.stdint cimport uint8_t, uint32_t, uint64_t


cdef enum Result:
    OK = 0              # stored, found, deleted, touched
    NOT_FOUND = 1
    NOT_STORED = 2      # add of a present key; replace, append, prepend of an absent one
    EXISTS = 3          # cas: somebody changed the item since
    NOT_NUMBER = 4      # incr, decr of a value that is no decimal number
    TOO_LARGE = 5       # value above the table's maximum
    NO_SPACE = 6        # full and eviction is off, or nothing more to evict
    BUSY = 7            # the shard's lock did not come in time; busy_pid() names the owner
    RETIRED = 8         # the table was removed
    WOULD_BLOCK = 9     # the lock is taken, nothing was done: call again (see Wait)
    TOO_MANY = 10       # no free process slot: too many processes write to this table
    READ_ONLY = 11      # the mapping is read-only


cdef enum Wait:         # what to do when a shard's lock is taken
    POLL = 0            # WOULD_BLOCK; BUSY once the same owner was met for a second without progress, over several calls
    WAIT = 1            # sleep, a second without progress at most; then BUSY
    TRY = 2             # WOULD_BLOCK, always


cdef enum StoreMode:
    SET = 0
    ADD = 1
    REPLACE = 2
    APPEND = 3
    PREPEND = 4
    CAS = 5


cdef enum Missing:      # why there is nothing, as far as the reader met a record
    ABSENT = 0
    FLUSHED = 1
    EXPIRED = 2


cdef struct Found:      # one reader's view of one record; all zero before the first find
    uint64_t version    # the CAS id
    uint32_t flags
    uint32_t vlen       # value bytes
    uint32_t expiry     # table clock (1/8 s), 0 = never
    uint32_t tries      # finds so far; kept by find
    # private to the reader:
    uint64_t stamp      # the record's own version, which validates
    uint64_t word
    uint64_t split
    uint64_t *slot
    uint8_t *record
    uint64_t hash
    uint32_t shard
    uint8_t locked
    uint8_t missing     # after NOT_FOUND: a Missing
    uint8_t touched     # gat: the expiry was just set by this very read and does not hide the item from it
