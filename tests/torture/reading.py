"""Stopping a reader after an instruction, and a writer too: whatever they see of each other, the reader gets the old or the new value.

    python -m torture.reading                   every operation
    python -m torture.reading split compaction  the operations whose names contain one of these words

Three ways to interleave, R the reader, W the writer:

    R to k | W all of it | R to its end
    W to j | R to k | W to its end | R to its end
    R to k | W to j, killed | R to its end

k: instructions of the reader, j: states of the segment on the writer's way.
"""

from __future__ import annotations

import argparse
import mmap
import struct
import sys
import time
from collections.abc import Callable
from typing import Any

from torture.scenarios import SCENARIOS, Scenario
from torture.stage import Stage, own_surroundings
from torture.stepping import Stepper, locate
from torture.tracer import Trace
from torture.verify import MERGE, SPLIT

MOST_BYTES = 1 << 16
MISS = 0xFFFFFFFF
MOST_KEYS = 4


class Reading:
    """Readers of one key against the writer of one scenario."""

    def __init__(self, stage: Stage, stepper: Stepper, key: str) -> None:
        self.stage = stage
        self.stepper = stepper
        self.key = key
        self.result = mmap.mmap(-1, MOST_BYTES)  # shared with the children
        self.trace: Trace = stage.tracer.trace(self._read)
        stage.restore(stepper.start)
        self.trace.plan()
        before, after = stepper.outcomes.before[key], stepper.outcomes.after[key]
        self.legal = {pair[0] if pair else None for pair in (before, after)}
        if stepper.scenario.evicts:
            self.legal.add(None)
        self.runs = 0

    def _read(self) -> None:
        """In the child."""
        value = self.stage.cache.get(self.key)
        header = struct.pack("<I", MISS if value is None else len(value))
        self.result[:4] = header
        if value is not None:
            self.result[4 : 4 + len(value)] = value

    def _write(self) -> Any:
        return self.stepper.scenario.call(self.stage)

    def _outcome(self) -> bytes | None:
        (length,) = struct.unpack("<I", self.result[:4])
        return None if length == MISS else self.result[4 : 4 + length]

    def _finish(self, pid: int) -> None:
        if self.stage.tracer.helper.complete(pid) != 0:
            raise AssertionError("it raised an exception")

    def all_between(self, k: int) -> None:
        tracer = self.stage.tracer
        reader = tracer.stop_at(self.trace, k, self._read)
        self._finish(tracer.spawn(self._write))
        self._finish(reader)

    def begun_amid(self, k: int, j: int) -> None:
        tracer = self.stage.tracer
        writer = tracer.stop_at(self.stepper.trace, j, self._write)
        reader = tracer.stop_at(self.trace, k, self._read)
        self._finish(writer)
        self._finish(reader)

    def killed_amid(self, k: int, j: int) -> None:
        tracer = self.stage.tracer
        reader = tracer.stop_at(self.trace, k, self._read)
        tracer.kill_at(self.stepper.trace, j, self._write)
        self._finish(reader)

    def run(self, interleave: Callable[..., None], k: int, *j: int) -> None:
        """One interleaving; AssertionError when the reader got what was never there."""
        self.runs += 1
        try:
            interleave(k, *j)
            got = self._outcome()
            assert got in self.legal, f"got {got!r}, legal {self.legal}"
        except AssertionError as error:
            where = f"reader of {self.key!r} at {k}, {locate(self.trace.rips[k])}"
            writer = f"; writer at {j[0]}, {locate(self.stepper.trace.rips[j[0]])}" if j else ""
            raise AssertionError(f"{self.stepper.scenario.name}: {interleave.__name__}: {where}{writer}: {error}") from error
        finally:
            self.stage.restore(self.stepper.start)

    def run_all(self, every: int, states: int) -> None:
        """Every so many instructions of the reader, against so many states of the writer."""
        points = range(0, len(self.trace.rips), every)
        for k in points:
            self.run(self.all_between, k)
        firsts = [j for j in self.stepper.every_state() if j]
        for j in firsts[:: max(1, len(firsts) // states)] if states else ():
            for k in points:
                self.run(self.begun_amid, k, j)
                self.run(self.killed_amid, k, j)


def bucket_of(number: int, buckets: int) -> int:
    """Linear hashing, as in layout.pxd."""
    half = 1 << (buckets.bit_length() - 1)
    bucket = number & (2 * half - 1)
    return bucket if bucket < buckets else bucket - half


def moves(stepper: Stepper, key: str) -> bool:
    """Whether a split or a merge gives the key another bucket."""
    before = stepper.outcomes.buckets
    after = before + (SPLIT in stepper.scenario.through) - (MERGE in stepper.scenario.through)
    number = stepper.stage.hash(key)
    return bucket_of(number, before) != bucket_of(number, after)


def keys_to_read(stepper: Stepper) -> list[str]:
    """Some of those that do not change but have to move, or may have to: the last ones; then those that change."""
    before, after = stepper.outcomes.before, stepper.outcomes.after
    keys = sorted(key for key in stepper.stage.keys if before[key] or after[key])
    others = [key for key in keys if before[key] == after[key] and key not in (*stepper.stage.probes, stepper.stage.second_probe)]
    others.sort(key=lambda key: moves(stepper, key))
    return others[: -MOST_KEYS - 1 : -1] + [key for key in keys if before[key] != after[key]][:MOST_KEYS]


def read_against(scenario: Scenario, every: int, states: int, most_keys: int = 2 * MOST_KEYS) -> tuple[int, float]:
    """How many interleavings were tried, and how long it took."""
    began, runs = time.monotonic(), 0
    with Stage(**scenario.geometry) as stage:
        scenario.prepare(stage)
        stage.read()
        stepper = Stepper(stage, scenario)
        for key in keys_to_read(stepper)[:most_keys]:
            reading = Reading(stage, stepper, key)
            reading.run_all(every, states)
            runs += reading.runs
    return runs, time.monotonic() - began


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="torture.reading", description="Interleave a reader with a writer.")
    parser.add_argument("words", nargs="*", help="only the operations whose names contain one of these")
    parser.add_argument("--every", type=int, default=7, metavar="N", help="each N-th instruction of the reader (default 7)")
    parser.add_argument("--states", type=int, default=4, metavar="N", help="at most about N states of the writer's way (default 4)")
    parser.add_argument("--stop", action="store_true", help="end with the first operation that goes wrong")
    options = parser.parse_args(arguments)
    wrong = 0
    for scenario in SCENARIOS:
        if scenario.arrange or (options.words and not any(word in scenario.name for word in options.words)):
            continue
        try:
            runs, seconds = read_against(scenario, options.every, options.states)
            print(f"{scenario.name:42}{runs:8} interleavings {seconds:8.1f} s", flush=True)
        except AssertionError as error:
            wrong += 1
            print(f"WRONG {error}", flush=True)
            if options.stop:
                break
    return 1 if wrong else 0


if __name__ == "__main__":
    with own_surroundings():
        sys.exit(main())
