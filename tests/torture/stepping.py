"""Killing a writer after every single instruction of an operation, and the repair that follows after every one of its own.

    python -m torture.stepping              every kill point of every operation
    python -m torture.stepping --states     each state of the segment once
    python -m torture.stepping --sample 12  some states and some other kill points
    python -m torture.stepping set merge    the operations whose names contain one of these words

Each kill is a real one, of a process stopped at that very instruction. Where the segment is the same as after the instruction before, only
that sameness is checked; what must hold of a state is asked once for each state.
"""

from __future__ import annotations

import argparse
import ctypes
import functools
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torture.scenarios import SCENARIOS, Scenario
from torture.stage import COARSE_CLOCK_AT, Stage, own_surroundings
from torture.tracer import Trace
from torture.verify import REPAIR, Outcomes, check_after_kill, observe

DEBUG_REGISTERS = 4
MOST_STRAYS = 0.02  # of the kills may end elsewhere than traced: a clock's way varies


@dataclass
class Tally:
    """What was done for one operation."""

    name: str
    points: int = 0
    states: int = 0
    kills: int = 0
    checked: int = 0
    strays: int = 0
    seconds: float = 0.0

    HEAD = f"{'operation':42}{'kill points':>12}{'states':>8}{'kills':>8}{'checked':>9}{'astray':>8}{'s':>8}"

    def __str__(self) -> str:
        return f"{self.name:42}{self.points:12}{self.states:8}{self.kills:8}{self.checked:9}{self.strays:8}{self.seconds:8.1f}"

    def add(self, other: Tally) -> None:
        for name in ("points", "states", "kills", "checked", "strays", "seconds"):
            setattr(self, name, getattr(self, name) + getattr(other, name))


class Stepper:
    """One operation on one prepared table."""

    def __init__(self, stage: Stage, scenario: Scenario, entries: Sequence[int] = ()) -> None:
        self.stage = stage
        self.scenario = scenario
        stage.renew_handle()
        self.start = stage.save()
        self.arrange: Callable[[int], None] | None = None
        if scenario.arrange:
            arranged = scenario.arrange
            self.arrange = lambda pid: arranged(stage, pid)
        plan = stage.table.geometry.plan
        self.uncounted = {COARSE_CLOCK_AT // 8, *range(plan.counters_offset // 8, plan.controls_offset // 8)}
        slots = range(plan.processes_offset // 8, plan.counters_offset // 8)
        self.own_words = self.uncounted | stage.lock_words() | {*slots}  # differ with time and process: not compared
        before, lingering, buckets = observe(stage, scenario.later_s)
        heads = tuple(stage.heads())
        stage.restore(self.start)
        stage.shift_clock(1)  # so that every word that holds a time differs between the two traces
        first = self._trace(entries)
        stage.shift_clock(-1)
        after, repairs = stage.read(scenario.later_s), scenario.through == (REPAIR,)
        self.outcomes = Outcomes(before, after, scenario.evicts, lingering, buckets, scenario.later_s, repairs, heads)
        stage.restore(self.start)
        self.trace = self._trace(first.rips[:1])
        stage.restore(self.start)
        self.trace.plan()
        self.mask = self._mask(first, self.trace)
        self.state_of = self._states()
        missing = set(scenario.through) - stage.operations(self._values())
        assert not missing, f"{scenario.name}: the intent never told operation {missing}"

    def _trace(self, entries: Sequence[int]) -> Trace:
        trace = self.stage.tracer.trace(lambda: self.scenario.call(self.stage), self.arrange, entries)
        assert trace.status == 0, f"{self.scenario.name}: the call raised an exception"
        return trace

    def _values(self) -> dict[int, list[int]]:
        """The values each word of the segment had on the way."""
        values = defaultdict(list)
        for change in self.trace.changes[: self.trace.n_changes]:
            values[change.word].append(change.value)
        return values

    def _mask(self, *traces: Trace) -> ctypes.Array[ctypes.c_uint64]:
        """Ones for the words that are the same in every run."""
        mask = (ctypes.c_uint64 * (self.stage.size_bytes // 8))(*[2**64 - 1] * (self.stage.size_bytes // 8))
        for word in self.own_words:
            mask[word] = 0
        lists = [[c for c in trace.changes[: trace.n_changes] if c.word not in self.own_words] for trace in traces]
        for changes in zip(*lists, strict=False):
            for change in changes:
                if (change.word, change.value) != (changes[0].word, changes[0].value):
                    mask[change.word] = 0
        return mask

    def _states(self) -> list[int]:
        """By kill point: how many times the segment, event counts aside, has changed."""
        changed = {c.step for c in self.trace.changes[: self.trace.n_changes] if c.word not in self.uncounted}
        states, state = [], 0
        for k in range(len(self.trace.rips)):
            state += k in changed
            states.append(state)
        return states

    def kill(self, points: Iterable[int], name: str) -> Tally:
        """Kill at each of these kill points, and check."""
        tally = Tally(name, len(self.trace.rips), self.state_of[-1] + 1)
        began = time.monotonic()
        expected = ctypes.create_string_buffer(self.start, len(self.start))
        applied, checked = 0, set()
        helper, trace, stage = self.stage.tracer.helper, self.trace, self.stage
        for k in points:
            applied = helper.apply(expected, trace.changes, applied, trace.n_changes, k)
            arrived = stage.tracer.kill_at(trace, k, lambda: self.scenario.call(stage), self.arrange)
            tally.kills += 1
            strayed = not arrived or helper.differs(stage.base, expected, self.mask, stage.size_bytes) >= 0
            tally.strays += strayed and not trace.in_clock[k]
            if strayed or self.state_of[k] not in checked:
                self._check(k, name, strayed)
                tally.checked += 1
                if not strayed:
                    checked.add(self.state_of[k])
            stage.restore(self.start)
        tally.seconds = time.monotonic() - began
        assert tally.strays <= MOST_STRAYS * tally.kills + 2, f"{name}: {tally.strays} of {tally.kills} runs went another way"
        return tally

    def _check(self, k: int, name: str, strayed: bool) -> None:
        try:
            check_after_kill(self.stage, self.outcomes)
        except Exception as error:
            where = "somewhere near" if strayed else "at"
            place = f"{where} kill point {k} of {len(self.trace.rips) - 1}, {locate(self.trace.rips[k])}"
            raise AssertionError(f"{name}: killed {place}: {error}") from error

    def all_points(self) -> Sequence[int]:
        return range(len(self.trace.rips))

    def every_state(self) -> Sequence[int]:
        """The first kill point of each state."""
        return [k for k in range(len(self.state_of)) if k == 0 or self.state_of[k] != self.state_of[k - 1]]

    def sample(self, count: int) -> Sequence[int]:
        """The first kill points of `count` states, and as many anywhere, both evenly spread."""
        return sorted({*_spread(self.every_state(), count), *_spread(self.all_points(), count)})

    def told(self) -> list[int]:
        """What the first shard's intent tells in each state."""
        state = ctypes.create_string_buffer(self.start, len(self.start))
        told, applied = [], 0
        for k in self.every_state():
            applied = self.stage.tracer.helper.apply(state, self.trace.changes, applied, self.trace.n_changes, k)
            told.append(self.stage.intent_in(state.raw))
        return told

    def leave_amid(self, part: int, parts: int) -> None:
        """Kill in the middle of the change, at the part-th of so many points, and let the table stand as it is."""
        stage = self.stage
        told = self.told()
        points = [k for k, word in zip(self.every_state(), told, strict=True) if word]
        k = points[len(points) * part // (parts + 1)]
        assert stage.tracer.kill_at(self.trace, k, lambda: self.scenario.call(stage), self.arrange)


def _spread(things: Any, count: int) -> list[int]:
    """At most `count` of them, evenly spread, the first and the last among them."""
    if len(things) <= count:
        return list(things)
    return [things[i * (len(things) - 1) // (count - 1)] for i in range(count)]


def locate(address: int) -> str:
    """Library and function of an instruction."""
    for line in Path("/proc/self/maps").read_text().splitlines():
        start, _, rest = line.partition("-")
        end, _, rest = rest.partition(" ")
        if int(start, 16) <= address < int(end, 16):
            fields = rest.split(maxsplit=4)
            library, offset = fields[4], address - int(start, 16) + int(fields[1], 16)
            try:
                said = subprocess.run(["addr2line", "-f", "-i", "-e", library, hex(offset)], capture_output=True, text=True, check=False)
            except OSError:
                return f"{Path(library).name}+{offset:#x}"
            return f"{Path(library).name}+{offset:#x} {' < '.join(said.stdout.split()[:6])}"
    return hex(address)


def step_scenario(
    scenario: Scenario,
    choose: Callable[[Stepper], Sequence[int]] = Stepper.all_points,
    *,
    nested: int | None = None,
    entries: list[int] | None = None,
    listened: bool = False,
    tell: Callable[[str], object] = lambda line: None,
) -> Tally:
    """Kill in the operation, and in the repairs after some of these kills; AssertionError when anything is wrong after one.

    `choose`: the kill points; `nested`: after how many kills the repair is stepped, if other than the scenario says;
    `listened`: the feed is; `entries` collects where calls came into the watched libraries, to get there faster in the next ones.
    """
    repairs = scenario.nested if nested is None else nested
    with Stage(**scenario.geometry) as stage:
        scenario.prepare(stage)
        if listened:
            stage.listen()
        stage.read()
        stepper = Stepper(stage, scenario, (entries or [])[:DEBUG_REGISTERS])
        if entries is not None and stepper.trace.rips[0] not in entries:
            entries.insert(0, stepper.trace.rips[0])
        tally = stepper.kill(choose(stepper), scenario.name)
        tell(str(tally))
        for part in range(1, repairs + 1):
            stage.restore(stepper.start)
            stepper.leave_amid(part, repairs)
            again = replace(scenario, name=f"{scenario.name}: repair {part}", call=_write, through=(REPAIR,), nested=0)
            repairing = Stepper(stage, again, (entries or [])[:DEBUG_REGISTERS])
            repaired = repairing.kill(choose(repairing), again.name)
            tell(str(repaired))
            tally.add(repaired)
        return tally


def _write(stage: Stage) -> None:
    """The second writer, which repairs."""
    stage.cache.set(stage.second_probe, b"again")


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="torture.stepping", description="Kill a writer after every instruction.")
    parser.add_argument("words", nargs="*", help="only the operations whose names contain one of these")
    parser.add_argument("--sample", type=int, metavar="N", help="N states and N other kill points instead of all")
    parser.add_argument("--states", action="store_true", help="each state of the segment once instead of all")
    parser.add_argument("--listened", action="store_true", help="while somebody listens to the feed")
    parser.add_argument("--stop", action="store_true", help="end with the first operation that goes wrong")
    options = parser.parse_args(arguments)
    choose = Stepper.every_state if options.states else Stepper.all_points
    entries: list[int] | None = None if choose is Stepper.all_points and not options.sample else []
    if options.sample:
        choose = functools.partial(Stepper.sample, count=options.sample)
    total, wrong = Tally("all"), 0
    print(Tally.HEAD, flush=True)
    for scenario in SCENARIOS:
        if options.words and not any(word in scenario.name for word in options.words):
            continue
        try:
            tell = functools.partial(print, flush=True)
            total.add(step_scenario(scenario, choose, entries=entries, listened=options.listened, tell=tell))
        except (AssertionError, RuntimeError) as error:
            wrong += 1
            print(f"WRONG {scenario.name}: {error}", flush=True)
            if options.stop:
                break
    print(total)
    return 1 if wrong else 0


if __name__ == "__main__":
    with own_surroundings():
        sys.exit(main())
