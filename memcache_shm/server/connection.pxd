"""What a worker knows of one client: about 250 bytes while it is idle."""

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t

from memcache_shm.protocol.request cimport Parser
from memcache_shm.server.buffers cimport Buffer
from memcache_shm.server.roster cimport Seat


cdef enum Flow:             # what a connection waits for
    READING = 0             # for bytes of the client
    BLOCKED = 1             # for the client to take bytes; nothing is read or parsed meanwhile
    YIELDED = 2             # for its next turn; it is on the loop's list
    WAITING = 3             # for a shard's lock; on a list of its own, not read meanwhile
    UNREAD = 4              # for its turn to receive; on the list of the YIELDED ones
    DOOMED = 5              # for its end after the round, since its buffers were taken away or it was idle for too long
    LISTENING = 6           # for something to tell a watching client; on a list of its own, what it sends is dropped


cdef struct Connection:
    Parser parser           # where it stands in the stream
    Buffer input            # bytes of an incomplete request, or of requests whose turn is to come
    Buffer output           # replies that the client did not take yet (BLOCKED)
    size_t need             # no use in parsing before so many input bytes are there; 0 unknown
    const char *at_eof      # the reply that is due if the client closes its side now, or NULL
    Connection *next        # all connections of the worker
    Connection *previous
    Connection *next_turn   # list of the YIELDED and UNREAD, of the WAITING, of the DOOMED or of the LISTENING ones
    Seat *seat              # where the daemon's other processes see it, or NULL
    void *outflow           # a Stream (streams.pxd) that is its own, or NULL: what it gets before its next request is parsed
    void *subscriber        # a Subscriber (subscriber.pxd) that is its own, or NULL: it hears of changes
    uint64_t active_ms      # when bytes came or went last, monotonic clock
    void *channel           # a Channel (channels.pxd) that is its own: its bytes go through rings; NULL: through its socket
    void *stream            # its TlsStream, a reference that it owns; NULL: plain, or no byte came yet
    int fd
    uint32_t watched        # the events that epoll reports of it; 0: it is not in epoll
    uint8_t flow
    uint8_t listener        # through which it came, its place among the config's
    uint8_t reason          # a CloseReason, for the log
    uint8_t refusals        # wrong requests of a guest
    uint16_t guest_bytes    # in these
    bint heavy              # its last turn was a long one: those with short ones go first
    bint closing            # close as soon as the output is gone
    bint guest              # it has not said who it is yet
    bint tls                # it begins with a handshake
    bint lagging            # the stream holds ciphertext that the socket did not take
    bint unread             # stream or channel hold bytes, or the end of them, that the kernel does not know of


cdef struct Queue:          # linked by next_turn, oldest first
    Connection *first
    Connection *last


cdef inline void enqueue(Queue *queue, Connection *c, int flow) noexcept nogil:
    c.flow = <uint8_t> flow
    if queue.last == NULL:
        queue.first = c
    else:
        queue.last.next_turn = c
    queue.last = c


cdef inline Connection *dequeue(Queue *queue) noexcept nogil:
    """The oldest one, or NULL."""
    cdef Connection *c = queue.first
    if c != NULL:
        queue.first = c.next_turn
        c.next_turn = NULL
        if queue.first == NULL:
            queue.last = NULL
    return c


cdef inline void take_out(Queue *queue, Connection *c) noexcept nogil:
    """Wherever it stands; for queues that are short."""
    cdef Connection *before = NULL
    cdef Connection *at = queue.first
    while at != c:
        before = at
        at = at.next_turn
    if before == NULL:
        queue.first = c.next_turn
    else:
        before.next_turn = c.next_turn
    if queue.last == c:
        queue.last = before
    c.next_turn = NULL
