"""Shard locks (see locks.pyx)."""

from libc.stdint cimport uint32_t, uint64_t

from memcache_shm.storage.view cimport Shard, View

cdef enum LockResult:       # numbers as in table.pxd's Result
    LOCKED = 0
    LOCK_BUSY_OWNER = 7
    LOCK_RETIRED = 8
    LOCK_WOULD_BLOCK = 9
    LOCK_NO_SLOT = 10

cdef int hold(View *v, Shard *s, int wait) noexcept nogil
cdef int take(View *v, Shard *s, int wait) noexcept nogil
cdef void nap_for(Shard *s) noexcept nogil
cdef void give(View *v, Shard *s) noexcept nogil
cdef uint32_t sweep(View *v) noexcept nogil
cdef int owner_state(View *v, uint32_t word) noexcept nogil
cdef int slot_units(View *v, uint32_t slot) noexcept nogil
cdef bint objects_gone(View *v) noexcept nogil
cdef void look_around(View *v) noexcept nogil
cdef uint32_t owner_pid(View *v, uint32_t word) noexcept nogil
cdef uint64_t ipc_namespace() noexcept nogil
cdef void release_slot(View *v) noexcept nogil
