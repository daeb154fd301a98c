from collections.abc import Callable
from dataclasses import dataclass, field

from memcache_shm.storage.table import Table

EXAMPLES: int
OPERATIONS: tuple[str, ...]

@dataclass(frozen=True)
class Finding:
    shard: int | None
    kind: str
    text: str
    count: int = 1

@dataclass
class Report:
    shards: int = 0
    records: int = 0
    items: int = 0
    granules: int = 0
    repaired: list[int] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)
    left: list[Finding] = field(default_factory=list)

def check_table(table: Table, *, repair: bool = False, progress: Callable[[int, int], object] | None = None) -> Report: ...
