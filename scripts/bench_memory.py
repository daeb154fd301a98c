"""`make bench-memory`: what memcache_shm and memcached make of the same memory.

held   items in 64 MiB                            hits   how often they have what is asked for
mixed  sizes that change all the time             cost   what a write pays for making room, and who waits meanwhile
sizes  segments from 64 KiB to 8 GiB

Prints tables, or with --json one JSON object. The exit status says whether everything could be measured, not how it turned out:
times depend on the machine, so each target is printed beside its figure.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import bench_cost
import bench_held
import bench_hits
import bench_mixed
import bench_sizes
from bench_report import Progress, Section, machine
from bench_servers import remove_tables
from bench_tables import Plan

from memcache_shm.errors import MemcacheError

PARTS: dict[str, Callable[[Plan], list[Section]]] = {
    "held": bench_held.measure,
    "hits": bench_hits.measure,
    "mixed": bench_mixed.measure,
    "cost": bench_cost.measure,
    "sizes": bench_sizes.measure,
}


def main() -> int:
    """Measure and print; 0, 1 when something could not be measured, 130 after Ctrl-C."""
    options = _options()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # ends as Ctrl-C does: nothing is left behind
    progress = Progress()
    facts = machine()
    if not options.json:
        print("  ".join(f"{name}: {value}" for name, value in facts.items()), flush=True)
    sections: list[Section] = []
    try:
        with _directory() as directory:
            plan = Plan(directory, options.quick, progress)
            for name in options.only or PARTS:
                for section in PARTS[name](plan):
                    sections.append(section)
                    if not options.json:
                        progress.done()
                        print(section.to_text(), flush=True)
    except (OSError, RuntimeError, MemcacheError) as error:
        progress.done()
        print(f"bench-memory: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        progress.done()
        return 130
    progress.done()
    if options.json:
        print(json.dumps({"machine": facts, "sections": [section.to_dict() for section in sections]}, indent=2))
    return 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="bench-memory", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="less of everything: about two minutes instead of twelve")
    parser.add_argument("--json", action="store_true", help="every sample, for programs")
    parser.add_argument("--only", choices=tuple(PARTS), action="append", help="this part; may be given more than once")
    return parser.parse_args()


@contextlib.contextmanager
def _directory() -> Iterator[Path]:
    """Where the tables' state files are, in this process and in the servers; no table outlives it."""
    with tempfile.TemporaryDirectory(prefix="memcache_shm-bench-") as name:
        tables = Path(name) / "tables"
        os.environ["MEMCACHE_SHM_DIR"] = str(tables)
        try:
            yield Path(name)
        finally:
            remove_tables(tables)


if __name__ == "__main__":
    sys.exit(main())
