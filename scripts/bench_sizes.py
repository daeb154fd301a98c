"""Segments from 64 KiB to 8 GiB: the daemon's start, what it takes of memory, how long the table takes to fill, and that it serves."""

from __future__ import annotations

import contextlib
import re
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from bench_client import Client
from bench_report import OURS, Figure, Section
from bench_servers import MEMCACHED, Server, process_tree, running
from bench_tables import Plan, fill

import memcache_shm

KIB = 1 << 10
MIB = 1 << 20
GIB = 1 << 30
STORED_AT_ONCE = 2000
STARTS = 3
START_LIMIT_MS = 300
SPARE_BYTES = GIB // 2  # of the machine's memory that is left alone
QUICK_BYTES = 256 * MIB  # a quick run goes no further


@dataclass(frozen=True)
class _Size:
    """A segment, and the values that fill it. memcached takes whole MiB only: `mib` 0 leaves it out."""

    title: str
    bytes: int
    words: Sequence[str]  # of our command line
    value_bytes: int = 1000

    @property
    def mib(self) -> int:
        return self.bytes // MIB


SIZES = (
    _Size("64 KiB", 64 * KIB, ("-m", "64k", "-I", "8k"), value_bytes=100),
    _Size("1 MiB", MIB, ("-m", "1", "-I", "64k")),
    _Size("16 MiB", 16 * MIB, ("-m", "16")),
    _Size("64 MiB", 64 * MIB, ("-m", "64")),
    _Size("256 MiB", 256 * MIB, ("-m", "256")),
    _Size("1 GiB", GIB, ("-m", "1024")),
    _Size("4 GiB", 4 * GIB, ("-m", "4096")),
    _Size("8 GiB", 8 * GIB, ("-m", "8192")),
)


@dataclass
class _Found:
    """What was seen of one contender at one size."""

    start_ms: list[float]
    new_mib: float
    full_mib: float
    fill_s: float
    items: int


def measure(plan: Plan) -> list[Section]:
    """One size after the other, and no two servers at once, so that the largest need not fit twice."""
    figures: list[Figure] = []
    left_out: list[str] = []
    for size in SIZES:
        spare_bytes = _available_bytes() - SPARE_BYTES
        if plan.quick and size.bytes > QUICK_BYTES:
            left_out.append(f"{size.title} (--quick)")
        elif size.bytes * 1.1 > spare_bytes:
            left_out.append(f"{size.title} (the machine has {spare_bytes / GIB:.1f} GiB to spare)")
        else:
            figures += _measure_size(plan, size)
    how = (
        f"One worker. Start: from exec to the first reply, median of {STARTS} (lowest-highest). Memory: PSS of the processes without the\n"
        "segment, and what is resident of the segment (memcached: PSS). Full: at the first evictions, with 1000-byte values (64 KiB:\n"
        "100-byte), ours set by an attached process, memcached's over TCP. A set and a get over TCP were answered right afterwards."
    )
    if left_out:
        how += f"\nLeft out: {', '.join(left_out)}."
    return [Section("Segments of all sizes", how, figures)]


def _measure_size(plan: Plan, size: _Size) -> list[Figure]:
    found: dict[str, _Found] = {}
    for contender in (OURS, MEMCACHED) if size.mib else (OURS,):
        plan.progress.say(f"segments, {size.title}: {contender}")
        start_ms: list[float] = []
        for _ in range(STARTS - 1):
            with _started(plan, contender, size, start_ms):
                pass
        with _started(plan, contender, size, start_ms) as server:
            found[contender] = (_fill_ours if contender == OURS else _fill_memcached)(server, size, start_ms)
            _prove_it_serves(server, size)
    return [
        Figure(f"{size.title}: start", "ms", {n: f.start_ms for n, f in found.items()}, MEMCACHED, limit=START_LIMIT_MS),
        Figure(f"{size.title}: memory after the start", "MiB", {n: [f.new_mib] for n, f in found.items()}, MEMCACHED),
        Figure(f"{size.title}: memory when full", "MiB", {n: [f.full_mib] for n, f in found.items()}, MEMCACHED),
        Figure(f"{size.title}: items when full", "", {n: [f.items] for n, f in found.items()}, MEMCACHED, more_is_better=True),
        Figure(f"{size.title}: until full", "s", {OURS: [found[OURS].fill_s]}),
    ]


@contextlib.contextmanager
def _started(plan: Plan, contender: str, size: _Size, start_ms: list[float]) -> Iterator[Server]:
    """The server, running; how long that took is added to `start_ms`."""
    begin = time.perf_counter()
    with running((contender,), 1, plan.directory, size.mib, size.words) as servers:
        start_ms.append((time.perf_counter() - begin) * 1e3)
        yield servers[contender]


def _fill_ours(server: Server, size: _Size, start_ms: list[float]) -> _Found:
    with contextlib.closing(memcache_shm.attach(f"memcache_shm-{server.port}")) as cache:
        shmid = cache.attached_table.shmid
        new_mib = _resident_bytes(server, shmid) / MIB
        begin = time.perf_counter()
        fill(cache, [b"v" * size.value_bytes], b"f", evicted_share=0)
        fill_s = time.perf_counter() - begin
        return _Found(start_ms, new_mib, _resident_bytes(server, shmid) / MIB, fill_s, len(cache))


def _fill_memcached(server: Server, size: _Size, start_ms: list[float]) -> _Found:
    new_mib = server.memory_bytes() / MIB
    value = b"v" * size.value_bytes
    done = 0
    with server.connect() as connection:
        client = Client(connection)
        begin = time.perf_counter()
        while (figures := client.stats())[b"evictions"] == b"0":
            client.store((client.key(number), value) for number in range(done, done + STORED_AT_ONCE))
            done += STORED_AT_ONCE
        fill_s = time.perf_counter() - begin
    return _Found(start_ms, new_mib, server.memory_bytes() / MIB, fill_s, int(figures[b"curr_items"]))


def _prove_it_serves(server: Server, size: _Size) -> None:
    """RuntimeError unless a set and a get work on the full table."""
    value = b"w" * size.value_bytes
    with server.connect() as connection:
        client = Client(connection)
        refused = client.store([(b"after", value)])
        if refused or client.get(b"after") != value:
            raise RuntimeError(f"{server.name} does not serve with {size.title} full")


def _resident_bytes(server: Server, shmid: int) -> int:
    """What the processes hold without the segment, and what the segment holds, once.

    PSS would leave out what nobody has touched through its own mapping, and this process's part.
    """
    total_kib = 0
    for pid in process_tree(server.process.pid):
        for mapping in re.split(r"^(?=[0-9a-f]+-[0-9a-f]+ )", Path(f"/proc/{pid}/smaps").read_text(), flags=re.MULTILINE):
            if mapping and "/SYSV" not in mapping.partition("\n")[0]:
                total_kib += int(re.findall(r"^Pss: +(\d+) kB", mapping, re.MULTILINE)[0])
    return total_kib * KIB + _segment_bytes(shmid)


def _segment_bytes(shmid: int) -> int:
    """Resident pages of a segment, as /proc/sysvipc/shm tells (column rss)."""
    lines = Path("/proc/sysvipc/shm").read_text().splitlines()
    columns = lines[0].split()
    for line in lines[1:]:
        segment = dict(zip(columns, line.split(), strict=True))
        if int(segment["shmid"]) == shmid:
            return int(segment["rss"])
    raise RuntimeError(f"no segment {shmid} in /proc/sysvipc/shm")


def _available_bytes() -> int:
    """What the machine can give without swapping."""
    return KIB * int(re.findall(r"^MemAvailable: +(\d+) kB", Path("/proc/meminfo").read_text(), re.MULTILINE)[0])
