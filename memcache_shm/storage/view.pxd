"""A process's own, trusted picture of a table: addresses and limits computed from the geometry, never re-read from the segment.

Whatever is read from the segment is clamped against these before it is used as an address or a length.
"""

from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t

from memcache_shm.storage.atomics cimport (
    CLOCK_BOOTTIME, CLOCK_REALTIME, clock_ns, fetch_add64, load_acquire64, load_relaxed32, load_relaxed64,
)
from memcache_shm.storage.layout cimport CHUNK_BUCKETS, CounterBlock, EXPIRY_HZ, Header, ProcessSlot, ShardControl
from memcache_shm.storage.siphash cimport siphash13


cdef struct Arena:
    uint8_t *base
    uint64_t *bitmap            # 1 = granule in use
    uint8_t *longest            # a block: its longest free run has at most so many granules (255: or more)
    uint32_t granules
    uint32_t granule_bytes
    uint32_t *next_fit          # where the next search starts (shared, losable)
    uint32_t *used              # granules in use (shared, derivable)
    uint32_t *most              # the largest of `longest` is at most this (shared, derivable)


cdef struct Shard:
    ShardControl *control
    uint32_t *directory         # index chunk -> its first granule in the index arena
    uint32_t *soonest           # index chunk -> no record in its buckets expires before (as ShardControl.next_expiry)
    uint32_t directory_entries
    uint8_t *feed               # its ring of events (feed.pyx)
    uint32_t feed_cells         # 0: it has none
    uint32_t number
    uint32_t stuck_word         # lock word and
    uint64_t stuck_progress     # progress that the last try met, and
    uint64_t stuck_since_ns     # when it met them first (monotonic clock)
    Arena records
    Arena index                 # memory geometry: the upper part (from control.zone) of the records' arena, counted apart
    bint shared                 # records and index share one arena


cdef struct Evicted:            # what goes for want of room, as its slot and record tell
    const char *key
    uint32_t klen
    uint32_t vlen               # value bytes
    uint32_t expiry             # table clock, 0 = never
    uint64_t word               # its slot's


ctypedef void (*Witness)(void *whose, View *v, const Evicted *item) noexcept nogil


cdef struct View:
    uint8_t *base
    uint64_t bytes
    Header *header
    ProcessSlot *processes
    CounterBlock *counters      # this process's block
    CounterBlock *all_counters
    uint64_t hash_key0
    uint64_t hash_key1
    uint32_t shards
    uint32_t shard_log2
    uint32_t version_shift      # from here on slot words have 10 bits of their record's version
    uint32_t max_value_bytes
    uint32_t max_buckets        # a shard
    uint32_t max_records        # a shard, 0 = whatever fits
    uint32_t process_slots
    uint32_t counter_blocks
    uint32_t me                 # this process's lock word; valid while fork_count is the process's
    uint32_t my_slot
    uint32_t fork_count         # of the process that claimed `me`, 0 = none yet
    uint32_t busy_pid           # owner of the lock that the last BUSY waited for
    uint64_t ipc_namespace      # inode of the namespace in which the ids mean these objects
    uint32_t my_pid             # of the same process
    uint32_t calls              # lock acquisitions and
    uint32_t reads              # finds so far, for the occasional look whether the objects still exist
    uint64_t looked_ns          # coarse clock at the last such look
    bint gone                   # what it found, for a mapping that cannot say so in the header
    uint32_t removed_length     # value bytes of the item that the last `remove` of this process took out
    Witness witness             # hears of each eviction by this process, under the shard's lock; NULL: nobody does
    void *whose                 # handed to it
    int shmid
    int semid
    bint readonly
    bint evicts
    bint exempt                 # this process keeps a table in step that follows: only then may it change that (see `refuses`)
    Shard *shard


cdef inline uint64_t hash_key(View *v, const char *key, size_t n) noexcept nogil:
    return siphash13(v.hash_key0, v.hash_key1, key, n)


cdef inline Shard *shard_of(View *v, uint64_t h) noexcept nogil:
    """The shard's number is the top bits of the hash."""
    return v.shard + ((h >> 32) >> (32 - v.shard_log2))


cdef inline uint64_t table_ns(View *v) noexcept nogil:
    """The table clock: time since boot plus the header's shift."""
    return clock_ns(CLOCK_BOOTTIME) + <uint64_t> v.header.clock_shift_ns


cdef inline int64_t wall_s(View *v) noexcept nogil:
    """Unix time as the table has it, moved by the same shift."""
    return <int64_t> (clock_ns(CLOCK_REALTIME) // 1000000000) + v.header.clock_shift_ns // 1000000000


cdef inline uint32_t ticks(uint64_t ns) noexcept nogil:
    """Nanoseconds of the table clock in units of expiry (1/8 s); never 0 or 1, which mean "never" and "already gone"."""
    return <uint32_t> (ns // (1000000000 // EXPIRY_HZ)) + 2


cdef inline int64_t left_s(View *v, uint32_t expiry) noexcept nogil:
    """Whole seconds until an expiry, rounded up; 0 when it is over, -1 when there is none."""
    cdef int64_t left = <int64_t> expiry - ticks(table_ns(v))
    if expiry == 0:
        return -1
    return (left + EXPIRY_HZ - 1) // EXPIRY_HZ if left > 0 else 0


cdef inline uint32_t records_end(Shard *s) noexcept nogil:
    """Records lie in granules [0, records_end)."""
    cdef uint32_t zone = s.control.zone
    return zone if s.shared and zone < s.records.granules else s.records.granules


cdef inline uint32_t index_start(Shard *s) noexcept nogil:
    """Index chunks and nodes lie in granules [index_start, end of the index arena)."""
    return records_end(s) if s.shared else 0


cdef inline uint32_t earlier(uint32_t a, uint32_t b) noexcept nogil:
    """The earlier of two expiries, of which 0 means never."""
    if a == 0 or b == 0:
        return a | b
    return a if a < b else b


cdef inline void note_expiry(Shard *s, uint32_t bucket, uint32_t expiry) noexcept nogil:
    """Before a record that expires then (0: never) is reachable in a bucket: bring the bounds down to it."""
    cdef uint32_t chunk = bucket // CHUNK_BUCKETS
    if expiry != 0:
        s.control.next_expiry = earlier(s.control.next_expiry, expiry)
        if chunk < s.directory_entries:
            s.soonest[chunk] = earlier(s.soonest[chunk], expiry)


cdef inline bint is_retired(View *v) noexcept nogil:
    return load_relaxed32(&v.header.retired) != 0 or v.gone


cdef inline bint refuses(View *v) noexcept nogil:
    """Whether this process has to leave the items as they are. A table that follows another is changed by who keeps it in step and by
    nobody else; once it is independent again, by everybody but who kept it in step. What holds is what is found under a shard's lock: both
    `follow` and `promote` take every lock once the word is set, or before."""
    return v.readonly or (load_relaxed32(&v.header.follows) != 0) != (v.exempt != 0)


cdef inline void count(View *v, int counter, uint64_t n) noexcept nogil:
    if not v.readonly:
        fetch_add64(&v.counters.count[counter], n)


cdef inline uint64_t flush_due(View *v, Shard *s) noexcept nogil:
    """The deadline of a flush_all that is due and that no writer of this shard has noted yet, else 0."""
    cdef uint64_t deadline = load_acquire64(&v.header.flush_ns)
    if deadline == 0 or deadline == load_acquire64(&s.control.flush_applied) or table_ns(v) < deadline:
        return 0
    return deadline


cdef inline bint flush_pending(View *v, Shard *s) noexcept nogil:
    """Whether every record of the shard is void, since such a flush_all is due."""
    return flush_due(v, s) != 0
