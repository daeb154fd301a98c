"""The table: every operation on items, without the GIL, for the session and the attached client.

Reading (no lock; nothing is valid before `confirm` said so). With `f` all zero:

    again: rc = t.find(&f, key, klen, wait); when rc is not OK, that is the answer;
           reserve f.vlen bytes; t.copy(&f, dst); unless t.confirm(&f): again

After an OK `confirm` must be called: where find took the lock (after many tries), it gives it back.
"""

from libc.stdint cimport int32_t, int64_t, uint8_t, uint16_t, uint32_t, uint64_t

from memcache_shm.storage.results cimport (
    ADD, APPEND, BUSY, CAS, Change, Claim, EXISTS, Found, NO_SPACE, NOT_FOUND, NOT_NUMBER, NOT_STORED, OK, PREPEND, READ_ONLY, REPLACE,
    RETIRED, Result, SET, StoreMode, TOO_LARGE, TOO_MANY, WOULD_BLOCK,
)
from memcache_shm.storage.view cimport View, Witness


cdef class Table:
    cdef View view                      # this process's picture of the segment
    cdef readonly object geometry       # Geometry
    cdef readonly str uuid              # 32 hex digits
    cdef readonly int shmid
    cdef readonly int semid
    cdef uint32_t reclaimed             # shard with which `reclaim` goes on

    cdef int find(self, Found *f, const char *key, size_t klen, int wait) noexcept nogil
    cdef void copy(self, Found *f, char *dst) noexcept nogil
    cdef bint confirm(self, Found *f) noexcept nogil
    cdef int find_touch(self, Found *f, const char *key, size_t klen, uint32_t expiry, int wait) noexcept nogil
    cdef int find_claim(self, Found *f, const char *key, size_t klen, const Claim *claim, int wait) noexcept nogil
    cdef int store(self, Change *c, int wait) noexcept nogil
    cdef int remove(self, const Change *c, int wait) noexcept nogil
    cdef int invalidate(self, Change *c, int wait) noexcept nogil
    cdef int arith(self, Change *c, int wait) noexcept nogil
    cdef int touch(self, const char *key, size_t klen, uint32_t expiry, int wait) noexcept nogil
    cdef int flush(self, int64_t delay_s, int wait) noexcept nogil
    cdef void tell(self, Witness witness, void *whose) noexcept nogil
    cdef bint shift_clock(self, int64_t seconds) noexcept nogil
    cdef uint32_t expiry_from(self, int64_t exptime) noexcept nogil
    cdef int64_t seconds_left(self, uint32_t expiry) noexcept nogil
    cdef uint32_t idle_s(self, const Found *f) noexcept nogil
    cdef uint32_t busy_pid(self) noexcept nogil
    cdef bint is_open(self) noexcept nogil
    cdef int check_open(self) except -1
    cdef uint64_t counter_sum(self, int which) noexcept
    cdef dict shard_sums(self)
