"""The mutations of scripts/mutate.py: each an exact piece of the storage layer's text and what takes its place.

Not in the list, since no test here can tell them from the original on x86-64:

- fences, and release or acquire against relaxed: tests/memory_model;
- the second new generation of a compaction: it shows when the node's memory is reused during one look of a reader (tests/memory_model);
- the order of the stores of `begin`, and of those of `note`, among themselves (each left out is in the list): it shows only where a slot's
  old word equals the new one (tests/memory_model: death_anywhere);
- the new generation at the beginning of a repair: no test here puts a reader beside a repair (tests/memory_model: death_in_a_compaction);
- a reader that loads the slot that links twice: two neighbouring instructions, between which a whole compaction has to fall
  (tests/memory_model: compaction_of_the_last);
- giving the old record's granules back before the slot is published, or advancing the version counter after it: only owners of the lock see
  either, and a repair derives both anew.
"""

from __future__ import annotations

from mutation import Mutation, turned
from mutations_channels import CHANNELS
from mutations_intents import FEED, INTENTS

_SPLIT = """    if not copy_movers(v, s, from_, n):
        free_path(s, n)
        if n % CHUNK_BUCKETS == 0:
            give_chunk(s, n // CHUNK_BUCKETS)
        return
"""
_SPLIT_BOUND = "    note_expiry(s, n, s.soonest[from_ // CHUNK_BUCKETS])\n"
_MERGE_BOUND = "    note_expiry(s, buddy, s.soonest[last // CHUNK_BUCKETS])\n"
_PUBLISH_SPLIT = "    publish(v, s, OP_SPLIT, &s.control.split, split_next(split, n + 1))\n"
_PUBLISH_MERGE = "    publish(v, s, OP_MERGE, &s.control.split, split_next(split, last))\n"
_HIDE = "    s.directory[n // CHUNK_BUCKETS] ^= <uint32_t> 0xffffffff\n"
_EXTEND = """    cdef uint64_t *node
    cdef uint32_t granule
    if place.nodes >= MAX_NODES or place.tail == NULL:
        return False
    node = new_node(s, &granule)
    if node == NULL:
        return False
    node[0] = place.tail[0]
    store_release64(place.tail, link_word(granule))
"""
_GAPS = "        move_into_gaps(s, bucket, &last, keep)\n"
_COMPACT = (
    _GAPS
    + """        rest = 0
        if keep:
            for i in range(last.n):
                if word_kind(last.slots[i]) == KIND_ENTRY:
                    rest = last.slots[i]    # the last one: those before it were moved
        link = last.link[0]
        bump(s)
        store_release64(last.link, rest)
"""
)
_CUTOFF = """    store_relaxed64(&s.control.cutoff, load_relaxed64(&s.control.version))
    s.control.items = 0
    s.control.bytes = 0
"""
_MERGE = """    walk(s, last, &p)
    while p.slots != NULL:
        for i in range(p.n):
            if word_kind(p.slots[i]) == KIND_ENTRY and not put_entry(v, s, buddy, p.slots[i]):
                drop_movers(v, s, buddy, last + 1)
                compact(v, s, buddy)
                return
        if not walk_on(s, &p):
            break
"""
_FILL_AND_PUBLISH = """    fill(&s.records, &runs, f)
    slot = t.place.slot if t.place.slot != NULL else t.place.empty
    old = slot[0]
    t.fresh = runs.start[0]
    t.stored = record_bytes(f, length)
    word = new_word(v, t, runs.start[0], f.version)
    note_expiry(s, t.place.bucket, f.expiry)
    if is_heard(v):
        feed = prepare(v, s, FEED_SET, f.key, f.key_length, f.version)
    publish_told(v, s, OP_STORE, slot, word, feed)
"""
_MOVE = """    fill(&s.records, &runs, &f)
    publish(v, s, OP_MOVE, slot, (old & ~<uint64_t> GRANULE_MASK) | <uint64_t> at)
"""

ORDER = [
    Mutation(
        "slot published before the record is filled",
        "placing.pyx",
        _FILL_AND_PUBLISH,
        turned(_FILL_AND_PUBLISH, 7),
        ("placing",),
        ("set, new",),
    ),
    Mutation("moved record's slot published before it is filled", "room.pyx", _MOVE, turned(_MOVE, 1), ("room",), ("index grows",)),
    Mutation(
        "version not advanced",
        "placing.pyx",
        "    store_release64(&s.control.version, f.version)\n",
        "",
        ("placing",),
        ("set, new",),
    ),
    Mutation(
        "record's version left out",
        "records.pyx",
        "    store_release64(&r.version, f.version)\n",
        "",
        ("records",),
        ("set, new",),
    ),
    Mutation(
        "split word before the copy",
        "index.pyx",
        _SPLIT + _SPLIT_BOUND + _PUBLISH_SPLIT,
        _SPLIT_BOUND + _PUBLISH_SPLIT + _SPLIT,
        ("index",),
        ("split",),
    ),
    Mutation(
        "split: old bucket cleared before the split word",
        "index.pyx",
        _PUBLISH_SPLIT + "    drop_movers(v, s, from_, n + 1)\n",
        "    drop_movers(v, s, from_, n + 1)\n" + _PUBLISH_SPLIT,
        ("index",),
        ("split",),
    ),
    Mutation(
        "merge: split word before the copy",
        "index.pyx",
        _MERGE + _MERGE_BOUND + _PUBLISH_MERGE,
        _MERGE_BOUND + _PUBLISH_MERGE + _MERGE,
        ("index",),
        ("merge",),
    ),
    Mutation(
        "merge: bucket emptied before the split word",
        "index.pyx",
        _PUBLISH_MERGE + "    free_path(s, last)\n",
        "    free_path(s, last)\n" + _PUBLISH_MERGE,
        ("index",),
        ("merge",),
    ),
    Mutation(
        "chunk not in the directory", "index.pyx", "    store_release32(&s.directory[chunk], <uint32_t> at)\n", "", ("index",), ("split",)
    ),
    Mutation(
        "chunk in the directory after the split word",
        "index.pyx",
        _PUBLISH_SPLIT,
        f"    if n % CHUNK_BUCKETS == 0:\n    {_HIDE}{_PUBLISH_SPLIT}    if n % CHUNK_BUCKETS == 0:\n    {_HIDE}",
        ("index",),
        ("split",),
    ),
    Mutation(
        "new node linked before it holds the entry",
        "index.pyx",
        _EXTEND,
        _EXTEND.replace("    cdef uint32_t granule\n", "    cdef uint32_t granule\n    cdef uint64_t entry = place.tail[0]\n").replace(
            "    node[0] = place.tail[0]\n    store_release64(place.tail, link_word(granule))\n",
            "    store_release64(place.tail, link_word(granule))\n    node[0] = entry\n",
        ),
        ("index",),
        ("new node",),
    ),
    Mutation(
        "compaction: link not replaced",
        "index.pyx",
        "        store_release64(last.link, rest)\n",
        "",
        ("index",),
        ("compaction",),
    ),
    Mutation(
        "compaction: link replaced before the gaps are filled",
        "index.pyx",
        _COMPACT,
        _COMPACT.replace(_GAPS, "").replace("(last.link, rest)\n", "(last.link, rest)\n" + _GAPS),
        ("index",),
        ("compaction",),
    ),
    Mutation(
        "zone lowered before the records have left it",
        "room.pyx",
        """    if not clear_window(v, s, low - ZONE_STEP, low, pinned, True):
        return False
    store_release32(&s.control.zone, low - ZONE_STEP)""",
        """    store_release32(&s.control.zone, low - ZONE_STEP)
    if not clear_window(v, s, low - ZONE_STEP, low, pinned, True):
        return False
    store_release32(&s.control.zone, low - ZONE_STEP)""",
        ("room",),
        ("index grows",),
    ),
    Mutation(
        "flush noted before the cut-off",
        "recovery.pyx",
        _CUTOFF,
        "    store_release64(&s.control.flush_applied, flush_ns)\n" + _CUTOFF,
        ("recovery",),
        ("flush",),
    ),
    Mutation(
        "flush: cut-off left out",
        "recovery.pyx",
        "    store_relaxed64(&s.control.cutoff, load_relaxed64(&s.control.version))\n    s.control.items = 0\n",
        "    s.control.items = 0\n",
        ("recovery",),
        ("flush",),
    ),
    Mutation(
        "next expiry not noted by a store",
        "placing.pyx",
        "    note_expiry(s, t.place.bucket, f.expiry)\n",
        "",
        ("placing",),
        ("set, expiring",),
    ),
    Mutation(
        "next expiry not noted by a touch",
        "placing.pyx",
        "    note_expiry(t.shard, t.place.bucket, expiry)\n",
        "",
        ("placing",),
        ("touch", "gat"),
    ),
    Mutation(
        "a new owner does not look for an intent", "locks.pyx", "    if r == LOCKED:\n        enter(v, s)\n", "", ("locks",), ("set, new",)
    ),
    Mutation("who claims a slot does not free its locks", "locks.pyx", "            inherit(v, slot)\n", "", ("locks",), ("claim",)),
    Mutation(
        "a process slot's epoch is not advanced",
        "locks.pyx",
        "            store_release32(&v.processes[slot].epoch, epoch)\n",
        "",
        ("locks",),
    ),
]

READERS = [
    Mutation(
        "compaction: no new generation before the link is replaced",
        "index.pyx",
        "        bump(s)\n        store_release64(last.link, rest)\n",
        "        store_release64(last.link, rest)\n",
        ("index",),
        reading=("compaction",),
    ),
    Mutation(
        "a reader does not compare the split word",
        "reader.pyx",
        "    return load_relaxed64(&s.control.split) == f.split\n",
        "    return True\n",
        ("reader",),
        reading=("split, overflow",),
    ),
    Mutation(
        "a reader does not compare slot and version",
        "reader.pyx",
        "    if hit and not same_record(f):\n        return False\n    fence_acquire()\n",
        "    fence_acquire()\n",
        ("reader",),
        reading=("set, smaller", "delete"),
    ),
    Mutation(
        "a reader takes a miss for granted when a record was replaced meanwhile",
        "reader.pyx",
        "                if not f.locked and not same_record(f):\n                    return AGAIN",
        "                if False:\n                    return AGAIN",
        ("reader",),
        reading=("set, smaller", "set, larger"),
    ),
]

MUTATIONS = INTENTS + FEED + ORDER + READERS + CHANNELS
