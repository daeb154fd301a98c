from dataclasses import dataclass

from memcache_shm.storage.table import Table

@dataclass(frozen=True)
class Cell:
    live: int = 0
    dead: int = 0
    index: int = 0
    free: int = 0

    @property
    def granules(self) -> int: ...

@dataclass(frozen=True)
class Occupancy:
    shard: int
    granule_bytes: int
    free_runs: int
    largest_free: int
    cells: tuple[Cell, ...]

def occupancy(table: Table, cells: int) -> list[Occupancy]: ...
def free_space(table: Table) -> dict[str, int]: ...
