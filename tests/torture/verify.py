"""What must hold after a writer was killed, asked through the public doors by another process."""

from __future__ import annotations

import time
from dataclasses import dataclass

from torture.stage import DONE, PROBE, Stage, State

from memcache_shm.storage.check import check_table

WRITE_LIMIT_S = 1.0  # no write waits longer for a dead owner
# What an intent tells, as in recovery.pxd.
NONE, STORE, DELETE, TOUCH, EVICT, EXPIRE, SPLIT, MERGE, MOVE, FLUSH, REPAIR, MARK = range(12)


TOLD_SET, TOLD_TOUCH, TOLD_DELETE, TOLD_EXPIRE, TOLD_EVICT, TOLD_FLUSH = range(1, 7)  # kinds of events, as in feed.pxd
GONE = (TOLD_DELETE, TOLD_EXPIRE, TOLD_EVICT)


@dataclass(frozen=True)
class Outcomes:
    """What the keys hold before the call and after it; both are legal after a kill, and nothing else is."""

    before: State
    after: State
    evicts: bool  # the call makes room: what goes in the end may have gone
    lingering: int  # expired items that were counted before the call
    buckets: int
    later_s: int  # an expiry between now and then tells whether a touch came about
    repairs: bool  # the call is a write that repairs first: an intent may be a dead writer's, of whose call nothing is known here
    heads: tuple[int, ...]  # how far the feeds went before the call

    def check_first(self, stage: Stage, now: State) -> None:
        """A look before any other write."""
        for shard in range(stage.shards):
            entries = [entry for entry in now if stage.shard_of_entry(entry) == shard]
            if not self.evicts:
                assert self._all_of(entries, now, self.before) or self._all_of(entries, now, self.after), self._difference(entries, now)
        for entry, pair in now.items():
            assert pair in (self.before[entry], self.after[entry]), f"{entry}: {pair}"

    def _all_of(self, entries: list[str], now: State, state: State) -> bool:
        return all(now[entry] == state[entry] for entry in entries)

    def _difference(self, entries: list[str], now: State) -> str:
        wrong = {entry: now[entry] for entry in entries if now[entry] != self.before[entry]}
        lost = [entry for entry in entries if now[entry] is None and self.after[entry]]
        return f"neither as before nor as after the call: {wrong}; lost: {lost}"

    def is_done(self, stage: Stage, shard: int, operation: int, now: State) -> bool | None:
        """Whether what a shard's intent tells has come about, by what can be seen; None where that cannot be told."""
        announced_done = True if operation & DONE else None
        operation &= ~DONE
        if operation in (SPLIT, MERGE):
            return stage.buckets() != self.buckets
        if operation == FLUSH:
            return stage.is_flush_applied(shard)
        if operation in (STORE, DELETE, TOUCH, MARK) and not self.repairs:
            here = [entry for entry in now if stage.shard_of_entry(entry) == shard]
            changes = [e for e in here if self.before[e] != self.after[e] and not (self.evicts and self.after[e] is None)]
            return bool(changes) and all(now[entry] == self.after[entry] for entry in changes)
        return announced_done

    def check_second(self, stage: Stage, first: State, now: State) -> None:
        """After the write that repaired: nothing has changed but what that write changed."""
        used = {pair[1] for state in (self.before, first) for pair in state.values() if pair}
        for entry, pair in now.items():
            if entry.removesuffix(" later") in stage.probes:
                assert pair is not None and pair[0] == PROBE, f"{entry}: {pair}"
                assert pair[1] not in used, f"{entry} got a CAS id that was used before: {pair}"
            elif pair != first[entry]:
                assert self.evicts and pair is None, f"{entry} was {first[entry]} and is {pair}"
        readable = sum(1 for key in stage.keys if now[key])
        assert readable <= len(stage.checker) <= readable + self.lingering, (
            f"{readable} items can be read, {len(stage.checker)} are counted"
        )

    def check_told(self, stage: Stage, now: State) -> None:
        """Whoever listens was told of each change of a value, a CAS id or an expiry that came about, and of no other."""
        told: dict[str, int] = {}
        flushed: set[str] = set()
        for event in stage.events(list(self.heads)):
            if event.kind == TOLD_FLUSH:
                flushed |= {key for key in stage.keys if stage.is_flush_applied(stage.shard_of(key))}
                told = {key: kind for key, kind in told.items() if key not in flushed}
            else:
                told[event.key] = event.kind
        for key in stage.keys - set(stage.probes):
            states = [(self.before[entry], now[entry]) for entry in (key, f"{key} later") if entry in now]
            changed = any((was and was[:2]) != (is_now and is_now[:2]) for was, is_now in states)
            last = told.get(key, 0)
            assert not changed or last or (key in flushed and now[key] is None), f"{key} changed and nobody was told: {states}"
            if last in GONE:
                assert last != TOLD_EVICT or self.evicts, f"{key} was said to have been evicted"
                assert last != TOLD_EXPIRE or self.before[key] is None, f"{key} was said to have expired"
                assert now[key] is None, f"{key} was said to have gone ({last}) and is there"
            elif last in (TOLD_SET, TOLD_TOUCH):
                assert now[key] is not None, f"{key} was said to be there ({last}) and is not"
            if last not in (0, TOLD_TOUCH, TOLD_EXPIRE) and not self.repairs:
                assert changed, f"{key} did not change, but was said to have ({last})"


def observe(stage: Stage, later_s: int) -> tuple[State, int, int]:
    """What is there, how many expired items are counted all the same, the number of buckets."""
    state = stage.read(later_s)
    lingering = len(stage.checker) - sum(1 for key in stage.keys if state[key])
    return state, max(lingering, 0), stage.buckets()  # less than there are: a dead owner's item is not counted yet


def check_after_kill(stage: Stage, outcomes: Outcomes) -> None:
    """AssertionError that says what is wrong with the table."""
    noted = {shard: operation for shard, operation in enumerate(stage.intents()) if operation}
    figures = stage.table.stats()
    first = stage.read(outcomes.later_s)
    outcomes.check_first(stage, first)
    are_done = [outcomes.is_done(stage, shard, operation, first) for shard, operation in noted.items() if operation != REPAIR]
    for probe in stage.probes:
        before_s = time.monotonic()
        stage.checker.set(probe, PROBE)
        assert time.monotonic() - before_s < WRITE_LIMIT_S, "a write waited for the dead owner"
    assert stage.locks() == [0] * stage.shards, "a lock is left"
    report = check_table(stage.table)
    assert not report.findings, "; ".join(f"{finding.kind}: {finding.text}" for finding in report.findings[:5])
    second = stage.read(outcomes.later_s)
    outcomes.check_second(stage, first, second)
    if stage.listened:
        outcomes.check_told(stage, second)
    grown = {name: figure - figures[name] for name, figure in stage.table.stats().items()}
    assert grown["shm_repairs"] == len(noted), f"{grown['shm_repairs']} repairs were counted, {len(noted)} intents were noted"
    completed, cancelled = grown["shm_repairs_completed"], grown["shm_repairs_cancelled"]
    assert completed + cancelled == len(are_done), f"{completed} completed and {cancelled} cancelled of {len(are_done)} changes"
    surely, perhaps = are_done.count(True), are_done.count(None)
    assert surely <= completed <= surely + perhaps, f"{completed} of {noted} were said to be completed, {are_done} are"
