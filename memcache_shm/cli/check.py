"""`memcache-shm check`: is every invariant of a table kept, and if not, can it be mended."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from typing import TextIO

from memcache_shm.cli.arguments import Parser, table_name
from memcache_shm.cli.attaching import attach_named
from memcache_shm.cli.messages import EXIT_FAILURE, EXIT_OK, PROGRAM, paint, plural
from memcache_shm.storage.check import Finding, Report, check_table

_HELP = """\
Look through all of a table, in use or left behind by a crash: the index, every
record, the free map, the counts, the versions. One line for each finding.

A table in use stays in use: one shard after another is locked, for about 1 us an
item in it; reads go on, and writes to that shard wait.
"""
_EXAMPLES = f"""\
A finding means that a process was killed amid a change (the next write to that
shard repairs it) or that something else wrote into the segment. '--repair' keeps
every item that is whole and drops what is not.

exit status: 0 clean or all mended, 1 findings remain, 2 wrong usage

examples:
  {PROGRAM} check app
  {PROGRAM} check --repair memcache_shm-11211
  {PROGRAM} check --json app | jq .clean
"""
_LINES_A_KIND = 10
_BAR_FROM_BYTES = 64 * 1024 * 1024  # a smaller table takes no time worth a bar
_BAR_WIDTH = 30


def main(words: Sequence[str]) -> int:
    """Check one table, print what was found. 0 when nothing is wrong (any more), else 1."""
    parser = Parser(f"{PROGRAM} check", _HELP, _EXAMPLES)
    parser.add_argument("name", metavar="NAME", type=table_name, help=f"as '{PROGRAM} ls' shows it")
    parser.add_argument("--repair", action="store_true", help="rebuild the shards that have findings, from what is whole in them")
    parser.add_argument("--json", action="store_true", help="one JSON object instead of lines")
    space = parser.parse_args(words)
    with attach_named(space.name, False, f"no right to write to table {space.name!r}, and a check takes its locks") as cache:
        table = cache.attached_table
        report = check_table(table, repair=space.repair, progress=_bar(space.name, table.geometry.segment_bytes, sys.stderr))
        items = len(table) if report.repaired else report.items
    if space.json:
        print(json.dumps({"name": space.name, "clean": not report.left} | asdict(report) | {"items": items}, indent=1))
    else:
        for line in _lines(report, items):
            print(line)
    return EXIT_FAILURE if report.left else EXIT_OK


def _lines(report: Report, items: int) -> Iterator[str]:
    """What people read: the findings, what the repair came to, the sum."""
    yield from _grouped(report.findings)
    if report.repaired:
        yield f"repaired {_shards(report.repaired)}"
    if not report.left:
        yield paint(f"clean: {plural(report.shards, 'shard')}, {plural(items, 'item')}", "32", sys.stdout)
        return
    if report.repaired:
        yield "still there:"
        yield from _grouped(report.left)
    yield paint(plural(sum(finding.count for finding in report.left), "finding"), "31", sys.stdout)


def _grouped(findings: Sequence[Finding]) -> Iterator[str]:
    """The first findings of each kind, and how many more there are."""
    kinds: dict[str, list[Finding]] = {}
    for finding in findings:
        kinds.setdefault(finding.kind, []).append(finding)
    for kind, alike in kinds.items():
        shown = [finding for finding in alike if finding.count == 1][:_LINES_A_KIND]  # one with a count stands for what was not told
        for finding in shown:
            yield f"{'table' if finding.shard is None else f'shard {finding.shard}'}: {kind}: {finding.text}"
        more = sum(finding.count for finding in alike) - len(shown)
        if more:
            yield f"{kind}: and {more} more"


def _shards(numbers: Sequence[int]) -> str:
    named = ", ".join(map(str, numbers[:_LINES_A_KIND]))
    more = len(numbers) - _LINES_A_KIND
    return f"{'shard' if len(numbers) == 1 else 'shards'} {named}{f' and {more} more' if more > 0 else ''}"


def _bar(name: str, segment_bytes: int, stream: TextIO) -> Callable[[int, int], None] | None:
    """What draws a progress bar on a terminal, for a table that takes its time; the last call wipes it."""
    if segment_bytes < _BAR_FROM_BYTES or not stream.isatty():
        return None

    def draw(done: int, shards: int) -> None:
        filled = done * _BAR_WIDTH // shards
        line = f"checking {name} [{'#' * filled}{'.' * (_BAR_WIDTH - filled)}] {done}/{shards} shards"
        stream.write(f"\r{' ' * len(line)}\r" if done == shards else f"\r{line}")
        stream.flush()

    return draw
