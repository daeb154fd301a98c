# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""Names of the event counts, in the order of counters.pxd; those of memcached where it has them, `shm_` ours."""

COUNTER_NAMES = (
    "get_hits", "get_misses", "get_expired", "get_flushed", "cmd_set", "cmd_flush", "touch_hits", "touch_misses",
    "delete_hits", "delete_misses", "incr_hits", "incr_misses", "decr_hits", "decr_misses", "cas_hits", "cas_misses",
    "cas_badval", "total_items", "evictions", "reclaimed", "expired_unfetched", "evicted_unfetched", "store_too_large",
    "store_no_memory", "shm_read_retries", "shm_read_locked", "shm_lock_waits", "shm_lock_busy", "shm_locks_taken_over",
    "shm_splits", "shm_merges", "shm_several_run_records",
    "shm_evicted_proven", "shm_returned_new", "shm_returned_proven", "crawler_reclaimed", "crawler_items_checked",
)

assert len(COUNTER_NAMES) == COUNTERS_USED
