"""memcache_shm: one table in System V shared memory, and many doors onto it.

    cache = memcache_shm.open("app", memory="64m")      # create or attach; no daemon needed
    cache = memcache_shm.attach("memcache_shm-11211")   # a daemon's table
    cache.set("key", b"value"); cache.get("key")        # pymemcache's methods

`python -m memcache_shm --help` is the daemon.
"""

from memcache_shm.client.api import attach, open, unlink
from memcache_shm.client.cache import Cache
from memcache_shm.errors import (
    BusyError,
    ClosedError,
    IllegalInputError,
    LayoutError,
    MemcacheError,
    NoSpaceError,
    ReadOnlyError,
    RemoteError,
    TableExistsError,
    TableNotFoundError,
    TableRemovedError,
    TooLargeError,
)
from memcache_shm.version import __version__

__all__ = [
    "BusyError",
    "Cache",
    "ClosedError",
    "IllegalInputError",
    "LayoutError",
    "MemcacheError",
    "NoSpaceError",
    "ReadOnlyError",
    "RemoteError",
    "TableExistsError",
    "TableNotFoundError",
    "TableRemovedError",
    "TooLargeError",
    "__version__",
    "attach",
    "open",
    "unlink",
]
