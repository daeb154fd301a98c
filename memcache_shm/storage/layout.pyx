# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""Sizes of the shared structures for the planner in Python, and the fingerprint that tells one layout from another."""

from memcache_shm.storage.siphash cimport siphash13

LAYOUT = LAYOUT_VERSION
HEADER_BYTES = sizeof(Header)
PROCESS_SLOT_BYTES = sizeof(ProcessSlot)
COUNTER_BLOCK_BYTES = sizeof(CounterBlock)
SHARD_CONTROL_BYTES = sizeof(ShardControl)
RECORD_BYTES = sizeof(Record)
MAX_KEY_BYTES = KEY_MAX
INDEX_CHUNK_BYTES = CHUNK_BYTES
INDEX_CHUNK_BUCKETS = CHUNK_BUCKETS
INDEX_NODE_BYTES = NODE_BYTES
ARENA_BLOCK = BLOCK
FEED_CELL_BYTES = FEED_CELL

_FACTS = (
    LAYOUT_VERSION, sizeof(Header), sizeof(ProcessSlot), sizeof(CounterBlock), sizeof(Intent), sizeof(ShardControl),
    sizeof(Record), sizeof(RunLink), COUNTERS, MAX_RUNS, BUCKET_SLOTS, GHOSTS_AT, BLOCK, FEED_CELL, NODE_SLOTS, CHUNK_BUCKETS, EXPIRY_HZ,
    ACCESS_SHIFT, TAG_AT, VERSION_AT, USES_AT, FETCHED_AT, PROVEN_AT, ACCESS_AT, KIND_AT, sizeof(void *),
)


def fingerprint() -> int:
    """A 64-bit number that differs between two builds whose layouts differ."""
    cdef bytes facts = repr(_FACTS).encode()
    return siphash13(0, 0, <const char *> facts, len(facts))
