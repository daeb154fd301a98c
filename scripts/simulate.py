"""How often a cache has what is asked for, by its eviction policy: each policy is asked for each trace of keys.

The client is that of bench_memory.py: it gets 50 requests' keys at once and sets those that were missing. The hits of the second
half of the requests count, in per cent of the keys asked for.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import signal
import sys
import tempfile
import textwrap
from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache, partial
from itertools import zip_longest
from typing import NamedTuple

import policies
from bench_hits import BATCH, MEMORY_MIB, VALUE_BYTES
from bench_report import OURS, Progress, machine
from policies import Batches, Cache, batches_of, hit_ratio
from table_policy import Table
from traces import MORE_TRACES, REQUESTS, TRACES

import memcache_shm
from memcache_shm.storage import statefile

ITEMS = 36_000  # of VALUE_BYTES, in MEMORY_MIB
ALL_TRACES = TRACES | MORE_TRACES
NAME = 16  # characters of a row's head
COLUMN = 10  # and of a column's

Hits = dict[str, dict[str, float]]  # per cent, by policy and trace


class Contender(NamedTuple):
    """A row: what it is, and its hit ratio with room for so many items, asked for these keys."""

    about: str
    hit_ratio: Callable[[int, Batches], float]


def _real_table(items: int, batches: Batches) -> float:
    """The hit ratio of a table of this package, attached in this process."""
    name = f"simulate-{os.getpid()}"
    with memcache_shm.open(name, memory=(MEMORY_MIB << 20) * items // ITEMS) as table:
        ratio = hit_ratio(RealTable(table), batches)
    memcache_shm.unlink(name)
    return ratio


class RealTable:
    """A table as the client of a policy sees one."""

    def __init__(self, table: memcache_shm.Cache) -> None:
        self._table = table
        self._value = b"x" * VALUE_BYTES

    def missing(self, keys: Sequence[int]) -> list[int]:
        names = {b"k%011d" % key: key for key in keys}
        found = self._table.get_many(list(names))
        return [key for name, key in names.items() if name not in found]

    def store(self, keys: Iterable[int]) -> None:
        for key in keys:
            self._table.set(b"k%011d" % key, self._value)


def _policy(made: Callable[[int], Cache]) -> Callable[[int, Batches], float]:
    return lambda items, batches: hit_ratio(made(items), batches)


def _bound(made: Callable[[int, Batches], Cache]) -> Callable[[int, Batches], float]:
    return lambda items, batches: hit_ratio(made(items, batches), batches)


CONTENDERS = {
    "FIFO": Contender("the oldest goes", _policy(policies.Fifo)),
    "LRU": Contender("the least recently used goes", _policy(policies.Lru)),
    "CLOCK": Contender("second chance, with counters of two bits", _policy(policies.Clock)),
    "ARC": Contender("Megiddo, Modha, FAST 2003", _policy(policies.Arc)),
    "SIEVE": Contender("Zhang et al., NSDI 2024", _policy(policies.Sieve)),
    "S3-FIFO": Contender("Yang et al., SOSP 2023", _policy(policies.S3Fifo)),
    "table": Contender("our table's policy, as a model (table_policy.py)", _policy(Table)),
    "table-10%": Contender("the same with a share of new items that stays as it is", _policy(partial(Table, adaptive=False))),
    "table-no-ghosts": Contender("the same without ghost words, which the share needs, too", _policy(partial(Table, ghosts=0))),
    OURS: Contender(f"our table, attached: the memory that so many values of {VALUE_BYTES} bytes take", _real_table),
    "fixed": Contender("bound: always holds the keys that are asked for most", _bound(policies.Fixed)),
    "MIN": Contender("bound: knows what comes (Belady 1966)", _bound(policies.Min)),
}


def main() -> int:
    """Simulate and print; 0."""
    options = _options()
    with tempfile.TemporaryDirectory(prefix="memcache_shm-simulate-") as directory:
        os.environ["MEMCACHE_SHM_DIR"] = directory
        try:
            hits = _simulate(options.only, options.items, options.requests)
        finally:
            for left_behind in statefile.names_in(directory):  # by a process that was interrupted
                memcache_shm.unlink(left_behind)
    if options.json:
        print(json.dumps({"machine": machine(), "items": options.items, "requests": options.requests, "hits": hits}, indent=2))
    else:
        print(f"Hits in per cent, {options.items:,} items, {options.requests:,} requests\n\n{_table(hits)}")
    return 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="simulate", description=__doc__, epilog=_help_of_rows(), formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--items", type=_at_least(1_000), default=ITEMS, metavar="N", help=f"that a cache holds (default {ITEMS})")
    parser.add_argument(
        "--requests", type=_at_least(1_000), default=REQUESTS, metavar="N", help=f"of each trace (default {REQUESTS}, about five minutes)"
    )
    parser.add_argument("--only", nargs="+", choices=CONTENDERS, default=list(CONTENDERS), metavar="POLICY", help="these rows")
    parser.add_argument("--json", action="store_true", help="for programs")
    return parser.parse_args()


def _at_least(least: int) -> Callable[[str], int]:
    def number(text: str) -> int:
        if not text.isdigit() or int(text) < least:
            raise argparse.ArgumentTypeError(f"{text!r} is not a number from {least} up")
        return int(text)

    return number


def _help_of_rows() -> str:
    rows = "\n".join(f"  {name:{NAME}} {contender.about}" for name, contender in CONTENDERS.items())
    return f"policies:\n{rows}\n\ntraces (traces.py):\n" + "\n".join(f"  {name}" for name in ALL_TRACES)


def _simulate(names: Sequence[str], items: int, requests: int) -> Hits:
    """Every pair of a policy and a trace, on all CPUs."""
    hits: Hits = {name: dict.fromkeys(ALL_TRACES, 0.0) for name in names}
    tasks = [(name, trace, items, requests) for trace in ALL_TRACES for name in names]
    progress = Progress()
    with multiprocessing.Pool(len(os.sched_getaffinity(0)), _leave_interrupts_to_the_parent) as pool:
        for done, (name, trace, percent) in enumerate(pool.imap_unordered(_percent, tasks), 1):
            hits[name][trace] = percent
            progress.say(f"{done} of {len(tasks)}: {name}, {trace}")
    progress.done()
    return hits


def _leave_interrupts_to_the_parent() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _percent(task: tuple[str, str, int, int]) -> tuple[str, str, float]:
    """One of the table's figures, with its row and column; runs in a process of its own."""
    name, trace, items, requests = task
    return name, trace, 100 * CONTENDERS[name].hit_ratio(items, _batches(trace, requests))


@lru_cache(maxsize=1)
def _batches(trace: str, requests: int) -> list[list[int]]:
    """Made once a process, which is given the policies of one trace after the other."""
    return batches_of(ALL_TRACES[trace](requests).tolist(), BATCH)


def _table(hits: Hits) -> str:
    """Rows are policies, columns traces, whose names take several lines."""
    heads = [textwrap.wrap(trace, COLUMN) for trace in ALL_TRACES]
    lines = [["", *parts] for parts in zip_longest(*heads, fillvalue="")]
    lines.append(["-" * (NAME + (COLUMN + 2) * len(ALL_TRACES))])
    lines += [[name, *(f"{percent:.1f}" for percent in row.values())] for name, row in hits.items()]
    return "\n".join((f"{line[0]:{NAME}}" + "".join(f"{cell:>{COLUMN + 2}}" for cell in line[1:])).rstrip() for line in lines)


if __name__ == "__main__":
    sys.exit(main())
