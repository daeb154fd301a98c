"""How long a shard's repair takes: writers are killed until enough of them died amid a change, and `stats shm` tells.

python scripts/bench_repair.py [MEMORY_MIB ...]
"""

from __future__ import annotations

import os
import signal
import sys
import tempfile

import memcache_shm

REPAIRS = 20  # for each line
SIZES = (10, 100, 1000, 10_000)  # bytes of a value


def main() -> int:
    """Print one line for each memory and size of values; 0."""
    print("memory MiB  value bytes  items a shard  MiB a shard  repair ms  us a MiB")
    with tempfile.TemporaryDirectory(prefix="memcache_shm-bench-") as directory:
        os.environ["MEMCACHE_SHM_DIR"] = directory
        for mib in [int(word) for word in sys.argv[1:]] or [64, 1024]:
            for size in SIZES:
                cache = memcache_shm.open("repair", memory=f"{mib}m")
                try:
                    _measure(cache, mib, size)
                finally:
                    memcache_shm.unlink("repair")
                    cache.close()
    return 0


def _measure(cache: memcache_shm.Cache, mib: int, size: int) -> None:
    value = os.urandom(size)
    shards = cache.attached_table.geometry.shards
    _fill(cache, value)
    killed = 0
    while (figures := cache.stats("shm"))[b"repairs"] < REPAIRS:
        _kill_a_writer(cache, value, killed)
        killed += 1
        cache.attached_table.sweep()
    ms = figures[b"repair_us"] / figures[b"repairs"] / 1000
    print(f"{mib:10}  {size:11}  {len(cache) // shards:13}  {mib / shards:11.1f}  {ms:9.2f}  {figures[b'repair_us_per_mib']:8}")


def _fill(cache: memcache_shm.Cache, value: bytes) -> None:
    """Until the table evicts."""
    at = 0
    while not cache.stats()[b"evictions"]:
        for _ in range(10_000):
            cache.set(b"key%d" % at, value)
            at += 1


def _kill_a_writer(cache: memcache_shm.Cache, value: bytes, seed: int) -> None:
    """A child writes; it is killed once it does."""
    before = cache.stats()[b"cmd_set"]
    pid = os.fork()
    if pid == 0:
        at = 0
        while True:
            cache.set(b"key%d.%d" % (seed, at), value)
            at += 1
    while cache.stats()[b"cmd_set"] < before + 100:
        os.sched_yield()
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)


if __name__ == "__main__":
    sys.exit(main())
