"""memcache_shm: one table in System V shared memory, and many doors onto it.

    cache = memcache_shm.open("app", memory="64m")      # create or attach; no daemon needed
    cache = memcache_shm.attach("memcache_shm-11211")   # a daemon's table
    cache = memcache_shm.connect("channel:/run/app.sock")  # without mapping it: a channel, a UNIX socket, or HOST:PORT
    cache.set("key", b"value"); cache.get("key")        # pymemcache's methods
    mirror = memcache_shm.Mirror("cache-1:11211")       # all of a table as a dict that follows its changes
    for change in cache.subscribe("user:*"): ...        # as they happen; who was told "lost" gets all that is there anew

`python -m memcache_shm --help` is the daemon.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from memcache_shm.errors import (
    BusyError,
    ClosedError,
    FeedOffError,
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

if TYPE_CHECKING:
    from memcache_shm.client import channel_sockets
    from memcache_shm.client.api import attach, connect, open, unlink
    from memcache_shm.client.cache import Cache
    from memcache_shm.client.changes import Change
    from memcache_shm.client.mirror import Mirror
    from memcache_shm.client.mirrored import Item
    from memcache_shm.client.remote_cache import RemoteCache
    from memcache_shm.client.subscription import Subscription

__all__ = [
    "BusyError",
    "Cache",
    "Change",
    "ClosedError",
    "FeedOffError",
    "IllegalInputError",
    "Item",
    "LayoutError",
    "MemcacheError",
    "Mirror",
    "NoSpaceError",
    "ReadOnlyError",
    "RemoteCache",
    "RemoteError",
    "Subscription",
    "TableExistsError",
    "TableNotFoundError",
    "TableRemovedError",
    "TooLargeError",
    "__version__",
    "attach",
    "channel_sockets",
    "connect",
    "open",
    "unlink",
]

_HOMES = {  # of what is imported when it is asked for: the daemon needs none of it, and a program some
    "Cache": "cache",
    "Change": "changes",
    "Item": "mirrored",
    "Mirror": "mirror",
    "RemoteCache": "remote_cache",
    "Subscription": "subscription",
    "attach": "api",
    "channel_sockets": "channel_sockets",
    "connect": "api",
    "open": "api",
    "unlink": "api",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    home = import_module(f"memcache_shm.client.{_HOMES[name]}")
    found = globals()[name] = home if name == _HOMES[name] else getattr(home, name)
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
