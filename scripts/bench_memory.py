"""`make bench-memory`: how much memcache_shm and memcached hold in the same memory, and how often they have what is asked for.

Both are filled and asked over TCP by the same client. Prints tables, or with --json one JSON object; the exit status says whether
everything could be measured.
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import sys
import tempfile
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numpy
from bench_report import OURS, Figure, Progress, Section, machine
from bench_servers import MEMCACHED, Server, running
from traces import TRACES, Keys

FULL_MIB = 64
HIT_MIB = 16
VALUE_BYTES = 400
BATCH = 50  # keys of one multi-get
PIPELINE = 2_000  # sets sent before the client waits


def main() -> int:
    """Measure and print; 0, or 1 when a server failed."""
    options = _options()
    progress = Progress()
    with tempfile.TemporaryDirectory(prefix="memcache_shm-bench-") as name:
        os.environ["MEMCACHE_SHM_DIR"] = str(Path(name) / "tables")
        sections = []
        if options.only != "hits":
            sections.append(_held(Path(name), progress))
        if options.only != "held":
            sections.append(_hits(Path(name), progress))
    progress.done()
    if options.json:
        print(json.dumps({"machine": machine(), "sections": [section.to_dict() for section in sections]}, indent=2))
    else:
        print("\n".join(section.to_text() for section in sections))
    return 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="bench-memory", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="for programs")
    parser.add_argument("--only", choices=("held", "hits"), help="one half of it")
    return parser.parse_args()


# Items held


def _constant(size: int) -> Callable[[int], Sequence[int]]:
    return lambda count: [size] * count


def _lognormal(count: int) -> Sequence[int]:
    """Median 300 bytes, up to 16 KiB."""
    sizes = numpy.random.default_rng(7).lognormal(numpy.log(300), 1.0, count)
    return [int(size) for size in numpy.clip(sizes, 1, 16 * 1024)]


#: What is written: name, sizes of values, how many, and how many times memcached's items ours should hold.
FILLS: tuple[tuple[str, Callable[[int], Sequence[int]], int, float], ...] = (
    ("values of 10 bytes", _constant(10), 3_000_000, 1.35),
    ("values of 100 bytes", _constant(100), 1_200_000, 1.2),
    ("values of 1000 bytes", _constant(1000), 200_000, 1.08),
    ("lognormal mix", _lognormal, 400_000, 1.12),
)


def _held(directory: Path, progress: Progress) -> Section:
    section = Section(f"Items held in -m {FULL_MIB}", "12-byte keys, written until far more than fits, then all asked for.")
    for name, sizes_of, count, ratio in FILLS:
        sizes = sizes_of(count)
        items: dict[str, list[float]] = {}
        payload: dict[str, list[float]] = {}
        with running((OURS, MEMCACHED), 1, directory, FULL_MIB) as servers:
            for contender, server in servers.items():
                progress.say(f"{name}: {contender}")
                held = _fill_and_look(server, sizes)
                items[contender] = [len(held)]
                payload[contender] = [sum(12 + sizes[number] for number in held) / (FULL_MIB << 20)]
        section.figures.append(Figure(name, "items", items, MEMCACHED, limit_ratio=ratio, more_is_better=True))
        limit = 0.90 if name == "lognormal mix" else None
        section.figures.append(Figure(f"{name}: keys and values", "of the memory", payload, MEMCACHED, limit, more_is_better=True))
    return section


def _fill_and_look(server: Server, sizes: Sequence[int]) -> list[int]:
    """The numbers of the keys that are there after each was set once."""
    data = b"x" * max(sizes)
    with server.connect() as connection:
        client = Client(connection)
        for start in range(0, len(sizes), PIPELINE):
            client.store((b"k%011d" % number, data[: sizes[number]]) for number in range(start, min(start + PIPELINE, len(sizes))))
        found: list[int] = []
        for start in range(0, len(sizes), BATCH):
            found += client.present([b"k%011d" % number for number in range(start, min(start + BATCH, len(sizes)))])
    return found


# Hit ratio

#: How many points above memcached's the hit ratio should be.
ABOVE = {"Zipf 1.0": 3, "Zipf 0.8": 3, "Zipf 1.0 with one-hit wonders and scans": 4, "moving hot set": 0}


def _hits(directory: Path, progress: Progress) -> Section:
    section = Section(
        f"Hit ratio in -m {HIT_MIB}",
        f"A client gets {BATCH} keys at a time and sets what was missing, {VALUE_BYTES}-byte values; the second half of each trace counts.",
    )
    for name, trace_of in TRACES.items():
        trace = trace_of()
        ratios: dict[str, list[float]] = {}
        with running((OURS, MEMCACHED), 1, directory, HIT_MIB) as servers:
            for contender, server in servers.items():
                progress.say(f"{name}: {contender}")
                ratios[contender] = [100 * _hit_ratio(server, trace)]
        figure = Figure(name, "% hits", ratios, MEMCACHED, ratios[MEMCACHED][0] + ABOVE[name], more_is_better=True)
        section.figures.append(figure)
    return section


def _hit_ratio(server: Server, trace: Keys) -> float:
    """Of the second half of the requests, after the first has filled the cache."""
    hits = asked = 0
    value = b"x" * VALUE_BYTES
    with server.connect() as connection:
        client = Client(connection)
        for start in range(0, len(trace), BATCH):
            numbers = dict.fromkeys(trace[start : start + BATCH].tolist())
            present = set(client.present([b"k%011d" % number for number in numbers]))
            client.store((b"k%011d" % number, value) for number in numbers if number not in present)
            if start >= len(trace) // 2:
                hits += len(present)
                asked += len(numbers)
    return hits / asked


class Client:
    """Stores and looks up many keys a round trip; the key's number comes back from its name."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._replies = connection.makefile("rb")

    def store(self, pairs: Iterable[tuple[bytes, bytes]]) -> None:
        """Set them all, without replies; the last word shows that all were taken."""
        requests = [b"set %b 0 0 %d noreply\r\n%b\r\n" % (key, len(value), value) for key, value in pairs]
        if requests:
            self._connection.sendall(b"".join(requests) + b"version\r\n")
            while not self._replies.readline().startswith(b"VERSION"):
                continue  # memcached answers a set that failed, noreply or not

    def present(self, keys: Sequence[bytes]) -> list[int]:
        """The numbers of those of `keys` that are there."""
        self._connection.sendall(b"get " + b" ".join(keys) + b"\r\n")
        found = []
        while (line := self._replies.readline()) != b"END\r\n":
            _, key, _, size = line.split()
            self._replies.read(int(size) + 2)
            found.append(int(key[1:]))
        return found


if __name__ == "__main__":
    sys.exit(main())
