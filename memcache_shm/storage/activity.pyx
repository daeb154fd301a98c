# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False, auto_pickle=False
"""Whether a table's items have changed since somebody looked last, at the cost of a few loads a shard."""

from libc.stdint cimport uint32_t, uint64_t

from memcache_shm.storage.atomics cimport load_acquire64, load_relaxed64
from memcache_shm.storage.counters cimport TOUCH_HITS
from memcache_shm.storage.table cimport Table
from memcache_shm.storage.view cimport View, table_ns


def activity(Table table not None):
    """A tuple that is another one after any change of an item: by a store (version counters), a delete, an eviction or a sweep (numbers of
    items), a touch (its count), a flush_all (its deadline, and that this is over). What was done before the call is in it."""
    cdef View *v = &table.view
    cdef uint64_t versions = 0, items = 0, deadline
    cdef uint32_t i
    table.check_open()
    for i in range(v.shards):
        versions += load_acquire64(&v.shard[i].control.version)
        items += load_relaxed64(&v.shard[i].control.items)
    deadline = load_acquire64(&v.header.flush_ns)
    return versions, items, table.counter_sum(TOUCH_HITS), deadline, deadline != 0 and table_ns(v) >= deadline
