"""Walking through all items of a table."""

from memcache_shm.storage.table import Table

def oldest_idle_s(table: Table, start: float, most: int) -> int:
    """Seconds since the last access of the longest unused among about ``most`` items from the point ``start`` (0 to 1) of the table on."""
