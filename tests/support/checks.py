"""What the package's own check says of a table."""

from __future__ import annotations

import memcache_shm
from memcache_shm.storage.check import check_table


def is_whole(cache: memcache_shm.Cache) -> bool:
    return not check_table(cache.attached_table).findings
