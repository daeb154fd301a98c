"""The segment's byte layout: every shared structure, who writes each field, and the inline helpers that read it.

    Header | process slots | counter blocks | shard controls | for each shard: chunk directory, expiry bounds, bitmap(s), arena(s), feed

All offsets follow from the geometry alone (see `plan` in geometry.py). Fields are native-endian; a segment never leaves its host.
A change here changes the fingerprint (layout.pyx), and older segments are refused.
"""

from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t

from memcache_shm.storage.atomics cimport __builtin_clz

cdef enum:
    LAYOUT_VERSION = 4
    CACHE_LINE = 64
    COUNTERS = 48               # event counts in one counter block
    KEY_MAX = 250               # bytes of a key, as in memcached
    NO_GRANULE = 0xffffffff
    MAX_RUNS = 16               # runs of granules one record may consist of
    BUCKET_SLOTS = 7            # a bucket is one cache line: its slots and
    GHOSTS_AT = 7               # the word of its ghosts (see ghosts.pxd)
    BUCKET_BYTES = 64
    NODE_SLOTS = 4              # an overflow node is half of one
    NODE_BYTES = 32
    CHUNK_BUCKETS = 16          # buckets that the index takes or gives back at once
    CHUNK_BYTES = 1024
    ZONE_STEP = 64              # granules by which the index zone of the memory geometry grows
    MIN_BUCKETS = 16
    MAX_NODES = 24              # overflow nodes behind one bucket
    BUCKET_FILL_HALVES = 15     # half items a bucket on average, above which one bucket splits: 7.5
    BUCKET_SPARSE = 3           # ... below which the last bucket merges
    EXPIRY_HZ = 8               # unit of the table clock: 1/8 s
    ACCESS_SHIFT = 6            # coarse last access: units of 64 s
    BLOCK = 512                 # granules of which one byte of `longest` tells the longest free run
    LONGEST_MOST = 255          # ... this long or longer
    FEED_CELL = 16              # bytes, the unit of a shard's feed


# A slot word:  kind 2 | last access 8 | proven 1 | fetched 1 | uses 2 | version 10 | tag 12 | granule 28
# `version`: 10 bits of the record's, from View.version_shift on, which also tell who of a bucket came first.
# An empty slot is 0. A link word (overflow) has kind 2 and the granule of the next node.
# The hit state lies inside the word and is changed by compare-and-swap of the very word that the reader validated: a store
# to a separate array could land in memory that the index has given back meanwhile.
cdef enum:
    TAG_AT = 28
    VERSION_AT = 40
    USES_AT = 50
    FETCHED_AT = 52
    PROVEN_AT = 53
    ACCESS_AT = 54
    KIND_AT = 62
    GRANULE_MASK = 0xfffffff
    TAG_MASK = 0xfff
    VERSION_MASK = 0x3ff
    ACCESS_MASK = 0xff
    KIND_ENTRY = 1
    KIND_LINK = 2


cdef struct Header:
    # line 0: written by the creator; `magic` last
    uint64_t magic
    uint64_t fingerprint
    uint8_t uuid[16]
    uint64_t hash_key0
    uint64_t hash_key1
    uint64_t segment_bytes
    uint64_t created            # unix time, s
    # line 1: geometry, written by the creator
    uint64_t elements           # 0 in the memory geometry
    uint64_t element_bytes
    uint64_t memory_bytes
    uint64_t max_value_bytes
    uint32_t shards
    uint32_t process_slots
    uint32_t counter_blocks
    uint32_t evicts             # 0: a full table refuses (-M)
    uint32_t creator_pid
    uint32_t layout_version
    uint64_t feed_bytes         # of all shards' feeds, 0 = none
    # line 2: read by every get
    uint32_t retired            # set once, by whoever removes the table or finds it removed
    uint32_t coarse_s           # table clock in seconds, refreshed by writers, losable
    int64_t clock_shift_ns      # added to CLOCK_BOOTTIME; written by `debugtime`
    uint64_t flush_ns           # deadline of the last flush_all on the table clock, 0 = none; written under shard 0's lock
    uint32_t follows            # 1: a copy of another table, changed by nobody but who keeps it in step; written by the follower, and
    uint32_t spare2             # cleared by `promote`
    uint64_t feed_lease         # era 24 bits | deadline 40 bits, see feed.pyx; 0 deadline = nobody listens
    uint64_t spare3[3]
    # line 3: touched only while somebody listens to the feed, or follows
    uint32_t feed_wake          # futex word, advanced by writers that find
    uint32_t feed_waiting       # ... this set, by a listener that is about to sleep
    uint64_t followed_ns        # when the follower was last in step, CLOCK_BOOTTIME; 0 = never
    uint64_t followed_position  # of its leader's feed then
    uint64_t followed_copies    # full copies it has made
    uint64_t followed_online    # whether it has a connection to its leader, 0 or 1
    uint64_t followed_refused   # items that its follower had no room for
    uint64_t spare4[2]


cdef struct ProcessSlot:        # written by the process that holds the semaphore of the same number
    uint32_t epoch              # advanced at each claim, so that a lock word names one incarnation
    uint32_t pid                # for messages only


cdef struct CounterBlock:       # any process, by atomic addition; never zeroed
    uint64_t count[COUNTERS]


cdef struct Intent:             # the lock's owner, before its first store; `operation` is cleared last
    uint32_t operation          # 0 = none; with DONE once the change is published
    uint32_t pid                # the owner's, for messages
    uint64_t slot               # offset in the segment of the slot word about to change; 0 = not so far yet
    uint64_t new_word           # what that slot is going to hold
    uint32_t new_field          # ... or, for a touch or a mark, what its record's expiry or state is going to be
    uint32_t spare
    uint64_t feed               # what the feed's head is going to be when the event lies there ready; 0 = no event


cdef struct ShardControl:
    # line 0: read by every get, written under the lock
    uint64_t split              # generation 38 bits | number of buckets 26 bits
    uint64_t cutoff             # versions up to this one were flushed
    uint64_t flush_applied      # the header's flush_ns that `cutoff` stands for
    uint64_t spare0[5]
    # line 1: the lock, polled by waiters
    uint32_t lock               # waiters 1 | epoch 19 | process slot + 1, 12 bits; 0 = free
    uint32_t spare1[15]
    # line 2: the owner's
    uint64_t version            # last version given out; advanced by one store before its use
    uint64_t feed_head          # cells ever written to the feed: the number of the next event
    uint64_t items              # derivable: reachable records above the cut-off
    uint64_t bytes              # derivable: their keys, values and headers
    uint64_t records            # derivable: reachable records, flushed ones included
    uint64_t progress           # advanced at each acquisition and by long holders
    uint32_t hands[2]           # eviction, for new and for proven items: bucket << 4 | how many more are to go there; losable
    uint64_t repairs
    # line 3
    Intent intent
    uint32_t news               # derivable: reachable records of the new class
    uint32_t share              # eviction: which part of the records may be new, in 2 ** -24; losable, like `evicted_proven`
    uint32_t spare3[2]
    uint32_t longest[2]         # granules of the longest free run that a block of the arena may have: an upper bound
    # line 4: derivable or losable state of the arenas (0: records, 1: index)
    uint32_t next_fit[2]
    uint32_t used[2]            # granules
    uint32_t nodes              # overflow nodes in use
    uint32_t zone               # memory geometry: granules from this one (a multiple of ZONE_STEP) up belong to the index
    uint32_t next_expiry        # no record expires before this tick; 0 = none does, 1 = flushed ones may be there (see reaping.pyx)
    uint32_t reap_chunk         # where the sweep for dead records goes on
    uint32_t spare5
    uint32_t completed          # repairs that found the change published, by what the intent tells ...
    uint32_t cancelled          # ... and that found it not
    uint32_t spare4
    uint64_t repair_ns          # spent in repairs
    uint64_t evicted_proven     # moving average of the proven among the evicted, in 2 ** -40


cdef struct Record:             # 24 bytes, then [run link 16], [foreign CAS 8], key, value
    uint64_t version            # stored last (release): 0 while the record is being filled
    uint32_t expiry             # table clock, 0 = never; the one field stored into in place
    uint32_t flags
    uint32_t length             # value bytes 31 bits | several runs 1 bit
    uint8_t key_length
    uint8_t state               # STATE_*
    uint16_t spare


cdef enum:
    SEVERAL_RUNS = 0x80000000
    LENGTH_MASK = 0x7fffffff
    STATE_FOREIGN_CAS = 1
    STATE_STALE = 2
    STATE_TOKEN_SENT = 4


cdef struct RunLink:            # 16 bytes in a record of several runs: at byte 24 of the first, at byte 0 of the others
    uint32_t next               # first granule of the next run or NO_GRANULE
    uint32_t granules           # length of this run
    uint32_t first              # first granule of the record, so that a later run leads back to it
    uint32_t spare


cdef inline uint64_t word_granule(uint64_t w) noexcept nogil:
    return w & GRANULE_MASK


cdef inline uint64_t word_kind(uint64_t w) noexcept nogil:
    return w >> KIND_AT


cdef inline uint64_t hash_tag(uint64_t h) noexcept nogil:
    """Bits of the hash that neither the shard (top) nor the bucket (bottom) uses."""
    return (h >> 36) & TAG_MASK


cdef inline uint64_t entry_pattern(uint64_t h) noexcept nogil:
    """What kind and tag of a key's slot word look like; compare under PATTERN."""
    return (<uint64_t> KIND_ENTRY << KIND_AT) | (hash_tag(h) << TAG_AT)


cdef inline uint64_t pattern_mask() noexcept nogil:
    return (<uint64_t> 3 << KIND_AT) | (<uint64_t> TAG_MASK << TAG_AT)


cdef inline uint64_t hit_mask() noexcept nogil:
    """The bits of a slot word that hits change."""
    return (<uint64_t> 0xfff) << USES_AT


cdef inline uint64_t link_word(uint64_t granule) noexcept nogil:
    return (<uint64_t> KIND_LINK << KIND_AT) | granule


cdef inline uint32_t split_buckets(uint64_t split) noexcept nogil:
    return <uint32_t> (split & 0x3ffffff)


cdef inline uint64_t split_next(uint64_t split, uint32_t buckets) noexcept nogil:
    """The split word after `split`, with a generation that never repeats."""
    return (((split >> 26) + 1) << 26) | buckets


cdef inline uint32_t bucket_of(uint64_t h, uint32_t buckets) noexcept nogil:
    """Linear hashing (Litwin 1980): the bucket of hash `h` while `buckets` (>= 1) exist."""
    cdef uint32_t half = <uint32_t> 1 << (31 - __builtin_clz(buckets))
    cdef uint32_t b = <uint32_t> h & (2 * half - 1)
    return b if b < buckets else b - half


cdef inline size_t align_up(size_t n, size_t to) noexcept nogil:
    return (n + to - 1) & ~(to - 1)
