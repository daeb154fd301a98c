# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""The System V objects of a table: making, attaching, checking, removing them; the view a process works with.

Objects are made with IPC_PRIVATE; who may find them is the registry's business (state files). The creator formats the segment and stores
`magic` last, so a half-made segment is never taken for a table.
"""

import os
import time

from libc.errno cimport EACCES, EIDRM, EINVAL, errno
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free, malloc
from libc.string cimport memcpy, memset, strerror

from memcache_shm.storage.arena cimport forget_longest
from memcache_shm.storage.atomics cimport load_acquire32, load_acquire64, store_release32, store_release64
from memcache_shm.storage.layout cimport CounterBlock, Header, LAYOUT_VERSION, ProcessSlot, ShardControl
from memcache_shm.storage.locks cimport ipc_namespace, release_slot
from memcache_shm.storage.recovery cimport format_index
from memcache_shm.storage.view cimport Arena, Shard, View, table_ns

from memcache_shm.errors import LayoutError, TableRemovedError
from memcache_shm.storage import layout
from memcache_shm.storage.geometry import Geometry

cdef extern from "<sys/shm.h>" nogil:
    struct ipc_perm:
        unsigned short mode
    struct shmid_ds:
        ipc_perm shm_perm
        size_t shm_segsz
    int shmget(int key, size_t size, int flags)
    void *shmat(int shmid, const void *address, int flags)
    int shmdt(const void *address)
    int shmctl(int shmid, int cmd, shmid_ds *buf)
    int IPC_PRIVATE
    int IPC_CREAT
    int IPC_RMID
    int IPC_STAT
    int SHM_RDONLY
    int SHM_DEST                    # removed, still mapped by somebody

cdef extern from "<sys/sem.h>" nogil:
    int semget(int key, int n, int flags)
    int semctl(int semid, int semnum, int cmd, ...)
    int SETALL
    int GETVAL

cdef extern from "<sys/mman.h>" nogil:
    int madvise(void *address, size_t n, int advice)
    int MADV_DONTDUMP

cdef uint64_t MAGIC = 0x6d68735f65686361        # "ache_shm", little-endian; stored last


cdef bint failed_attach(void *p) noexcept:
    return p == <void *> -1


def system_error(what: str, remedy: str) -> OSError:
    """The current errno as an OSError whose text names cause and remedy."""
    code = errno
    return OSError(code, f"{what}: {strerror(code).decode()}; {remedy}")


cdef void *attach_memory(int shmid, bint readonly) except NULL:
    cdef void *p = shmat(shmid, NULL, SHM_RDONLY if readonly else 0)
    if failed_attach(p):
        if errno == EACCES:
            raise PermissionError(
                EACCES, f"no right to attach segment {shmid}" + ("" if readonly else "; attach read-only or ask its owner for --mode"))
        if errno == EINVAL or errno == EIDRM:
            raise TableRemovedError(f"segment {shmid} does not exist any more")
        raise system_error(f"cannot attach segment {shmid}", "see `ipcs -m` and the address space limit (ulimit -v)")
    madvise(p, segment_size(shmid), MADV_DONTDUMP)
    return p


cdef size_t segment_size(int shmid) noexcept:
    cdef shmid_ds status
    return status.shm_segsz if shmctl(shmid, IPC_STAT, &status) == 0 else 0


cdef void set_arena(Arena *a, uint8_t *shard, plan, ShardControl *control, int which):
    a.bitmap = <uint64_t *> (shard + <size_t> plan.bitmap_offset)
    a.base = shard + <size_t> plan.base_offset
    a.granules = plan.granules
    a.granule_bytes = plan.granule_bytes
    a.longest = shard + <size_t> plan.longest_offset
    a.next_fit = &control.next_fit[which]
    a.used = &control.used[which]
    a.most = &control.longest[which]


cdef void set_shard(View *v, uint32_t number, plan):
    cdef Shard *s = v.shard + number
    cdef uint8_t *start = v.base + <size_t> plan.shards_offset + <size_t> plan.shard_bytes * number
    s.control = (<ShardControl *> (v.base + <size_t> plan.controls_offset)) + number
    s.directory = <uint32_t *> start
    s.soonest = <uint32_t *> (start + <size_t> plan.soonest_offset)
    s.directory_entries = plan.directory_entries
    s.feed = start + <size_t> plan.feed_offset
    s.feed_cells = plan.feed_cells
    s.number = number
    set_arena(&s.records, start, plan.records, s.control, 0)
    if plan.index is None:
        set_arena(&s.index, start, plan.records, s.control, 1)
        s.shared = True
    else:
        set_arena(&s.index, start, plan.index, s.control, 1)


cdef int make_view(View *v, void *base, geometry, int shmid, int semid, bint readonly) except -1:
    """Compute all addresses from the geometry."""
    plan = geometry.plan
    cdef uint32_t i
    memset(v, 0, sizeof(View))
    v.base = <uint8_t *> base
    v.bytes = plan.segment_bytes
    v.header = <Header *> base
    v.processes = <ProcessSlot *> (v.base + <size_t> plan.processes_offset)
    v.all_counters = <CounterBlock *> (v.base + <size_t> plan.counters_offset)
    v.counters = v.all_counters
    v.hash_key0 = v.header.hash_key0
    v.hash_key1 = v.header.hash_key1
    v.shards = geometry.shards
    v.shard_log2 = geometry.shards.bit_length() - 1
    v.version_shift = v.shard_log2 + plan.version_unit_log2
    v.max_value_bytes = geometry.max_value_bytes
    v.max_buckets = plan.max_buckets
    v.max_records = plan.max_records
    v.process_slots = plan.process_slots
    v.counter_blocks = plan.counter_blocks
    v.shmid = shmid
    v.semid = semid
    v.readonly = readonly
    v.ipc_namespace = ipc_namespace()
    v.evicts = v.header.evicts != 0
    v.shard = <Shard *> calloc(v.shards, sizeof(Shard))
    if v.shard == NULL:
        raise MemoryError("no memory for the view of the table")
    for i in range(v.shards):
        set_shard(v, i, plan)
    return 0


cdef int format_table(View *v, geometry, bint evicts) except -1:
    """Write header and empty index into a zero-filled segment; magic last."""
    cdef Header *h = v.header
    cdef bytes unique = os.urandom(16)
    cdef bytes key = os.urandom(16)
    cdef uint32_t i
    memcpy(h.uuid, <const char *> unique, 16)
    memcpy(&h.hash_key0, <const char *> key, 16)
    v.hash_key0 = h.hash_key0
    v.hash_key1 = h.hash_key1
    h.segment_bytes = geometry.segment_bytes
    h.created = <uint64_t> time.time()
    h.elements = geometry.elements
    h.element_bytes = geometry.element_size
    h.memory_bytes = geometry.memory_bytes
    h.max_value_bytes = geometry.max_item_bytes
    h.shards = v.shards
    h.feed_bytes = geometry.feed_bytes
    h.process_slots = v.process_slots
    h.counter_blocks = v.counter_blocks
    h.evicts = evicts
    v.evicts = evicts
    h.coarse_s = <uint32_t> (table_ns(v) // 1000000000)
    h.creator_pid = os.getpid()
    h.layout_version = LAYOUT_VERSION
    h.fingerprint = layout.fingerprint()
    for i in range(v.shards):
        v.shard[i].control.version = i      # versions of a shard are congruent to its number
        forget_longest(&v.shard[i].records)
        forget_longest(&v.shard[i].index)
        format_index(v, v.shard + i)
    store_release64(&h.magic, MAGIC)
    return 0


cdef int make_semaphores(int n, int mode) except -1:
    """A set of `n` free process slots."""
    cdef int semid = semget(IPC_PRIVATE, n, IPC_CREAT | mode)
    cdef unsigned short *ones
    cdef int i, r
    if semid < 0:
        raise system_error(
            f"cannot make a semaphore set of {n}", "see `ipcs -ls` for the limits (kernel.sem) and `memcache-shm ls` for leftovers")
    ones = <unsigned short *> malloc(n * sizeof(unsigned short))
    for i in range(n):
        ones[i] = 1
    r = semctl(semid, 0, SETALL, ones)
    free(ones)
    if r < 0:
        error = system_error("cannot initialise the semaphore set", "see `ipcs -s`")
        semctl(semid, 0, IPC_RMID)
        raise error
    return semid


def create(geometry: Geometry, mode: int, evicts: bool) -> tuple[int, int]:
    """Make and format the objects of a new table; returns (shmid, semid). OSError when the system refuses."""
    cdef View v
    cdef void *base
    cdef int semid = -1
    cdef size_t size = geometry.segment_bytes
    cdef int shmid = shmget(IPC_PRIVATE, size, IPC_CREAT | (mode & 0o666))
    if shmid < 0:
        raise system_error(
            f"cannot make a segment of {size} bytes", "see `ipcs -lm` (kernel.shmmax, shmall, shmmni) and use less memory (-m)")
    try:
        base = attach_memory(shmid, False)
        try:
            semid = make_semaphores(geometry.plan.process_slots, mode & 0o666)
            make_view(&v, base, geometry, shmid, semid, False)
            format_table(&v, geometry, evicts)
            free(v.shard)
        finally:
            shmdt(base)
    except BaseException:
        remove(shmid, semid)
        raise
    return shmid, semid


def remove(shmid: int, semid: int) -> bool:
    """Remove both objects; True when at least one was there. PermissionError when they are somebody else's."""
    cdef int denied = 0, done = 0
    if semid >= 0:
        if semctl(semid, 0, IPC_RMID) == 0:
            done += 1
        else:
            denied += errno != EINVAL and errno != EIDRM
    if shmctl(shmid, IPC_RMID, NULL) == 0:
        done += 1
    else:
        denied += errno != EINVAL and errno != EIDRM
    if denied:
        raise PermissionError(EACCES, f"no right to remove segment {shmid} and semaphore set {semid}; run as their owner or root")
    return done > 0


cdef read_geometry(Header *h):
    """The geometry a header states. ValueError when it makes no sense."""
    if h.elements:
        return Geometry.from_dict({"elements": h.elements, "element_size": h.element_bytes, "memory_bytes": 0,
                                   "max_item_bytes": h.element_bytes, "shards": h.shards, "feed_bytes": h.feed_bytes})
    return Geometry.from_dict({"elements": 0, "element_size": 0, "memory_bytes": h.memory_bytes,
                               "max_item_bytes": h.max_value_bytes, "shards": h.shards, "feed_bytes": h.feed_bytes})


cdef check_header(Header *h, size_t size, str uuid):
    """The geometry of a segment that is a whole table of this layout and this uuid; else LayoutError."""
    if size < sizeof(Header) or load_acquire64(&h.magic) != MAGIC:
        raise LayoutError("the segment holds no table of memcache_shm; remove it with `memcache-shm rm NAME`")
    if h.layout_version != LAYOUT_VERSION or h.fingerprint != layout.fingerprint():
        raise LayoutError(
            f"the table has layout {h.layout_version} of another build, this one is layout {LAYOUT_VERSION}; "
            "save it with the version that made it (`memcache-shm backup`), then `memcache-shm rm NAME`")
    if uuid and (<bytes> h.uuid[:16]).hex() != uuid:
        raise TableRemovedError("the segment's id was reused by another table: ours was removed")
    try:
        geometry = read_geometry(h)
    except ValueError as error:
        raise LayoutError(f"the table's header is damaged ({error}); remove it with `memcache-shm rm NAME`") from None
    plan = geometry.plan
    if (h.segment_bytes, h.process_slots, h.counter_blocks) != (plan.segment_bytes, plan.process_slots, plan.counter_blocks):
        raise LayoutError("the table's header is damaged (sizes do not match its geometry); remove it with `memcache-shm rm NAME`")
    if plan.segment_bytes > size:
        raise LayoutError(f"the segment has {size} bytes, its table {plan.segment_bytes}; remove it with `memcache-shm rm NAME`")
    return geometry


cdef int open_view(View *v, geometry, int shmid, int semid, bint readonly) except -1:
    """Attach and fill the view; `geometry` is what `inspect` returned."""
    cdef void *base = attach_memory(shmid, readonly)
    try:
        make_view(v, base, geometry, shmid, semid, readonly)
    except BaseException:
        shmdt(base)
        raise
    return 0


cdef int check_alive(Header *h, int shmid, int semid) except -1:
    """TableRemovedError when the table was removed although its memory can still be attached."""
    cdef shmid_ds status
    if load_acquire32(&h.retired) != 0 or shmctl(shmid, IPC_STAT, &status) != 0 or status.shm_perm.mode & SHM_DEST:
        raise TableRemovedError(f"the table in segment {shmid} was removed")
    if semctl(semid, 0, GETVAL) < 0 and (errno == EINVAL or errno == EIDRM):
        raise TableRemovedError(f"the table's semaphore set {semid} was removed; remove the rest with `memcache-shm rm NAME`")
    return 0


def inspect(shmid: int, semid: int, uuid: str) -> tuple[Geometry, str]:
    """Check a table without keeping it attached: its geometry and uuid. LayoutError, TableRemovedError, PermissionError."""
    cdef void *base = attach_memory(shmid, True)
    try:
        geometry = check_header(<Header *> base, segment_size(shmid), uuid)
        check_alive(<Header *> base, shmid, semid)
        return geometry, (<bytes> (<Header *> base).uuid[:16]).hex()
    finally:
        shmdt(base)


cdef void close_view(View *v) noexcept:
    """Detach. The process slot goes back first."""
    if v.base == NULL:
        return
    release_slot(v)
    shmdt(v.base)
    free(v.shard)
    v.base = NULL
    v.shard = NULL


def retire(shmid: int, uuid: str) -> None:
    """Tell everybody who is attached that the table is going away."""
    cdef void *base = attach_memory(shmid, False)
    try:
        check_header(<Header *> base, segment_size(shmid), uuid)
        store_release32(&(<Header *> base).retired, 1)
    finally:
        shmdt(base)
