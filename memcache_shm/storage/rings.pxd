"""Two byte rings in one block of shared memory, a client's requests and a server's replies (see rings.pyx)."""

from libc.stdint cimport uint32_t, uint64_t

from memcache_shm.storage.atomics cimport (
    exchange32, fence_acquire, fence_full, load_acquire32, load_acquire64, load_relaxed32, load_relaxed64, store_release32, store_relaxed32,
)

cdef extern from "<sched.h>" nogil:
    int sched_getcpu()

cdef enum:
    RING_LEAST = 4096           # bytes; sizes are powers of two
    RING_USUAL = 65536
    RING_MOST = 1 << 20
    DATA_AT = 4096              # bytes from the block's begin to the ring of requests, which that of replies follows
    WAITS_BYTES = 1             # what a side sleeps for, in its `Waits`
    WAITS_ROOM = 2


cdef struct Place:              # a position in an endless stream of bytes, on a cache line of its own
    uint64_t at
    uint32_t cpu                # of a tail: on which processor its writer ran when it stored `at`
    uint32_t spare[13]


cdef struct Waits:              # what a side sleeps for: it sets the bits, who wakes it clears them; a futex where the side is the client
    uint32_t bits
    uint32_t spare[15]


cdef struct Closed:             # other than 0: that side sends nothing more; by that side
    uint32_t flag
    uint32_t spare[15]


cdef struct Block:              # the head of the shared memory
    # line 0, by the maker before anybody else sees it
    uint64_t magic              # 0: the block was emptied
    uint64_t request_bytes
    uint64_t reply_bytes
    uint64_t spare[5]
    Place request_tail          # by the client
    Place request_head          # by the server
    Place reply_tail            # by the server
    Place reply_head            # by the client
    Waits client_waits
    Waits server_waits
    Closed client_closed
    Closed server_closed


cdef struct Ring:               # one ring as one side sees it: what is its own is here and is never read back from the shared memory
    char *data
    uint64_t size
    uint64_t mine               # this side's place, as it was stored last
    uint64_t *my_place
    uint64_t *their_place


cdef struct End:                # one side of a block; all zeros is none
    Block *block
    size_t bytes                # of the mapping
    Ring outgoing
    Ring incoming
    uint32_t *my_waits
    uint32_t *their_waits
    uint32_t *my_cpu
    uint32_t *their_cpu
    uint32_t *my_closed
    uint32_t *their_closed
    bint broken                 # the other side stored a place that cannot be


cdef bint is_ring_size(uint64_t size) noexcept nogil
cdef int make_block(End *end, uint64_t request_bytes, uint64_t reply_bytes, int *fd) noexcept nogil
cdef int map_block(End *end, int fd) noexcept nogil
cdef void unmap_block(End *end) noexcept nogil
cdef void empty_block(End *end) noexcept nogil
cdef size_t pull(End *end, char *dst, size_t size) noexcept nogil
cdef size_t push(End *end, const char *src, size_t size) noexcept nogil


cdef inline uint64_t arrived(End *end) noexcept nogil:
    """Bytes that can be pulled; a place that cannot be breaks the end, and nothing has arrived."""
    cdef Ring *ring = &end.incoming
    cdef uint64_t tail = load_acquire64(ring.their_place)
    if tail - ring.mine > ring.size:
        end.broken = True
        return 0
    return tail - ring.mine


cdef inline uint64_t room(End *end) noexcept nogil:
    """Bytes that can be pushed."""
    cdef Ring *ring = &end.outgoing
    cdef uint64_t head = load_acquire64(ring.their_place)
    if ring.mine - head > ring.size:
        end.broken = True
        return 0
    return ring.size - (ring.mine - head)


cdef inline bint shares_processor(End *end) noexcept nogil:
    """Whether the other side last pushed from the processor that this one runs on: it cannot push while this one runs."""
    return <int> load_relaxed32(end.their_cpu) == sched_getcpu()


cdef inline bint has_ended(End *end) noexcept nogil:
    """Whether the other side sends nothing behind what arrives; ask this first, then `arrived`."""
    return load_acquire32(end.their_closed) != 0


cdef inline bint is_emptied(End *end) noexcept nogil:
    """For the client: whether the server is done with the block; who asks after a pull knows whether its bytes are good."""
    fence_acquire()
    return load_relaxed64(&end.block.magic) == 0


cdef inline bint is_over(End *end) noexcept nogil:
    """As `has_ended`, for the client."""
    return has_ended(end) or is_emptied(end)


cdef inline void say_closed(End *end) noexcept nogil:
    """Nothing more is pushed."""
    store_release32(end.my_closed, 1)


cdef inline void go_to_sleep(End *end, uint32_t bits) noexcept nogil:
    """Ask to be woken; whoever does so looks at the rings once more before it sleeps. Pairs with `must_wake`."""
    store_relaxed32(end.my_waits, bits)
    fence_full()


cdef inline void stay_awake(End *end) noexcept nogil:
    """There is no need to be woken; that may be done all the same."""
    store_relaxed32(end.my_waits, 0)


cdef inline bint must_wake(End *end, uint32_t bits) noexcept nogil:
    """Whether the other side sleeps for one of these; who hears so wakes it, whatever it sleeps for by now: its bits are gone."""
    fence_full()
    return load_relaxed32(end.their_waits) & bits != 0 and exchange32(end.their_waits, 0) != 0


cdef inline bint must_tell_room(End *end) noexcept nogil:
    """The same for room, when there is half a ring of it: asked after each pull. The tail is loaded anew, since the producer may have
    filled the ring and gone to sleep after the pull looked at it."""
    fence_full()
    return (
        load_relaxed32(end.their_waits) & WAITS_ROOM != 0
        and arrived(end) <= end.incoming.size // 2
        and exchange32(end.their_waits, 0) != 0
    )
