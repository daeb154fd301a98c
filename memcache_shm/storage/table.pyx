# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False, auto_pickle=False
"""A table as one process has it: the view of the segment with all operations, and the figures it can tell.

Reading is reader.pyx, changing is writer.pyx and flushing.pyx; here they meet the Python side: making, attaching, closing, statistics.
"""

from libc.stdint cimport int64_t, uint32_t, uint64_t

from memcache_shm.storage.atomics cimport (
    CLOCK_MONOTONIC, clock_ns, fetch_add64, load_acquire64, load_relaxed64, store_relaxed32, store_release32,
)
from memcache_shm.storage.feed cimport is_heard
from memcache_shm.storage.layout cimport BUCKET_SLOTS, NODE_SLOTS, Record, split_buckets
from memcache_shm.storage.listening cimport heads
from memcache_shm.storage.reaping cimport may_have_dead, reclaim
from memcache_shm.storage.recovery cimport OP_EXPIRE, begin, end
from memcache_shm.storage.results cimport Change, Claim, Found, NO_COUNT, NO_EXPIRY, OK, TRY
from memcache_shm.storage.segment cimport close_view, open_view
from memcache_shm.storage.locks cimport LOCKED, give, objects_gone, sweep, take
from memcache_shm.storage.view cimport Shard, Witness, flush_pending, is_retired, left_s, table_ns
from memcache_shm.storage cimport claims, flushing, reader, writer

from memcache_shm.storage import segment
from memcache_shm.storage.counters import COUNTER_NAMES as _COUNTER_NAMES

cdef enum:
    CLOCK_MOST_S = 0x10000000       # 8.5 years: half of what an expiry can tell
    SLICE_CHUNKS = 4                # that `reclaim` sweeps before it gives the shard's lock back


cdef class Table:
    """One process's handle of a table. Make it with `create` or `attach`; it works on in a forked child."""

    @staticmethod
    def create(geometry, *, int mode=0o600, bint evict=True):
        """Make a new, empty table and attach it. OSError when the system refuses the segment or the semaphores."""
        shmid, semid = segment.create(geometry, mode, evict)
        try:
            return Table.attach(shmid, semid, "")
        except BaseException:
            segment.remove(shmid, semid)
            raise

    @staticmethod
    def attach(int shmid, int semid, str uuid, *, bint readonly=False):
        """Attach an existing table. LayoutError, TableRemovedError (gone, or its id reused), PermissionError."""
        cdef Table t = Table.__new__(Table)
        t.geometry, t.uuid = segment.inspect(shmid, semid, uuid)
        t.shmid = shmid
        t.semid = semid
        open_view(&t.view, t.geometry, shmid, semid, readonly)
        return t

    def __dealloc__(self):
        close_view(&self.view)

    cdef bint is_open(self) noexcept nogil:
        return self.view.base != NULL

    cdef int find(self, Found *f, const char *key, size_t klen, int wait) noexcept nogil:
        return reader.find(&self.view, f, key, klen, wait)

    cdef void copy(self, Found *f, char *dst) noexcept nogil:
        reader.copy(&self.view, f, dst)

    cdef bint confirm(self, Found *f) noexcept nogil:
        return reader.confirm(&self.view, f)

    cdef int find_touch(self, Found *f, const char *key, size_t klen, uint32_t expiry, int wait) noexcept nogil:
        cdef int r
        if f.tries == 0:
            r = writer.touch(&self.view, key, klen, expiry, wait)
            if r != OK:
                return r
            f.omit |= NO_EXPIRY | NO_COUNT      # what is counted is the touch
        return reader.find(&self.view, f, key, klen, wait)

    cdef int find_claim(self, Found *f, const char *key, size_t klen, const Claim *claim, int wait) noexcept nogil:
        return claims.find_claim(&self.view, f, key, klen, claim, wait)

    cdef int store(self, Change *c, int wait) noexcept nogil:
        return writer.store(&self.view, c, wait)

    cdef int remove(self, const Change *c, int wait) noexcept nogil:
        return writer.remove(&self.view, c, wait)

    cdef int invalidate(self, Change *c, int wait) noexcept nogil:
        return writer.invalidate(&self.view, c, wait)

    cdef int arith(self, Change *c, int wait) noexcept nogil:
        return writer.arith(&self.view, c, wait)

    cdef int touch(self, const char *key, size_t klen, uint32_t expiry, int wait) noexcept nogil:
        return writer.touch(&self.view, key, klen, expiry, wait)

    cdef int flush(self, int64_t delay_s, int wait) noexcept nogil:
        return flushing.flush(&self.view, delay_s, wait)

    cdef void tell(self, Witness witness, void *whose) noexcept nogil:
        """Have somebody hear of this process's own evictions."""
        self.view.whose = whose
        self.view.witness = witness

    cdef bint shift_clock(self, int64_t seconds) noexcept nogil:
        """Move the table's clock, for everybody. False, and nothing moved: not allowed here, or out of what the clock can tell."""
        cdef int64_t now_s = <int64_t> (table_ns(&self.view) // 1000000000)
        if self.view.readonly or not -now_s < seconds < CLOCK_MOST_S - now_s:
            return False
        fetch_add64(<uint64_t *> &self.view.header.clock_shift_ns, <uint64_t> (seconds * 1000000000))
        store_relaxed32(&self.view.header.coarse_s, <uint32_t> (now_s + seconds))
        return True

    cdef uint32_t expiry_from(self, int64_t exptime) noexcept nogil:
        return writer.expiry_from(&self.view, exptime)

    cdef int64_t seconds_left(self, uint32_t expiry) noexcept nogil:
        return left_s(&self.view, expiry)

    cdef uint32_t idle_s(self, const Found *f) noexcept nogil:
        return reader.idle_s(&self.view, f)

    cdef uint32_t busy_pid(self) noexcept nogil:
        return self.view.busy_pid

    @property
    def readonly(self):
        """Whether the mapping is read-only."""
        return bool(self.view.readonly)

    @property
    def evicts(self):
        """False: a full table refuses (-M)."""
        return bool(self.view.evicts)

    @property
    def follows(self):
        """Whether the table is a copy of another one that nobody may change but who keeps it in step (see following.pyx)."""
        return self.is_open() and self.view.header.follows != 0

    @property
    def max_value(self):
        """Bytes of the largest value."""
        return self.view.max_value_bytes

    @property
    def closed(self):
        """Whether the handle was closed."""
        return not self.is_open()

    @property
    def retired(self):
        """Whether the table is known to be removed."""
        return self.is_open() and is_retired(&self.view)

    def is_removed(self):
        """Ask the kernel whether segment and semaphores are still there; if not, the table is retired from now on."""
        self.check_open()
        return self.retired or objects_gone(&self.view)

    def sweep(self):
        """Take over and repair every shard whose owner died; how many. For who has just seen a process die."""
        cdef uint32_t n
        self.check_open()
        with nogil:
            n = sweep(&self.view)
        return n

    def reclaim(self, double limit_s):
        """Give the space of expired and flushed items back, for about `limit_s` seconds at most: the sweep in the background. Whether
        some may be left. Shards without any cost one look, shards whose lock is taken are passed over. The coarse clock is set, too:
        where nothing is written nobody else does it."""
        cdef uint64_t stop_ns = clock_ns(CLOCK_MONOTONIC) + <uint64_t> (limit_s * 1000000000)
        cdef uint32_t i, number, now
        cdef bint left = False
        cdef Shard *s
        self.check_open()
        if self.view.readonly or is_retired(&self.view):
            return False
        store_relaxed32(&self.view.header.coarse_s, <uint32_t> (table_ns(&self.view) // 1000000000))    # where nobody writes
        with nogil:
            for i in range(self.view.shards):
                number = (self.reclaimed + i) & (self.view.shards - 1)
                s = self.view.shard + number
                while (may_have_dead(&self.view, s, &now) or flush_pending(&self.view, s)) and take(&self.view, s, TRY) == LOCKED:
                    begin(&self.view, s, OP_EXPIRE)
                    reclaim(&self.view, s, SLICE_CHUNKS)
                    end(s)
                    give(&self.view, s)
                    if clock_ns(CLOCK_MONOTONIC) >= stop_ns:
                        self.reclaimed = number + 1     # the next shard's turn
                        left = True
                        break
                if left:
                    break
        return left

    @property
    def created(self):
        """When the table was made, unix time in seconds."""
        self.check_open()
        return self.view.header.created

    cdef int check_open(self) except -1:
        if not self.is_open():
            raise ValueError("the table's handle is closed")
        return 0

    def retire(self):
        """Tell everybody who is attached that the table is going away; their next call raises or attaches its successor."""
        self.check_open()
        if not self.view.readonly:
            store_release32(&self.view.header.retired, 1)

    def destroy(self):
        """Retire the table and remove its segment and semaphores. The mapping stays until `close`."""
        self.retire()
        return segment.remove(self.shmid, self.semid)

    def close(self):
        """Detach. Idempotent."""
        close_view(&self.view)

    def __len__(self):
        cdef uint64_t n = 0
        cdef uint32_t i
        self.check_open()
        for i in range(self.view.shards):
            if not flush_pending(&self.view, self.view.shard + i):
                n += min(load_relaxed64(&self.view.shard[i].control.items), <uint64_t> self.view.shard[i].records.granules)
        return n

    cdef uint64_t counter_sum(self, int which) noexcept:
        cdef uint64_t n = 0
        cdef uint32_t i
        for i in range(self.view.counter_blocks):
            n += load_relaxed64(&self.view.all_counters[i].count[which])
        return n

    def stats(self):
        """Figures of the table by memcached's names, `shm_...` for our own; all int."""
        self.check_open()
        out = {name: self.counter_sum(i) for i, name in enumerate(_COUNTER_NAMES)}
        out["cmd_touch"] = out["touch_hits"] + out["touch_misses"]
        out["curr_items"] = len(self)
        out["shm_evicted_new"] = max(0, out["evictions"] - out["shm_evicted_proven"])
        out["limit_maxbytes"] = self.view.bytes
        out["shm_shards"] = self.view.shards
        out["shm_feed_bytes"] = self.geometry.feed_bytes
        out["shm_feed_position"] = heads(&self.view)
        out["shm_feed_heard"] = int(is_heard(&self.view))
        out.update(self.shard_sums())
        return out

    cdef dict shard_sums(self):
        cdef Shard *s
        cdef uint32_t i
        cdef uint64_t buckets = 0, nodes = 0, records = 0, news = 0, size = 0, used = 0, granules = 0, index = 0
        cdef uint64_t repairs = 0, completed = 0, cancelled = 0, repair_ns = 0
        for i in range(self.view.shards):
            s = self.view.shard + i
            buckets += split_buckets(load_acquire64(&s.control.split))
            nodes += s.control.nodes
            records += s.control.records
            news += s.control.news
            size += 0 if flush_pending(&self.view, s) else s.control.bytes
            used += <uint64_t> s.records.used[0] * s.records.granule_bytes
            index += <uint64_t> s.index.used[0] * s.index.granule_bytes
            granules += <uint64_t> s.records.granules * s.records.granule_bytes
            repairs += s.control.repairs
            completed += s.control.completed
            cancelled += s.control.cancelled
            repair_ns += s.control.repair_ns
        return {
            "bytes": size, "hash_bytes": buckets * 64 + nodes * 32, "hash_power_level": max(0, (buckets * 8 - 1).bit_length()),
            "shm_buckets": buckets, "shm_overflow_nodes": nodes, "shm_records": records, "shm_new_records": news,
            "shm_arena_bytes": granules, "shm_arena_used_bytes": used,
            "shm_fill_percent": 100 * (used + (0 if self.geometry.elements else index)) // (granules or 1),
            "shm_index_fill_percent": 100 * records // (buckets * BUCKET_SLOTS + nodes * (NODE_SLOTS - 1) or 1),
            "shm_overhead_bytes_per_item": _overhead(used + index, size, records),
            "shm_repairs": repairs, "shm_repairs_completed": completed, "shm_repairs_cancelled": cancelled,
            "shm_repair_us": repair_ns // 1000,
            "shm_repair_us_per_mib": (<object> repair_ns << 20) // (1000 * (<object> repairs or 1) * self.geometry.plan.shard_bytes),
        }


cdef object _overhead(uint64_t taken, uint64_t size, uint64_t records):
    """Bytes an item takes besides its key and value: header, rounding up, its part of the index. 0 without items."""
    cdef uint64_t payload = size - min(size, records * sizeof(Record))
    return (taken - min(taken, payload)) // records if records else 0
