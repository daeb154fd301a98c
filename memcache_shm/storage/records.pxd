"""Records: sizes, filling, copying out (see records.pyx)."""

from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t

from memcache_shm.storage.arena cimport Runs
from memcache_shm.storage.atomics cimport load_relaxed64
from memcache_shm.storage.layout cimport (
    GRANULE_MASK, LENGTH_MASK, Record, RunLink, SEVERAL_RUNS, STATE_FOREIGN_CAS, VERSION_AT, VERSION_MASK,
)
from memcache_shm.storage.view cimport Arena, View


cdef struct Sizes:              # the end of a record's header, read by one load: what was checked is what is used
    uint32_t length
    uint8_t key_length
    uint8_t state
    uint16_t spare


cdef struct Fields:             # what a new record is to hold
    uint64_t version
    uint64_t foreign_cas        # 0 = none
    const char *key
    uint32_t key_length
    uint32_t flags
    uint32_t expiry
    uint32_t head_length        # the value is head + the bytes of `middle` + tail + blanks
    uint32_t tail_length
    uint32_t middle_length      # of `middle`, 0 without
    uint32_t blanks             # behind it all
    uint8_t state               # STATE_*, but for STATE_FOREIGN_CAS
    const char *head
    const char *tail
    Record *middle              # an old record (append, prepend) or NULL


cdef inline Record *record_at(Arena *a, uint64_t granule) noexcept nogil:
    """The record at a granule, or NULL when its header and 8 bytes more would reach over the arena's end (scribbled memory)."""
    if granule * a.granule_bytes + sizeof(Record) + 8 > <uint64_t> a.granules * a.granule_bytes:
        return NULL
    return <Record *> (a.base + granule * a.granule_bytes)


cdef inline Sizes sizes_of(Record *r) noexcept nogil:
    cdef uint64_t word = load_relaxed64(<uint64_t *> &r.length)
    return (<Sizes *> &word)[0]


cdef inline uint32_t key_offset(Sizes sizes) noexcept nogil:
    """Bytes from a record's start to its key."""
    cdef uint32_t n = sizeof(Record)
    if sizes.length & SEVERAL_RUNS:
        n += sizeof(RunLink)
    if sizes.state & STATE_FOREIGN_CAS:
        n += 8
    return n


cdef inline const char *key_of(Record *r, Sizes sizes) noexcept nogil:
    return <const char *> r + key_offset(sizes)


cdef inline uint32_t value_length(Sizes sizes) noexcept nogil:
    return sizes.length & LENGTH_MASK


cdef inline uint64_t cas_id(Record *r, Sizes sizes, uint64_t version) noexcept nogil:
    """The CAS id that clients see: the record's version unless somebody else's id was stored with it."""
    if sizes.state & STATE_FOREIGN_CAS:
        return (<uint64_t *> (<uint8_t *> r + key_offset(sizes) - 8))[0]
    return version


cdef inline uint64_t room_after(Arena *a, void *p) noexcept nogil:
    """Bytes from `p` to the arena's end."""
    return <uint64_t> a.granules * a.granule_bytes - <uint64_t> (<uint8_t *> p - a.base)


cdef inline bint word_matches(View *v, uint64_t word, uint64_t version) noexcept nogil:
    """Whether a record's version is the one whose low bits the slot word carries."""
    return version != 0 and ((version >> v.version_shift) & VERSION_MASK) == ((word >> VERSION_AT) & VERSION_MASK)


cdef uint32_t record_granules(Arena *a, Record *r, Sizes sizes) noexcept nogil
cdef bint are_sane(View *v, Arena *a, Record *r, Sizes sizes) noexcept nogil
cdef bint record_sane(View *v, Arena *a, Record *r) noexcept nogil
cdef bint record_runs(View *v, Arena *a, Record *r, Runs *out) noexcept nogil
cdef bint runs_whole(Arena *a, Record *r, Runs *runs) noexcept nogil
cdef void copy_value(Arena *a, Record *r, uint32_t length, char *dst) noexcept nogil
cdef void fill(Arena *a, Runs *runs, Fields *f) noexcept nogil
cdef uint64_t record_bytes(Fields *f, uint32_t value_length) noexcept nogil
