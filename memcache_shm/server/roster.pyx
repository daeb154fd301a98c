# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False, auto_pickle=False
"""The daemon's connections, in an anonymous mapping made before the fork: connections live in several processes, and any of them is asked.

There are as many seats as connections may be open. A connection without a seat (a daemon that takes more of them than it said) is served
all the same, and named nowhere. A worker that dies leaves its seats to the supervisor (`forget`).
"""

import mmap
import socket

from libc.stdint cimport uint8_t, uint16_t, uint32_t
from libc.string cimport memcpy, memset

from memcache_shm.server.linux cimport AF_INET, AF_INET6, getpeername, sockaddr
from memcache_shm.server.roster cimport SEAT_READ, SEAT_WATCH, SEAT_WRITE, Seat
from memcache_shm.storage.atomics cimport CLOCK_MONOTONIC_COARSE, cas32, clock_ns, load_acquire32, store_release32

_STATES = {SEAT_READ: "conn_read", SEAT_WRITE: "conn_mwrite", SEAT_WATCH: "conn_watch"}
assert sizeof(Seat) == 64


cdef class Roster:

    def __init__(self, uint32_t size, uint32_t first):
        """So many seats; the first one's number."""
        cdef unsigned char[::1] view
        self.size = size
        self._mapping = mmap.mmap(-1, size * sizeof(Seat))
        view = self._mapping
        self.seats = <Seat *> &view[0]
        self._first = first

    cdef Seat *take_seat(self, int which, int fd, int listener) noexcept nogil:
        """For a new connection of a worker; NULL: all are taken."""
        cdef Seat *seat
        cdef uint32_t _try
        for _try in range(self.size):
            self._hint = self._hint + 1 if self._hint + 1 < self.size else 0
            seat = &self.seats[self._hint]
            if seat.owner == 0 and cas32(&seat.owner, 0, which + 1):
                seat.number = self._first + self._hint
                seat.state = SEAT_READ
                seat.listener = <uint8_t> listener
                seat.channel = False
                seat.active_s = <uint32_t> (clock_ns(CLOCK_MONOTONIC_COARSE) // 1000000000)
                _note_peer(seat, fd)
                return seat
        return NULL

    cdef void leave_seat(self, Seat *seat) noexcept nogil:
        """NULL: it had none."""
        if seat != NULL:
            store_release32(&seat.owner, 0)

    def forget(self, int which):
        """For the supervisor, when a worker is gone: so are its connections."""
        cdef uint32_t at
        for at in range(self.size):
            if self.seats[at].owner == <uint32_t> which + 1:
                self.leave_seat(&self.seats[at])

    def seated(self):
        """Of each connection: number, family, host, port, listener, whether it has a channel, state, seconds since its last request."""
        cdef uint32_t at
        cdef Seat seat
        now_s = clock_ns(CLOCK_MONOTONIC_COARSE) // 1000000000
        found = []
        for at in range(self.size):
            if load_acquire32(&self.seats[at].owner) == 0:
                continue
            seat = self.seats[at]
            host = ""
            if seat.family == AF_INET:
                host = socket.inet_ntop(socket.AF_INET, <bytes> seat.address[:4])
            elif seat.family == AF_INET6:
                host = socket.inet_ntop(socket.AF_INET6, <bytes> seat.address[:16])
            idle_s = max(0, now_s - seat.active_s)
            found.append((seat.number, int(seat.family), host, seat.port, seat.listener, bool(seat.channel), _STATES[seat.state], idle_s))
        return found


cdef void _note_peer(Seat *seat, int fd) noexcept nogil:
    """Who is at the other end; a peer that is gone already has no address."""
    cdef uint8_t raw[128]
    cdef uint32_t size = sizeof(raw)
    memset(raw, 0, sizeof(raw))
    memset(seat.address, 0, sizeof(seat.address))
    getpeername(fd, <sockaddr *> raw, &size)
    seat.family = <uint8_t> (<sockaddr *> raw).sa_family
    seat.port = <uint16_t> (raw[2] << 8 | raw[3]) if seat.family == AF_INET or seat.family == AF_INET6 else 0
    if seat.family == AF_INET:
        memcpy(seat.address, raw + 4, 4)
    elif seat.family == AF_INET6:
        memcpy(seat.address, raw + 8, 16)
