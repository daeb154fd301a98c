from collections.abc import Iterator

from memcache_shm.client.items import Item
from memcache_shm.client.reading import Reading

ONE_INSTANT_BYTES: int

class Snapshot:
    data: memoryview
    items: int
    taken_ns: int
    held_ns: int
    highest_cas: int
    whole: bool
    def __init__(self, cache: Reading, shard: int | None = None) -> None: ...
    @property
    def bytes(self) -> int: ...
    def __len__(self) -> int: ...
    def __iter__(self) -> Iterator[Item]: ...

def snapshots(cache: Reading) -> Iterator[Snapshot]: ...
