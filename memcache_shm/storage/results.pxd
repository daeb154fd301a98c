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
    READ_ONLY = 11      # the mapping is read-only, or the table follows another
    LOST = 12           # the feed went on without its reader
    NO_FEED = 13        # the table was made without a feed


cdef enum Wait:         # what to do when a shard's lock is taken
    POLL = 0            # WOULD_BLOCK; BUSY once the same owner was met for a second without progress, over several calls
    WAIT = 1            # sleep, a second without progress at most; then BUSY
    TRY = 2             # WOULD_BLOCK, always
    HELD = 3            # the caller holds it already, and goes on holding it (see holding.pyx)


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


cdef enum Omit:         # bits of Found.omit: what a find and its confirm leave undone
    NO_TRACE = 1        # the use is not noted with the item
    NO_COUNT = 2        # neither a hit nor a miss is counted
    NO_MISS = 4         # no miss is counted: the caller is going to make the item
    NO_EXPIRY = 8       # an item past its expiry is found: that was just set by this very read (gat)


cdef struct Found:      # one reader's view of one record; all zero (but for `omit`) before the first find
    uint64_t version    # the CAS id
    uint32_t flags
    uint32_t vlen       # value bytes
    uint32_t expiry     # table clock (1/8 s), 0 = never; as it was before the find
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
    # for the caller again, here for the sake of the size:
    uint8_t omit        # Omit, from the caller
    uint8_t state       # STATE_*, as it was before the find
    uint8_t missing     # after NOT_FOUND: a Missing
    uint8_t outcome     # of find_claim


cdef enum Outcome:      # bits of Found.outcome
    WON = 1             # this reader is the one who shall make the item anew
    CREATED = 2         # the item was made by this find


cdef struct Claim:      # what a meta get asks for besides the item; times on the table clock, 0 = never
    uint32_t expiry     # `touches`: the item's new expiry
    uint32_t recache    # `recaches`: an item that expires before this one reader shall make anew
    uint32_t birth      # `vivifies`: the expiry of the item made where there is none
    bint touches
    bint recaches
    bint vivifies
    bint touches_first  # the new expiry is the one that is compared with `recache`


cdef struct Change:     # what is to become of a key; all zero but for what the caller sets
    const char *key
    size_t klen
    const char *value   # store
    size_t vlen
    uint64_t compare    # the CAS id that the item must have; 0 = any, except in mode CAS and where `compares`
    uint64_t foreign    # the CAS id from now on; 0 = one of the table's own
    uint64_t delta      # arith
    uint64_t number     # arith with `vivifies`: the first value; then the result
    uint32_t flags      # store, and of what is made where nothing was
    uint32_t expiry     # store, and with `touches`
    uint32_t birth      # `vivifies`: the expiry of what is made where nothing was
    uint8_t mode        # store: StoreMode
    uint8_t state       # store in mode SET: STATE_STALE, STATE_TOKEN_SENT from the beginning
    bint decr           # arith
    bint compares       # delete, invalidate: `compare` counts even where it is 0
    bint stale_too      # store in mode CAS: an id older than the item's does as well; the item stays stale then
    bint vivifies       # append, prepend, arith: make the item where there is none
    bint touches        # arith, invalidate: set the expiry
    bint marks          # invalidate: the item is stale from now on
    bint empties        # invalidate: it loses its value
    bint uncounted      # delete: it is part of another request
    # what came of it
    uint64_t cas        # the CAS id now
    uint32_t length     # value bytes now
    uint32_t before     # arith: the expiry before
    bint created        # arith: there was no item
