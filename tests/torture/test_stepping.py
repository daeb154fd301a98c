"""A bounded sample of the kill points of every operation; `make torture` takes them all."""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Callable
from pathlib import Path

import pytest
from torture.scenarios import CELLS, SCENARIOS, SHARDED, Scenario, few
from torture.stage import DONE, Stage
from torture.stepping import Stepper, step_scenario
from torture.verify import FLUSH, MERGE, SPLIT, STORE

import memcache_shm
from memcache_shm.storage.check import check_table

SAMPLE = 6  # states of an operation, and as many kill points anywhere in it
BOTH = ("set, new", "step, write")
SMALLEST = "delete"  # of which every instruction that changes the segment is taken
LONG_REPAIRS = ("split", "merge")  # of more than a hundred items: not in the sample


@pytest.fixture(scope="module")
def entries() -> list[int]:
    """Where the calls traced so far came into the watched libraries."""
    return []


def both_or_one() -> list[object]:
    """Each operation with somebody listening to the feed, or with nobody, by turns; those of BOTH in either way."""
    chosen = [(scenario, number % 2 == 1) for number, scenario in enumerate(SCENARIOS)]
    chosen += [(scenario, not listened) for scenario, listened in chosen if scenario.name in BOTH]
    return [pytest.param(scenario, listened, id=f"{scenario.name}{', listened' * listened}") for scenario, listened in chosen]


@pytest.mark.parametrize(("scenario", "listened"), both_or_one())
def test_killed_after_some_instructions(state_dir: Path, no_leaks: None, entries: list[int], scenario: Scenario, listened: bool) -> None:
    nested = scenario.nested and not scenario.name.startswith(LONG_REPAIRS)
    choose = functools.partial(Stepper.sample, count=SAMPLE)
    tally = step_scenario(scenario, choose, nested=min(nested, 1), entries=entries, listened=listened)
    assert tally.kills >= SAMPLE
    assert tally.checked > 1


def test_killed_at_every_change(state_dir: Path, no_leaks: None) -> None:
    scenario = next(scenario for scenario in SCENARIOS if scenario.name == SMALLEST)
    with Stage(**scenario.geometry) as stage:
        scenario.prepare(stage)
        stepper = Stepper(stage, scenario)
        points = sorted({point for step in stepper.trace.steps_with_changes() for point in (step - 1, step)})
        tally = stepper.kill(points, scenario.name)
    assert tally.kills > tally.states


@pytest.mark.parametrize(
    ("call", "what"), [(lambda cache: cache.set("target", b"v"), "a store"), (lambda cache: cache.flush_all(), "a flush")]
)
def test_check_names_the_dead(state_dir: Path, no_leaks: None, call: Callable[[memcache_shm.Cache], object], what: str) -> None:
    with Stage(**CELLS) as stage:
        few(stage)
        stage.remember_cas("target")
        pid = stage.kill_amid(lambda: call(stage.cache))
        (finding,) = check_table(stage.table).findings
        assert finding.kind == "intent"
        assert f"process {pid} died amid {what}" in finding.text
        assert stage.read()["target"] == (None if what == "a flush" else (b"old value", stage.cas["target"], b"HD\r\n"))


@pytest.mark.parametrize(("name", "operation"), [("split, new chunk", SPLIT), ("merge", MERGE), ("flush_all", FLUSH)])
def test_check_tells_what_the_dead_was_about(state_dir: Path, no_leaks: None, name: str, operation: int) -> None:
    """All the time until it is done: what a split copies before it publishes is no store."""
    scenario = next(scenario for scenario in SCENARIOS if scenario.name == name)
    with Stage(**scenario.geometry) as stage:
        scenario.prepare(stage)
        told = Stepper(stage, scenario).told()
        assert len([word for word in told if word == operation]) > 3
        assert operation | DONE in told


def test_claim_frees_what_the_slot_s_former_owner_held(state_dir: Path, no_leaks: None) -> None:
    """Also in shards that the new owner does not write to."""
    with Stage(**SHARDED) as stage:
        key, other = (next(stage.names("k", shard=shard)) for shard in (0, 1))
        stage.kill_amid(lambda: stage.cache.set(key, b"never stored"))
        assert stage.locks()[0]
        stage.renew_handle()
        pid = stage.tracer.spawn(lambda: stage.cache.set(other, b"v"), stage.give_locks_to)
        assert stage.tracer.helper.complete(pid) == 0
        assert stage.locks() == stage.intents() == [0, 0]


def test_who_listens_is_told_of_a_dead_writers_last_change(state_dir: Path, no_leaks: None) -> None:
    """Killed between the change and its event; nobody writes after it."""
    scenario = next(scenario for scenario in SCENARIOS if scenario.name == "set, smaller")
    with Stage(**scenario.geometry) as stage:
        scenario.prepare(stage)
        with stage.checker.subscribe("target") as changes:
            stage.listen()
            stepper = Stepper(stage, scenario)
            for k in stepper.every_state():
                stage.restore(stepper.start)
                assert stage.tracer.kill_at(stepper.trace, k, lambda: scenario.call(stage), None)
                if stage.read()["target"] == stepper.outcomes.after["target"]:
                    break
            assert stage.heads() == list(stepper.outcomes.heads)
            assert stage.intents()[0] == STORE
            change = changes.get(10)
        assert change is not None
        assert (change.kind, change.key, change.value) == ("set", b"target", b"v")
        assert stage.intents() == [0] * stage.shards


def test_harness_notices_a_lost_item(state_dir: Path, no_leaks: None) -> None:
    """A bystander's slot is cleared beside the call: reads before any write tell."""

    def spoil(stage: Stage, _pid: int) -> None:
        stage.cache.delete("b00000")

    scenario = Scenario("spoilt", CELLS, few, lambda s: s.cache.touch("target", 0), (), arrange=spoil)
    with Stage(**scenario.geometry) as stage:
        scenario.prepare(stage)
        stepper = Stepper(stage, scenario)
        stepper.outcomes.after.update(stepper.outcomes.before)
        with pytest.raises(AssertionError, match=r"killed .* neither as before nor as after the call: .*b00000"):
            stepper.kill([0], scenario.name)


def test_harness_notices_lost_space(state_dir: Path, no_leaks: None) -> None:
    """A kill point behind which a granule is marked that nobody has."""

    def leak(stage: Stage, _pid: int) -> None:
        plan = stage.table.geometry.plan
        at = stage.base + plan.shards_offset + plan.records.bitmap_offset + 1
        ctypes.memset(at, 0x10, 1)

    scenario = Scenario("leaking", CELLS, few, lambda s: s.cache.touch("target", 0), (), arrange=leak)
    with Stage(**scenario.geometry) as stage:
        scenario.prepare(stage)
        stepper = Stepper(stage, scenario)
        with pytest.raises(AssertionError, match=r"killed .*: leak: "):
            stepper.kill([0], scenario.name)
