"""Reading that may change the item (see claims.pyx)."""

from memcache_shm.storage.results cimport Claim, Found
from memcache_shm.storage.view cimport View

cdef int find_claim(View *v, Found *f, const char *key, size_t klen, const Claim *claim, int wait) noexcept nogil
