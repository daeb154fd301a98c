"""How often memcache_shm and memcached have what is asked for, in the same memory."""

from __future__ import annotations

from bench_client import Client
from bench_report import OURS, Figure, Section
from bench_servers import MEMCACHED, Server, running
from bench_tables import Plan
from traces import TRACES, Keys

MEMORY_MIB = 16
VALUE_BYTES = 400
BATCH = 50  # keys of one multi-get
QUICK_SHARE = 4  # a quick run takes this part of each trace
#: How many points above memcached's the hit ratio should be.
ABOVE = {"Zipf 1.0": 3, "Zipf 0.8": 3, "Zipf 1.0 with one-hit wonders and scans": 4, "moving hot set": 0}


def measure(plan: Plan) -> list[Section]:
    """Both servers are asked the same by the same client."""
    section = Section(
        f"Hit ratio in -m {MEMORY_MIB}",
        f"A client gets {BATCH} keys at a time and sets what was missing, {VALUE_BYTES}-byte values; the second half of each trace counts.",
    )
    for name, trace_of in TRACES.items():
        trace = trace_of()
        if plan.quick:
            trace = trace[: len(trace) // QUICK_SHARE]
        percent: dict[str, list[float]] = {}
        with running((OURS, MEMCACHED), 1, plan.directory, MEMORY_MIB) as servers:
            for contender, server in servers.items():
                plan.progress.say(f"hit ratio, {name}: {contender}")
                percent[contender] = [100 * _hit_ratio(server, trace)]
        target = percent[MEMCACHED][0] + ABOVE[name]
        section.figures.append(Figure(name, "% hits", percent, MEMCACHED, target, more_is_better=True))
    return [section]


def _hit_ratio(server: Server, trace: Keys) -> float:
    """Of the second half of the requests, after the first has filled the cache."""
    hits = asked = 0
    value = b"x" * VALUE_BYTES
    with server.connect() as connection:
        client = Client(connection)
        for start in range(0, len(trace), BATCH):
            numbers = dict.fromkeys(trace[start : start + BATCH].tolist())
            present = set(client.present([client.key(number) for number in numbers]))
            missing = [(client.key(number), value) for number in numbers if number not in present]
            if missing:
                client.store(missing)
            if start >= len(trace) // 2:
                hits += len(present)
                asked += len(numbers)
    return hits / asked
