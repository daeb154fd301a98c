"""Several keys in one step (see steps.pyx)."""

from libc.stdint cimport uint32_t, uint64_t

from memcache_shm.storage.view cimport View

cdef enum What:
    WRITES = 0
    READS = 1
    DELETES = 2


cdef struct Part:               # one key of a step
    const char *key
    size_t klen
    const char *value           # WRITES
    size_t vlen                 # ... its bytes; READS: those found
    uint64_t at                 # READS: where in the values these lie
    int result                  # OK, NOT_FOUND; WRITES: NO_SPACE


cdef struct Values:             # what READS found, one after the other; grown as needed, freed by the caller
    char *data
    uint64_t size
    uint64_t room


cdef int take_step(View *v, int what, Part *parts, uint32_t n, Values *values) noexcept nogil
