"""Reading without a lock (see reader.pyx)."""

from memcache_shm.storage.results cimport Found
from memcache_shm.storage.view cimport View

cdef int find(View *v, Found *f, const char *key, size_t klen, int wait) noexcept nogil
cdef void copy(View *v, Found *f, char *dst) noexcept nogil
cdef bint confirm(View *v, Found *f) noexcept nogil
