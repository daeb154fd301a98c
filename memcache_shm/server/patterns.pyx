# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False, auto_pickle=False
"""The patterns that a worker's clients have subscribed: who is to hear of a key?

A hash table of exact keys and prefixes; a key asks for itself and for its beginnings, as many as there are lengths of prefixes in use. The
hash has a random key, since patterns are hostile. What the patterns of all clients take is bounded, and the number of buckets follows from
that, so nothing is ever moved into a larger table.
"""

import os

from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free, malloc
from libc.string cimport memcmp, memcpy, memmove, memset

from memcache_shm.protocol.request cimport PATTERN_KEY, PATTERN_PREFIX
from memcache_shm.server.subscriber cimport Pattern, Subscriber, Subscription
from memcache_shm.storage.siphash cimport siphash13

cdef enum:
    MALLOC_BYTES = 16           # what an allocation costs besides its bytes
    BUCKET_BYTES = 256          # of the limit, for each bucket
    FEWEST_BUCKETS = 1024
    LOOK_STEPS = 8              # a look into the hash table costs as much as so many patterns that are tried
    LENGTHS_AT_ONCE = 8         # prefix lengths that cost as much as a request does


cdef inline size_t pattern_bytes(size_t klen) noexcept nogil:
    return sizeof(Pattern) + klen + MALLOC_BYTES


cdef class Patterns:

    def __init__(self, size_t most_bytes):
        cdef bytes key = os.urandom(16)
        cdef uint64_t buckets = FEWEST_BUCKETS
        memcpy(&self._hash_key0, <const char *> key, 8)
        memcpy(&self._hash_key1, <const char *> key + 8, 8)
        while buckets * BUCKET_BYTES < most_bytes:
            buckets *= 2
        self._mask = buckets - 1
        self._most_bytes = most_bytes
        memset(self._prefixes, 0, sizeof(self._prefixes))

    def __dealloc__(self):
        free(self._bucket)

    cdef uint64_t _hash(self, const char *key, size_t klen, int kind) noexcept nogil:
        return siphash13(self._hash_key0, self._hash_key1, key, klen) + <uint64_t> kind

    cdef Pattern *_look(self, uint64_t hash, const char *key, size_t klen, int kind) noexcept nogil:
        """The pattern, or NULL."""
        cdef Pattern *p = self._bucket[hash & self._mask] if self._bucket != NULL else NULL
        while p != NULL and not (p.hash == hash and p.klen == klen and p.kind == kind and memcmp(p.key, key, klen) == 0):
            p = p.next
        return p

    cdef Pattern *_make(self, uint64_t hash, const char *key, size_t klen, int kind) noexcept nogil:
        """A pattern that nobody has yet; NULL when memory is out."""
        cdef Pattern *p
        if self._bucket == NULL:
            self._bucket = <Pattern **> calloc(self._mask + 1, sizeof(Pattern *))
        if self._bucket == NULL:
            return NULL
        p = <Pattern *> malloc(sizeof(Pattern) + klen)
        if p == NULL:
            return NULL
        memset(p, 0, sizeof(Pattern))
        memcpy(p.key, key, klen)
        p.hash = hash
        p.klen = <uint8_t> klen
        p.kind = <uint8_t> kind
        p.next = self._bucket[hash & self._mask]
        self._bucket[hash & self._mask] = p
        self._used_bytes += pattern_bytes(klen)
        if kind == PATTERN_PREFIX:
            self._count_prefix(klen, 1)
        return p

    cdef void _forget(self, Pattern *p) noexcept nogil:
        """Nobody has it any more."""
        cdef Pattern **at = &self._bucket[p.hash & self._mask]
        while at[0] != p:
            at = &at[0].next
        at[0] = p.next
        self._used_bytes -= pattern_bytes(p.klen)
        if p.kind == PATTERN_PREFIX:
            self._count_prefix(p.klen, -1)
        free(p)

    cdef void _count_prefix(self, size_t length, int by) noexcept nogil:
        """One prefix of that length more or less."""
        cdef int at = 0
        self._prefixes[length] += <uint32_t> by
        if self._prefixes[length] != <uint32_t> (by > 0):
            return                          # others of that length are there
        while at < self._lengths_count and self._lengths[at] < length:
            at += 1
        if by > 0:
            memmove(&self._lengths[at + 1], &self._lengths[at], self._lengths_count - at)
            self._lengths[at] = <uint8_t> length
        else:
            memmove(&self._lengths[at], &self._lengths[at + 1], self._lengths_count - at - 1)
        self._lengths_count += by

    cdef bint add(self, Subscriber *s, const char *key, size_t klen, int kind) noexcept nogil:
        """Give a subscriber a pattern that it does not have. False: the limit is reached, or memory is out."""
        cdef uint64_t hash = self._hash(key, klen, kind)
        cdef Subscription *new
        cdef Pattern *p = self._look(hash, key, klen, kind)
        if self._used_bytes + sizeof(Subscription) + MALLOC_BYTES + pattern_bytes(klen) > self._most_bytes:
            return False
        new = <Subscription *> calloc(1, sizeof(Subscription))
        if new == NULL:
            return False
        if p == NULL:
            p = self._make(hash, key, klen, kind)
        if p == NULL:
            free(new)
            return False
        self._used_bytes += sizeof(Subscription) + MALLOC_BYTES
        new.pattern = p
        new.next_of_pattern = p.first
        if p.first != NULL:
            p.first.previous_of_pattern = new
        p.first = new
        p.count += 1
        new.who = s
        new.next = s.patterns
        if s.patterns != NULL:
            s.patterns.previous = new
        s.patterns = new
        s.count += 1
        return True

    cdef Subscription *find(self, Subscriber *s, const char *key, size_t klen, int kind) noexcept nogil:
        """A subscriber's pattern, or NULL: looked for among its patterns or the pattern's subscribers, whichever are fewer."""
        cdef Pattern *p = self._look(self._hash(key, klen, kind), key, klen, kind)
        cdef Subscription *at
        if p == NULL:
            return NULL
        if p.count < s.count:
            at = p.first
            while at != NULL and at.who != s:
                at = at.next_of_pattern
            return at
        at = s.patterns
        while at != NULL and at.pattern != p:
            at = at.next
        return at

    cdef void drop(self, Subscription *subscription) noexcept nogil:
        """A subscriber gives a pattern up."""
        cdef Pattern *p = subscription.pattern
        cdef Subscriber *s = subscription.who
        if subscription.next_of_pattern != NULL:
            subscription.next_of_pattern.previous_of_pattern = subscription.previous_of_pattern
        if subscription.previous_of_pattern != NULL:
            subscription.previous_of_pattern.next_of_pattern = subscription.next_of_pattern
        else:
            p.first = subscription.next_of_pattern
        if subscription.next != NULL:
            subscription.next.previous = subscription.previous
        if subscription.previous != NULL:
            subscription.previous.next = subscription.next
        else:
            s.patterns = subscription.next
        s.count -= 1
        p.count -= 1
        self._used_bytes -= sizeof(Subscription) + MALLOC_BYTES
        free(subscription)
        if p.count == 0:
            self._forget(p)

    cdef uint32_t steps(self, const Subscriber *s) noexcept nogil:
        """What `concerns` costs, in patterns that are tried."""
        return min(s.count, <uint32_t> (LOOK_STEPS * (1 + self._lengths_count)))

    cdef bint concerns(self, Subscriber *s, const char *key, size_t klen) noexcept nogil:
        """Whether a subscriber has a pattern that applies to a key, whether that is pending or not: its patterns are tried one by one, or
        the key's beginnings are looked for, whatever costs less."""
        cdef const Subscription *at = s.patterns
        cdef int length = 0
        if self.steps(s) == s.count:
            while at != NULL and not applies(at.pattern, key, klen):
                at = at.next
            return at != NULL
        if self.find(s, key, klen, PATTERN_KEY) != NULL:
            return True
        while length < self._lengths_count and self._lengths[length] <= klen:
            if self.find(s, key, self._lengths[length], PATTERN_PREFIX) != NULL:
                return True
            length += 1
        return False

    cdef size_t gather(self, const char *key, size_t klen, uint64_t match, Subscriber **into) noexcept nogil:
        """All subscribers of a key, each once, to `into`; how many. Pending patterns do not count. `match` is another number at each call;
        `into` has room for all subscribers."""
        cdef Pattern *p = self._look(self._hash(key, klen, PATTERN_KEY), key, klen, PATTERN_KEY)
        cdef Subscription *at
        cdef size_t found = 0
        cdef int length = 0
        while True:
            at = p.first if p != NULL else NULL
            while at != NULL:
                if at.who.match != match and not at.pending:
                    at.who.match = match
                    into[found] = at.who
                    found += 1
                at = at.next_of_pattern
            if length == self._lengths_count or self._lengths[length] > klen:
                return found
            p = self._look(self._hash(key, self._lengths[length], PATTERN_PREFIX), key, self._lengths[length], PATTERN_PREFIX)
            length += 1

    cdef int cost(self) noexcept nogil:
        """Of one `gather`, in requests."""
        return 1 + self._lengths_count // LENGTHS_AT_ONCE
