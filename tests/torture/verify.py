"""What must hold after a writer was killed, asked through the public doors by another process."""

from __future__ import annotations

import time
from dataclasses import dataclass

from torture.stage import PROBE, Pair, Stage

from memcache_shm.storage.check import check_table

WRITE_LIMIT_S = 1.0  # no write waits longer for a dead owner

State = dict[str, Pair]


@dataclass(frozen=True)
class Outcomes:
    """What the keys hold before the call and after it; both are legal after a kill, and nothing else is."""

    before: State
    after: State
    evicts: bool  # the call makes room: what goes in the end may have gone
    lingering: int  # expired items that were counted before the call

    def check_first(self, stage: Stage, now: State) -> None:
        """A look before any other write."""
        for shard in range(stage.shards):
            keys = [key for key in stage.keys if stage.shard_of(key) == shard]
            if not self.evicts:
                assert self._all_of(keys, now, self.before) or self._all_of(keys, now, self.after), self._difference(keys, now)
        for key in stage.keys:
            assert now[key] in (self.before[key], self.after[key]), f"{key}: {now[key]}"

    def _all_of(self, keys: list[str], now: State, state: State) -> bool:
        return all(now[key] == state[key] for key in keys)

    def _difference(self, keys: list[str], now: State) -> str:
        wrong = {key: now[key] for key in keys if now[key] != self.before[key]}
        return f"neither as before nor as after the call: {wrong}; lost after it: {[k for k in keys if now[k] is None and self.after[k]]}"

    def check_second(self, stage: Stage, first: State, now: State) -> None:
        """After the write that repaired: nothing has changed but what that write changed."""
        used = {pair[1] for state in (self.before, first) for pair in state.values() if pair}
        for key in stage.keys:
            if key in stage.probes:
                assert now[key] is not None and now[key][0] == PROBE, f"{key}: {now[key]}"
                assert now[key][1] not in used, f"{key} got a CAS id that was used before: {now[key]}"
            elif now[key] != first[key]:
                assert self.evicts and now[key] is None, f"{key} was {first[key]} and is {now[key]}"
        readable = sum(1 for pair in now.values() if pair)
        assert readable <= len(stage.checker) <= readable + self.lingering, (
            f"{readable} items can be read, {len(stage.checker)} are counted"
        )


def check_after_kill(stage: Stage, outcomes: Outcomes) -> None:
    """AssertionError that says what is wrong with the table."""
    noted = sum(1 for operation in stage.intents() if operation)
    repairs = stage.table.stats()["shm_repairs"]
    first = stage.read()
    outcomes.check_first(stage, first)
    for probe in stage.probes:
        before_s = time.monotonic()
        stage.checker.set(probe, PROBE)
        assert time.monotonic() - before_s < WRITE_LIMIT_S, "a write waited for the dead owner"
    assert stage.locks() == [0] * stage.shards, "a lock is left"
    report = check_table(stage.table)
    assert not report.findings, "; ".join(f"{finding.kind}: {finding.text}" for finding in report.findings[:5])
    outcomes.check_second(stage, first, stage.read())
    assert stage.table.stats()["shm_repairs"] == repairs + noted, "a repair was not counted"
