"""A sample of what `make torture` tries in full: a reader interleaved with a writer, by single instructions of both."""

from __future__ import annotations

from pathlib import Path

import pytest
from torture.reading import Reading, read_against
from torture.scenarios import SCENARIOS, Scenario
from torture.stage import Stage
from torture.stepping import Stepper

SAMPLED = ("set, smaller", "compaction")
EVERY = 160  # instructions of the reader
STATES = 2  # of the writer
KEYS = 2


def named(name: str) -> Scenario:
    return next(scenario for scenario in SCENARIOS if scenario.name == name)


@pytest.mark.parametrize("name", SAMPLED)
def test_reader_beside_a_writer(state_dir: Path, no_leaks: None, name: str) -> None:
    runs, _ = read_against(named(name), EVERY, STATES, KEYS)
    assert runs > 10


def test_harness_notices_a_wrong_value(state_dir: Path, no_leaks: None) -> None:
    scenario = named("set, smaller")
    with Stage(**scenario.geometry) as stage:
        scenario.prepare(stage)
        stepper = Stepper(stage, scenario)
        reading = Reading(stage, stepper, "target")
        reading.legal = {b"something else"}
        with pytest.raises(AssertionError, match=r"all_between: reader of 'target' at 0, .*got b'old value'|got b'v'"):
            reading.run(reading.all_between, 0)
