"""The daemon's connections, as `stats conns` and the event log name them (see roster.pyx)."""

from libc.stdint cimport uint8_t, uint16_t, uint32_t

cdef enum SeatState:
    SEAT_READ = 0
    SEAT_WRITE = 1
    SEAT_WATCH = 2


cdef struct Seat:               # one connection, by its worker only; a cache line
    uint32_t owner              # the worker's place + 1; 0: the seat is free. Taken by compare-and-swap
    uint32_t number             # under which the connection is named: unique in the daemon while it lasts
    uint32_t active_s           # last request, monotonic clock
    uint16_t port               # the peer's
    uint8_t family              # of the peer's address: AF_INET, AF_INET6, AF_UNIX
    uint8_t state               # SeatState
    uint8_t listener            # through which it came, its place among the config's
    uint8_t channel              # its bytes go through rings
    uint8_t spare0[2]
    uint8_t address[16]         # the peer's, in network order
    uint8_t spare1[28]


cdef class Roster:
    cdef Seat *seats
    cdef readonly uint32_t size
    cdef uint32_t _first        # number of the first seat
    cdef uint32_t _hint         # where this process looks for a free seat
    cdef object _mapping        # keeps the memory
    cdef Seat *take_seat(self, int which, int fd, int listener) noexcept nogil
    cdef void leave_seat(self, Seat *seat) noexcept nogil


cdef inline void show(Seat *seat, int state) noexcept nogil:
    """What the connection of that seat (or NULL) does."""
    if seat != NULL:
        seat.state = <uint8_t> state


cdef inline void stir(Seat *seat, uint32_t now_s) noexcept nogil:
    """The connection of that seat (or NULL) has a turn."""
    if seat != NULL:
        seat.active_s = now_s
