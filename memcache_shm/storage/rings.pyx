# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False, auto_pickle=False
"""Two byte rings in one block of shared memory: the bytes of a channel.

    client -- requests -->  server        each ring has one producer and one consumer, and two places: `tail`, up to which the
    client <-- replies --   server        producer has written, and `head`, up to which the consumer has read

The places count bytes from the beginning and never wrap, so `tail - head` is what lies in a ring; each is on a cache line of its own,
written by one side. Messages are of no concern here: a stream of bytes is pushed and pulled in pieces of any size.

Publishing: the producer copies, then stores the tail with release; the consumer loads it with acquire, copies, then stores the head with
release, which the producer loads with acquire before it writes there again. A side that is killed anywhere has published some pushes and
pulls, each whole or not at all.

Waking: who wants to sleep sets a bit, and looks at the rings again behind a full fence; who has published looks at that bit behind a
full fence. One of the two sees the other's store, so no wake is lost. How one is woken is not decided here: a server waits for
many channels at once, by epoll, and a client for one, by futex. Room is told of once the ring is half empty, and not before: a producer
that waits has filled the ring, so that moment comes. Whether it has come is asked behind a pull, of the tail as it is then: while the
pull copied, the producer may have filled the ring and gone to sleep.

The other side is not trusted. The sizes and one's own places live in one's own memory, the other's place is checked against them, and the
block cannot shrink (it is sealed): wrong contents bring wrong bytes, or `broken`, never an access outside the rings. Memory belongs to
who touches it first, so the server empties a block that it is done with.
"""

from libc.string cimport memcpy, memset

from memcache_shm.storage.atomics cimport fence_release, store_relaxed32, store_relaxed64, store_release64
from memcache_shm.storage.rings cimport DATA_AT, RING_LEAST, RING_MOST, Block, End, Ring, arrived, room, sched_getcpu

cdef extern from "<sys/mman.h>" nogil:
    enum:
        MFD_CLOEXEC
        MFD_ALLOW_SEALING
        PROT_READ
        PROT_WRITE
        MAP_SHARED
        MADV_DONTDUMP
        MADV_REMOVE
    void *MAP_FAILED
    int memfd_create(const char *name, unsigned int flags)
    void *mmap(void *at, size_t size, int protection, int flags, int fd, long offset)
    int munmap(void *at, size_t size)
    int madvise(void *at, size_t size, int advice)

cdef extern from "<fcntl.h>" nogil:
    enum:
        F_ADD_SEALS
        F_GET_SEALS
        F_SEAL_SEAL
        F_SEAL_SHRINK
        F_SEAL_GROW
    int fcntl(int fd, int command, ...)

cdef extern from "<sys/stat.h>" nogil:
    struct stat_t "stat":
        long st_size
    int fstat(int fd, stat_t *out)

cdef extern from "<unistd.h>" nogil:
    int ftruncate(int fd, long size)
    int close(int fd)

cdef enum:
    MAGIC = 0x31676e69726d6873  # "shmring1"

assert sizeof(Block) <= DATA_AT and sizeof(Block) == 9 * 64

cdef int SEALS = F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL


cdef bint is_ring_size(uint64_t size) noexcept nogil:
    """A power of two within the limits."""
    return RING_LEAST <= size <= RING_MOST and size & (size - 1) == 0


cdef void _set_ring(Ring *ring, char *data, uint64_t size, uint64_t *my_place, uint64_t *their_place) noexcept nogil:
    ring.data = data
    ring.size = size
    ring.my_place = my_place
    ring.their_place = their_place


cdef int _map(End *end, int fd, uint64_t request_bytes, uint64_t reply_bytes, bint server) noexcept nogil:
    """0, or -1 and errno."""
    cdef Block *block
    cdef char *data
    memset(end, 0, sizeof(End))
    end.bytes = DATA_AT + request_bytes + reply_bytes
    block = <Block *> mmap(NULL, end.bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0)
    if block == MAP_FAILED:
        return -1
    madvise(block, end.bytes, MADV_DONTDUMP)
    end.block = block
    data = <char *> block + DATA_AT
    if server:
        _set_ring(&end.incoming, data, request_bytes, &block.request_head.at, &block.request_tail.at)
        _set_ring(&end.outgoing, data + request_bytes, reply_bytes, &block.reply_tail.at, &block.reply_head.at)
        end.my_waits, end.their_waits = &block.server_waits.bits, &block.client_waits.bits
        end.my_cpu, end.their_cpu = &block.reply_tail.cpu, &block.request_tail.cpu
        end.my_closed, end.their_closed = &block.server_closed.flag, &block.client_closed.flag
    else:
        _set_ring(&end.outgoing, data, request_bytes, &block.request_tail.at, &block.request_head.at)
        _set_ring(&end.incoming, data + request_bytes, reply_bytes, &block.reply_head.at, &block.reply_tail.at)
        end.my_waits, end.their_waits = &block.client_waits.bits, &block.server_waits.bits
        end.my_cpu, end.their_cpu = &block.request_tail.cpu, &block.reply_tail.cpu
        end.my_closed, end.their_closed = &block.client_closed.flag, &block.server_closed.flag
    return 0


cdef int make_block(End *end, uint64_t request_bytes, uint64_t reply_bytes, int *fd) noexcept nogil:
    """The server's end of a new block, whose descriptor the caller passes on and closes. 0, or -1 and errno."""
    fd[0] = memfd_create(b"memcache_shm channel", MFD_CLOEXEC | MFD_ALLOW_SEALING)
    if fd[0] < 0:
        return -1
    if ftruncate(fd[0], DATA_AT + request_bytes + reply_bytes) < 0 or fcntl(fd[0], F_ADD_SEALS, SEALS) < 0 or _map(
        end, fd[0], request_bytes, reply_bytes, True
    ) < 0:
        close(fd[0])
        fd[0] = -1
        return -1
    end.block.magic = MAGIC
    end.block.request_bytes = request_bytes
    end.block.reply_bytes = reply_bytes
    return 0


cdef int map_block(End *end, int fd) noexcept nogil:
    """The client's end of a block that a server made. 0; -1 and errno; -2: it is none, or not sealed."""
    cdef stat_t status
    cdef Block head
    cdef uint64_t request_bytes, reply_bytes
    if fstat(fd, &status) < 0:
        return -1
    if status.st_size < DATA_AT or fcntl(fd, F_GET_SEALS) & SEALS != SEALS:
        return -2
    if _map(end, fd, 0, 0, False) < 0:
        return -1
    head = end.block[0]
    unmap_block(end)
    request_bytes, reply_bytes = head.request_bytes, head.reply_bytes
    if head.magic != MAGIC or not is_ring_size(request_bytes) or not is_ring_size(reply_bytes):
        return -2
    if <uint64_t> status.st_size != DATA_AT + request_bytes + reply_bytes:
        return -2
    return _map(end, fd, request_bytes, reply_bytes, False)


cdef void unmap_block(End *end) noexcept nogil:
    """The end is none from then on."""
    if end.block != NULL:
        munmap(end.block, end.bytes)
    memset(end, 0, sizeof(End))


cdef void empty_block(End *end) noexcept nogil:
    """Give the memory back, though the other side may keep its mapping for ever: it reads zeros from then on, the magic first."""
    store_relaxed64(&end.block.magic, 0)
    fence_release()
    madvise(end.block, end.bytes, MADV_REMOVE)


cdef size_t pull(End *end, char *dst, size_t size) noexcept nogil:
    """Take up to `size` bytes of what has arrived; how many."""
    cdef Ring *ring = &end.incoming
    cdef uint64_t count = min(arrived(end), size)
    cdef uint64_t at = ring.mine & (ring.size - 1)
    cdef uint64_t first = min(count, ring.size - at)
    if count == 0:
        return 0
    memcpy(dst, ring.data + at, first)
    memcpy(dst + first, ring.data, count - first)
    ring.mine += count
    store_release64(ring.my_place, ring.mine)
    return count


cdef size_t push(End *end, const char *src, size_t size) noexcept nogil:
    """Put in as many of `size` bytes as there is room for; how many."""
    cdef Ring *ring = &end.outgoing
    cdef uint64_t count = min(room(end), size)
    cdef uint64_t at = ring.mine & (ring.size - 1)
    cdef uint64_t first = min(count, ring.size - at)
    if count == 0:
        return 0
    memcpy(ring.data + at, src, first)
    memcpy(ring.data, src + first, count - first)
    ring.mine += count
    store_relaxed32(end.my_cpu, sched_getcpu())
    store_release64(ring.my_place, ring.mine)
    return count
