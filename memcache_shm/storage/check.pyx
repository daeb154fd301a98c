# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False, auto_pickle=False
"""Verifying every invariant of a table, shard by shard under the shard's lock, against a picture derived from the slots alone.

For each shard: the index (directory, buckets, overflow nodes), every record it leads to (place, key, home, versions, runs), the free
map (nothing overlaps, nothing leaks), the counts, and what the shard's control words promise. An intent that a dead process left is a
finding, too; without `repair` it stays as it is, for the next writer.
"""

from dataclasses import dataclass, field

from libc.stdint cimport uint32_t, uint64_t
from libc.stdlib cimport calloc, free

from memcache_shm.storage.arena cimport Runs, all_free, blocks, is_used, longest_in, mark
from memcache_shm.storage.atomics cimport load_relaxed32, load_relaxed64, store_relaxed64, store_release64
from memcache_shm.storage.index cimport Path, node_at, walk
from memcache_shm.storage.layout cimport (
    CHUNK_BUCKETS, CHUNK_BYTES, KIND_ENTRY, KIND_LINK, LONGEST_MOST, MAX_NODES, NODE_BYTES, NODE_SLOTS, PROVEN_AT, Record, ShardControl,
    bucket_of, entry_pattern, pattern_mask, split_buckets, word_granule, word_kind,
)
from memcache_shm.storage.locks cimport LOCKED, LOCK_BUSY_OWNER, LOCK_RETIRED, give, hold, slot_units
from memcache_shm.storage.records cimport (
    Sizes, are_sane, key_of, key_offset, record_at, record_runs, runs_whole, sizes_of, value_length, word_matches,
)
from memcache_shm.storage.recovery cimport DONE, OP_NONE, repair as _repair, sensible
from memcache_shm.storage.table cimport Table
from memcache_shm.storage.view cimport Arena, Shard, View, earlier, hash_key, records_end, shard_of

from memcache_shm.errors import NoSpaceError, ReadOnlyError, TableRemovedError

OPERATIONS = (
    "nothing", "a store", "a delete", "a touch", "an eviction", "an expiry", "a split", "a merge", "a move", "a flush", "a repair",
    "a mark",
)
EXAMPLES = 20       # findings of one kind in one shard that are told one by one


@dataclass(frozen=True)
class Finding:
    """One invariant that does not hold; `shard` is None for the table as a whole. `count` stands for that many alike."""

    shard: int | None
    kind: str
    text: str
    count: int = 1


@dataclass
class Report:
    """What a check saw. `findings` is what was wrong, `left` what still is after the repair (the same without one)."""

    shards: int = 0
    records: int = 0
    items: int = 0
    granules: int = 0
    repaired: list[int] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)
    left: list[Finding] = field(default_factory=list)


cdef class _Shard:
    """The derived picture of one shard while it is verified."""

    cdef View *view
    cdef Shard *shard
    cdef Arena records              # private free maps, filled from the slots
    cdef Arena index
    cdef uint32_t used[2]
    cdef uint32_t most              # of no use here
    cdef uint64_t n_records
    cdef uint64_t n_news
    cdef uint64_t n_items
    cdef uint64_t n_bytes
    cdef uint32_t n_nodes
    cdef uint32_t first_expiry
    cdef list found
    cdef dict kinds                 # kind -> how many
    cdef set versions
    cdef list again                 # addresses of slots whose item has a version that another has, too

    def __dealloc__(self):
        free(self.records.bitmap)
        free(self.index.bitmap)

    cdef int open(self, View *v, Shard *s) except -1:
        self.view = v
        self.shard = s
        self.found = []
        self.kinds = {}
        self.versions = set()
        self.again = []
        self.records = s.records
        self.index = s.index
        self.records.most = self.index.most = &self.most
        self.records.used = &self.used[0]
        self.index.used = &self.used[1]
        self.records.bitmap = <uint64_t *> calloc(s.records.granules // 64 + 1, 8)
        self.index.bitmap = <uint64_t *> calloc(s.index.granules // 64 + 1, 8)
        if self.records.bitmap == NULL or self.index.bitmap == NULL:
            raise MemoryError("no memory for the derived free map")
        return 0

    cdef int say(self, str kind, str text) except -1:
        cdef object n = self.kinds.get(kind, 0) + 1
        self.kinds[kind] = n
        if n <= EXAMPLES:
            self.found.append(Finding(self.shard.number, kind, text))
        return 0

    cdef list findings(self):
        """What was said, and how much more of each kind there is."""
        more = [
            Finding(self.shard.number, kind, f"and {n - EXAMPLES} more", n - EXAMPLES) for kind, n in self.kinds.items() if n > EXAMPLES
        ]
        return self.found + more

    cdef int verify(self) except -1:
        cdef uint32_t n_buckets = split_buckets(load_relaxed64(&self.shard.control.split)), b
        self.intent()
        if not sensible(self.view, self.shard):
            self.say("control", "number of buckets, index zone, use counts, flush cut-off or version counter are out of range")
            return 0
        self.chunks(n_buckets)
        for b in range(n_buckets):
            self.bucket(b, n_buckets)
            if b % 256 == 0:
                store_relaxed64(&self.shard.control.progress, load_relaxed64(&self.shard.control.progress) + 1)
        self.maps()
        self.counts()
        return 0

    cdef int intent(self) except -1:
        cdef uint32_t operation = load_relaxed32(&self.shard.control.intent.operation)
        if operation == OP_NONE:
            return 0
        operation &= ~<uint32_t> DONE
        what = OPERATIONS[operation] if operation < <uint32_t> len(OPERATIONS) else "something unknown"
        self.say("intent", f"process {self.shard.control.intent.pid} died amid {what}; the next write to this shard repairs it")
        return 0

    cdef int chunks(self, uint32_t n_buckets) except -1:
        """Index chunks lie where the directory says, aligned, in the index's part, and nowhere twice."""
        cdef Shard *s = self.shard
        cdef uint32_t chunk, n = CHUNK_BYTES // s.index.granule_bytes
        cdef uint64_t at
        for chunk in range((n_buckets + CHUNK_BUCKETS - 1) // CHUNK_BUCKETS):
            at = s.directory[chunk] if chunk < s.directory_entries else <uint64_t> 0xffffffff
            if at * s.index.granule_bytes % 64 != 0 or at < self.index_start() or not self.take(&self.index, at, n):
                self.say("directory", f"index chunk {chunk} is said to lie at granule {at}, where it cannot")
        return 0

    cdef uint32_t index_start(self) noexcept:
        return self.shard.control.zone if self.shard.shared else 0

    cdef bint take(self, Arena *a, uint64_t start, uint64_t n) noexcept:
        """Mark in the derived map; False when out of bounds or not free there."""
        if n == 0 or start + n > a.granules or not all_free(a, <uint32_t> start, <uint32_t> n):
            return False
        mark(a, <uint32_t> start, <uint32_t> n)
        return True

    cdef int bucket(self, uint32_t bucket, uint32_t n_buckets) except -1:
        cdef Path p
        cdef uint32_t i
        cdef uint64_t w
        keys = set()
        walk(self.shard, bucket, &p)
        if p.slots == NULL:
            return 0                        # its chunk is a finding already
        while True:
            for i in range(p.n):
                w = p.slots[i]
                if word_kind(w) == KIND_ENTRY:
                    self.entry(p.slots + i, bucket, n_buckets, keys)
                elif w != 0 and not (word_kind(w) == KIND_LINK and i == p.n - 1):
                    self.say("slot", f"bucket {bucket} holds the word {w:#018x}, which is neither an item nor a link to go on")
            w = p.slots[p.n - 1]
            if word_kind(w) != KIND_LINK:
                return 0
            if p.nodes >= MAX_NODES or word_granule(w) < self.index_start() or node_at(self.shard, w) == NULL or not self.take(
                &self.index, word_granule(w), NODE_BYTES // self.shard.index.granule_bytes
            ):
                self.say("link", f"bucket {bucket} goes on at granule {word_granule(w)}, where no overflow node can be")
                return 0
            self.n_nodes += 1
            p.slots = node_at(self.shard, w)
            p.n = NODE_SLOTS
            p.nodes += 1

    cdef int entry(self, uint64_t *slot, uint32_t bucket, uint32_t n_buckets, set keys) except -1:
        """One item: the record is whole, at home, alone in its place, and its version is one of a kind."""
        cdef uint64_t w = slot[0]
        cdef View *v = self.view
        cdef Shard *s = self.shard
        cdef uint64_t at = word_granule(w), h
        cdef Record *r = record_at(&s.records, at)
        cdef Sizes sizes
        if r != NULL:
            sizes = sizes_of(r)
        if r == NULL or not are_sane(v, &s.records, r, sizes) or not word_matches(v, w, r.version) or at >= records_end(s):
            return self.say("record", f"bucket {bucket} leads to granule {at}, where no record with that version is")
        key = key_of(r, sizes)[:sizes.key_length]
        h = hash_key(v, <const char *> key, sizes.key_length)
        if shard_of(v, h) != s or bucket_of(h, n_buckets) != bucket or (w ^ entry_pattern(h)) & pattern_mask() != 0:
            return self.say("home", f"key {_show(key)} is found in bucket {bucket}, which is not its home")
        if key in keys:
            return self.say("twice", f"key {_show(key)} is there twice")
        keys.add(key)
        if not self.place(r, at, key):
            return 0
        if r.version in self.versions:
            self.again.append(<uint64_t> slot)
        self.version(r, key)
        self.n_records += 1
        self.n_news += not w >> PROVEN_AT & 1
        self.first_expiry = earlier(self.first_expiry, r.expiry)
        if r.expiry != 0 and earlier(s.soonest[bucket // CHUNK_BUCKETS], r.expiry) != s.soonest[bucket // CHUNK_BUCKETS]:
            self.say("expiry", f"key {_show(key)} expires at tick {r.expiry}, earlier than its index chunk's bound")
        if r.version > s.control.cutoff:
            self.n_items += 1
            self.n_bytes += key_offset(sizes) + sizes.key_length + <uint64_t> value_length(sizes)
        return 0

    cdef bint place(self, Record *r, uint64_t at, bytes key) except -1:
        """Its runs are within the records' part, enough for the value, and nobody else's."""
        cdef Shard *s = self.shard
        cdef Runs runs
        cdef uint32_t i
        if not record_runs(self.view, &s.records, r, &runs) or not runs_whole(&s.records, r, &runs):
            self.say("runs", f"key {_show(key)} at granule {at} does not fit its runs, or they do not belong together")
            return False
        for i in range(runs.n):
            if runs.start[i] + runs.granules[i] > records_end(s) or not self.take(&self.records, runs.start[i], runs.granules[i]):
                self.say("overlap", f"key {_show(key)}: granules {runs.start[i]} to {runs.start[i] + runs.granules[i] - 1} are another's")
                return False
        return True

    cdef int version(self, Record *r, bytes key) except -1:
        """CAS order: given out by this shard's counter, once."""
        if r.version > load_relaxed64(&self.shard.control.version) or r.version % self.view.shards != self.shard.number:
            self.say("version", f"key {_show(key)} has version {r.version}, which this shard has not given out")
        elif r.version in self.versions:
            self.say("version", f"key {_show(key)} has version {r.version}, which another item has, too")
        self.versions.add(r.version)
        return 0

    cdef int maps(self) except -1:
        """Free maps and use counts are what the slots say."""
        cdef Shard *s = self.shard
        if s.shared:
            self.compare("granule", &s.records, &self.records, &self.index)
        else:
            self.compare("cell", &s.records, &self.records, NULL)
            self.compare("index granule", &s.index, &self.index, NULL)
        if s.records.used[0] != self.used[0]:
            self.say("count", f"{s.records.used[0]} granules are said to hold records, {self.used[0]} do")
        if s.index.used[0] != self.used[1]:
            self.say("count", f"{s.index.used[0]} granules are said to hold the index, {self.used[1]} do")
        self.bounds("granules", &s.records)
        if not s.shared:
            self.bounds("index granules", &s.index)
        return 0

    cdef int bounds(self, str what, Arena *a) except -1:
        """No block has a longer free run than it is said to have: what is given back would not be found."""
        cdef uint32_t block
        for block in range(blocks(a, a.granules)):
            if longest_in(a, block) > a.longest[block] and a.longest[block] < LONGEST_MOST:
                self.say("free map", f"block {block} has {longest_in(a, block)} free {what} in a row, more than {a.longest[block]} as told")
        return 0

    cdef int compare(self, str what, Arena *a, Arena *derived, Arena *also) except -1:
        cdef uint32_t i, leaked = 0, unmarked = 0, first_leak = 0, first_unmarked = 0
        cdef bint used
        for i in range(a.granules):
            used = is_used(derived, i) or (also != NULL and is_used(also, i))
            if is_used(a, i) and not used:
                first_leak = first_leak if leaked else i
                leaked += 1
            elif used and not is_used(a, i):
                first_unmarked = first_unmarked if unmarked else i
                unmarked += 1
        if leaked:
            self.say("leak", f"{leaked} {what}s, the first {first_leak}, are taken but belong to nothing")
        if unmarked:
            self.say("free map", f"{unmarked} {what}s, the first {first_unmarked}, are in use but marked as free")
        return 0

    cdef int counts(self) except -1:
        cdef ShardControl *c = self.shard.control
        for name, has, derived in (
            ("records", c.records, self.n_records), ("new records", c.news, self.n_news), ("items", c.items, self.n_items),
            ("bytes", c.bytes, self.n_bytes),
            ("overflow nodes", c.nodes, self.n_nodes),
        ):
            if has != derived:
                self.say("count", f"{has} {name} are counted, {derived} are there")
        if self.first_expiry != 0 and (c.next_expiry == 0 or c.next_expiry > self.first_expiry):
            self.say("expiry", f"an item expires at tick {self.first_expiry}, earlier than the shard's bound {c.next_expiry}")
        return 0


cdef str _show(bytes key):
    return repr(key)[1:]


cdef list _process_slots(View *v):
    """Each has one unit in the kernel, or its process has it."""
    cdef uint32_t i
    return [
        Finding(None, "process slot", f"semaphore {i} has the value {slot_units(v, i)}, neither free (1) nor taken (0)")
        for i in range(v.process_slots) if slot_units(v, i) > 1
    ]


cdef bint _hold(View *v, Shard *s) except -1:
    """Lock without repairing. False: its owner does not give it back."""
    cdef int r
    with nogil:
        r = hold(v, s, True)
    if r == LOCK_RETIRED:
        raise TableRemovedError("the table was removed while it was checked")
    if r != LOCKED and r != LOCK_BUSY_OWNER:
        raise NoSpaceError("too many processes write to this table; close one, then check again")
    return r == LOCKED


cdef _Shard _look(View *v, Shard *s):
    """A shard that is held, verified."""
    cdef _Shard picture = _Shard.__new__(_Shard)
    picture.open(v, s)
    picture.verify()
    return picture


def check_table(Table table not None, *, repair=False, progress=None):
    """Verify every invariant of a table, one shard at a time under its lock; with `repair` rebuild the shards that have findings.

    progress: called with (shards done, shards) after each. Raises ReadOnlyError, NoSpaceError (no process slot),
    TableRemovedError. A shard that is kept locked is a finding, and the others are checked.
    """
    cdef View *v = &table.view
    cdef uint32_t i
    table.check_open()
    if v.readonly:
        raise ReadOnlyError("a check takes each shard's lock; attach the table with the right to write")
    report = Report()
    report.findings += _process_slots(v)
    report.left += report.findings
    for i in range(v.shards):
        if _hold(v, v.shard + i):
            try:
                _check_shard(v, v.shard + i, report, repair)
            finally:
                give(v, v.shard + i)
        else:
            busy = Finding(i, "busy", f"process {v.busy_pid} keeps it locked, is stopped or hung; continue it, then check again")
            report.findings.append(busy)
            report.left.append(busy)
        report.shards += 1
        if progress is not None:
            progress(report.shards, v.shards)
    return report


cdef int _check_shard(View *v, Shard *s, report, bint mend) except -1:
    cdef _Shard picture = _look(v, s)
    cdef uint64_t slot
    found = picture.findings()
    report.findings += found
    if found and mend:
        for slot in picture.again:      # a rebuild keeps no account of versions
            store_release64(<uint64_t *> slot, 0)
        _repair(v, s)
        picture = _look(v, s)
        report.repaired.append(s.number)
    report.left += picture.findings()
    report.records += picture.n_records
    report.items += picture.n_items
    report.granules += picture.used[0] + picture.used[1]
    return 0
