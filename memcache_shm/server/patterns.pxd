"""The patterns that a worker's clients have subscribed (see patterns.pyx)."""

from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.string cimport memcmp

from memcache_shm.protocol.request cimport PATTERN_PREFIX
from memcache_shm.server.subscriber cimport Pattern, Subscriber, Subscription
from memcache_shm.storage.layout cimport KEY_MAX


cdef inline bint applies(const Pattern *p, const char *key, size_t klen) noexcept nogil:
    """Whether a key is what the pattern means."""
    return (klen == p.klen or (klen > p.klen and p.kind == PATTERN_PREFIX)) and memcmp(key, p.key, p.klen) == 0


cdef class Patterns:
    cdef Pattern **_bucket
    cdef uint64_t _mask             # number of buckets - 1, a power of two less 1
    cdef uint64_t _hash_key0
    cdef uint64_t _hash_key1
    cdef size_t _used_bytes
    cdef size_t _most_bytes         # all patterns may take so many
    cdef uint32_t _prefixes[KEY_MAX + 1]    # patterns that are a prefix of so many bytes
    cdef uint8_t _lengths[KEY_MAX + 1]      # those lengths of which there are any, the shortest first
    cdef int _lengths_count

    cdef bint add(self, Subscriber *s, const char *key, size_t klen, int kind) noexcept nogil
    cdef Subscription *find(self, Subscriber *s, const char *key, size_t klen, int kind) noexcept nogil
    cdef void drop(self, Subscription *subscription) noexcept nogil
    cdef uint32_t steps(self, const Subscriber *s) noexcept nogil
    cdef bint concerns(self, Subscriber *s, const char *key, size_t klen) noexcept nogil
    cdef size_t gather(self, const char *key, size_t klen, uint64_t match, Subscriber **into) noexcept nogil
    cdef int cost(self) noexcept nogil
    cdef uint64_t _hash(self, const char *key, size_t klen, int kind) noexcept nogil
    cdef Pattern *_look(self, uint64_t hash, const char *key, size_t klen, int kind) noexcept nogil
    cdef Pattern *_make(self, uint64_t hash, const char *key, size_t klen, int kind) noexcept nogil
    cdef void _forget(self, Pattern *p) noexcept nogil
    cdef void _count_prefix(self, size_t length, int by) noexcept nogil
