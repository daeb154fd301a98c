"""How many items memcache_shm and memcached hold in the same memory."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy
from bench_client import Client
from bench_report import OURS, Figure, Section
from bench_servers import MEMCACHED, Server, running
from bench_tables import Plan

MEMORY_MIB = 64
QUICK_MIB = 16
ASKED_AT_ONCE = 50  # keys of one multi-get
STORED_AT_ONCE = 2000
PAYLOAD_SHARE = 0.90  # of the memory, for the mix


def _constant(size: int) -> Callable[[int], Sequence[int]]:
    return lambda count: [size] * count


def _lognormal(count: int) -> Sequence[int]:
    """Median 300 bytes, up to 16 KiB."""
    sizes = numpy.random.default_rng(7).lognormal(numpy.log(300), 1.0, count)
    return [int(size) for size in numpy.clip(sizes, 1, 16 * 1024)]


MIX = "lognormal mix"
#: What is written: name, sizes of values, how many into MEMORY_MIB, and how many times memcached's items ours should hold.
FILLS: tuple[tuple[str, Callable[[int], Sequence[int]], int, float], ...] = (
    ("values of 10 bytes", _constant(10), 3_000_000, 1.35),
    ("values of 100 bytes", _constant(100), 1_200_000, 1.2),
    ("values of 1000 bytes", _constant(1000), 200_000, 1.08),
    (MIX, _lognormal, 400_000, 1.12),
)


def measure(plan: Plan) -> list[Section]:
    """Both servers get the same items from the same client, far more than fit."""
    memory_mib = QUICK_MIB if plan.quick else MEMORY_MIB
    section = Section(f"Items held in -m {memory_mib}", "12-byte keys, written until far more than fits, then all asked for.")
    for name, sizes_of, count, ratio in FILLS:
        sizes = sizes_of(count * memory_mib // MEMORY_MIB)
        items: dict[str, list[float]] = {}
        payload: dict[str, list[float]] = {}
        with running((OURS, MEMCACHED), 1, plan.directory, memory_mib) as servers:
            for contender, server in servers.items():
                plan.progress.say(f"items held, {name}: {contender}")
                held = _fill_and_look(server, sizes)
                items[contender] = [len(held)]
                payload[contender] = [sum(12 + sizes[number] for number in held) / (memory_mib << 20)]
        limit = PAYLOAD_SHARE if name == MIX else None
        section.figures.append(Figure(name, "items", items, MEMCACHED, limit_ratio=ratio, more_is_better=True))
        section.figures.append(Figure(f"{name}: keys and values", "of the memory", payload, MEMCACHED, limit, more_is_better=True))
    return [section]


def _fill_and_look(server: Server, sizes: Sequence[int]) -> list[int]:
    """The numbers of the keys that are there after each was set once."""
    data = b"x" * max(sizes)
    with server.connect() as connection:
        client = Client(connection)
        for start in range(0, len(sizes), STORED_AT_ONCE):
            client.store((client.key(number), data[: sizes[number]]) for number in range(start, min(start + STORED_AT_ONCE, len(sizes))))
        found: list[int] = []
        for start in range(0, len(sizes), ASKED_AT_ONCE):
            found += client.present([client.key(number) for number in range(start, min(start + ASKED_AT_ONCE, len(sizes)))])
    return found
