"""All live items at one instant (see snapshot.pyx)."""

from libc.stdint cimport uint8_t, uint32_t, uint64_t

from memcache_shm.storage.view cimport View


cdef struct Copied:
    uint8_t *data               # room for the items, given by the caller; packed, one after the other
    uint64_t room               # its bytes
    uint64_t size               # ... and how many of them are taken
    uint64_t items
    uint64_t highest_cas        # that may have been given out so far
    uint64_t taken_ns           # unix time of the instant
    uint64_t held_ns            # for which writers of the last shard had to wait, in all tries


cdef uint64_t room_for(View *v, uint32_t first, uint32_t end) noexcept nogil
cdef uint64_t ample_room_for(View *v, uint32_t first, uint32_t end) noexcept nogil
cdef int copy_shards(View *v, uint32_t first, uint32_t end, Copied *out) noexcept nogil
