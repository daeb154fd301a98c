"""Two mirrors, attached and over TCP, under four writers by different doors, with SIGKILLs of the attached one and of workers: at rest both
are the table, key by key, with values, flags, expiry and CAS ids."""

from __future__ import annotations

import functools
import os
import random
import signal
import time
from pathlib import Path

import pytest
from model.hammering import FAILED, Fleet
from support.mirror_storm import CONNECT_S, AttachedWriter, Classic, Meta, Simple, difference, mirror_rows, table_rows
from support.servers import Daemon
from support.waiting import until

from memcache_shm import Mirror

SEEDS = 2
TORTURE_SEEDS = 100
STORM_S = 1.0
PAUSE_S = 0.1  # at most, between two kills
REST_S = 30.0


def storm(seed: int) -> None:
    """One run: start all, kill for a while, stop all, compare."""
    chance = random.Random(seed)
    feed = chance.choice([(), ("--feed", "16k"), ("--feed", "256k")])
    with Daemon("--name", f"storm{seed}", "-m", "1", "-I", "16k", *feed, workers=2) as daemon:
        fleets = [
            Fleet(lambda number: AttachedWriter(seed * 1000 + number, daemon.name).turn, 1),
            *(
                Fleet(
                    lambda number, kind=kind, door=door: (
                        kind(seed * 1000 + number, functools.partial(daemon.connect, door, CONNECT_S)).turn
                    ),
                    1,
                )  # type: ignore[misc]
                for kind, door in ((Classic, "tcp"), (Meta, "tcp"), (Simple, "unix"))
            ),
        ]
        try:
            with Mirror(daemon.name, timeout=REST_S) as near, Mirror(f"{daemon.host}:{daemon.port}", timeout=REST_S) as far:
                rage(chance, daemon, fleets)
                statuses = [status for fleet in fleets for status in fleet.end_all()]
                assert FAILED not in statuses, "a writer met something wrong: see its traceback"
                until(lambda: len(daemon.workers) == 2, "the workers")
                compare(daemon, near, far)
        finally:
            for fleet in fleets:
                fleet.end_all()


def rage(chance: random.Random, daemon: Daemon, fleets: list[Fleet]) -> None:
    end_s = time.monotonic() + STORM_S
    while time.monotonic() < end_s:
        time.sleep(chance.random() * PAUSE_S)  # the moment of the kill is what is varied
        if chance.random() < 0.7:
            fleets[0].kill_one(chance)
        elif workers := daemon.workers:
            os.kill(chance.choice(workers), signal.SIGKILL)


def compare(daemon: Daemon, near: Mirror, far: Mirror) -> None:
    """Items still expire, so it may take a moment until all are the same."""
    told: list[str] = []

    def same() -> bool:
        rows = table_rows(daemon)
        told[:] = difference(rows, mirror_rows(near)) + difference(rows, mirror_rows(far))
        return not told and bool(rows) and near.in_step and far.in_step and mirror_rows(near) == mirror_rows(far)

    try:
        until(same, "both mirrors to be the table", REST_S, 0.1)
    except AssertionError as error:
        raise AssertionError(f"{error}: {len(told)} differences, such as {told[:3]}") from None


@pytest.mark.parametrize("seed", range(SEEDS))
def test_storm(state_dir: Path, seed: int) -> None:
    storm(seed)


@pytest.mark.torture
@pytest.mark.parametrize("seed", range(SEEDS, SEEDS + TORTURE_SEEDS))
def test_many_storms(state_dir: Path, seed: int) -> None:
    storm(seed)
