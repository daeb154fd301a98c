"""`make bench`: memcache_shm beside memcached, redis and lmdb, in one run on one machine.

Prints tables, or with --json one JSON object. The exit status says whether everything could be measured, not how it turned out:
times depend on the machine, so each target is printed beside its figure.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import bench_attached
import bench_backup
import bench_channel
import bench_feed
import bench_follow
import bench_hostile
import bench_network
from bench_report import OURS, Progress, Section, machine
from bench_servers import MEMCACHED, REDIS

SCRIPTS = Path(__file__).resolve().parent
PARTS = ("attached", "network", "hostile", "feed", "follow", "backup", "channel")  # the last five only when asked for
HEADERS = SCRIPTS.parent / "memcache_shm" / "storage"


def main() -> int:
    options = _options()
    progress = Progress()
    facts = machine()
    with tempfile.TemporaryDirectory(prefix="memcache_shm-bench-") as name:
        os.environ["MEMCACHE_SHM_DIR"] = str(Path(name) / "tables")
        try:
            sections = _measure(options, Path(name), progress)
        except (OSError, RuntimeError, subprocess.SubprocessError) as error:
            progress.done()
            print(f"bench: {error}", file=sys.stderr)
            return 1
        except KeyboardInterrupt:
            progress.done()
            return 130
    progress.done()
    if options.json:
        print(json.dumps({"machine": facts, "sections": [section.to_dict() for section in sections]}, indent=2))
    else:
        print("  ".join(f"{name}: {value}" for name, value in facts.items()))
        print("\n".join(section.to_text() for section in sections))
    return 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="bench", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer rounds: half a minute instead of three")
    parser.add_argument("--json", action="store_true", help="every sample, for programs")
    parser.add_argument("--only", choices=PARTS, help="one part of it")
    parser.add_argument("--without", choices=(OURS, MEMCACHED, REDIS), action="append", default=[], help="leave a server out")
    parser.add_argument("-t", "--workers", type=int, default=len(os.sched_getaffinity(0)), help="workers, threads (default: one a core)")
    return parser.parse_args()


def _measure(options: argparse.Namespace, directory: Path, progress: Progress) -> list[Section]:
    sections = []
    rounds = 3 if options.quick else 7
    if options.only in (None, "attached"):
        calls = 100_000 if options.quick else 200_000
        sections.append(bench_attached.measure(directory, rounds, calls, progress))
        sections.append(bench_attached.measure_machine(_compile("bench_machine.c", directory, progress), rounds, progress))
    if options.only in (None, "network"):
        plan = bench_network.Plan(
            load=_compile("bench_load.c", directory, progress),
            directory=directory,
            contenders=_contenders(options),
            workers=options.workers,
            rounds=rounds if options.quick else 2 * rounds + 1,
            requests=30_000 if options.quick else 40_000,
            connect_ms=300 if options.quick else 500,
            progress=progress,
        )
        sections += bench_network.measure(plan)
    if options.only == "hostile":
        sections.append(bench_hostile.measure(directory, options.workers, rounds, progress))
    if options.only == "channel":
        sections += bench_channel.measure(_channel_plan(options, directory, rounds, progress))
    if options.only == "feed":
        sections.append(bench_feed.measure_sets(rounds, 100_000 if options.quick else 200_000, progress))
        sections.append(bench_feed.measure_subscribers(directory, options.workers, rounds, progress))
    if options.only == "follow":
        sections.append(bench_follow.measure(directory, options.workers, 1 if options.quick else 3, progress))
    if options.only == "backup":
        for in_use_mib in (200, 1024):
            sections.append(bench_backup.measure(directory, in_use_mib, options.workers, 1 if options.quick else 3, progress))
    return sections


def _channel_plan(options: argparse.Namespace, directory: Path, rounds: int, progress: Progress) -> bench_channel.Plan:
    return bench_channel.Plan(
        directory=directory,
        contenders=_contenders(options),
        workers=options.workers,
        rounds=rounds,
        round_trips=5_000 if options.quick else 20_000,
        pipelined=200_000 if options.quick else 1_000_000,
        crowd_s=0.5 if options.quick else 2,
        idle_s=3 if options.quick else 10,
        progress=progress,
    )


def _contenders(options: argparse.Namespace) -> list[str]:
    return [name for name in (OURS, MEMCACHED, REDIS) if name not in options.without]


def _compile(source: str, directory: Path, progress: Progress) -> Path:
    progress.say(f"compiling {source}")
    program = (directory / source).with_suffix("")
    compiler = os.environ.get("CC", "cc")
    subprocess.run([compiler, "-O2", f"-I{HEADERS}", "-o", str(program), str(SCRIPTS / source)], check=True)
    return program


if __name__ == "__main__":
    sys.exit(main())
