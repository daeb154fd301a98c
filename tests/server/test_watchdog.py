"""The watchdog's stages, with a clock of the test's own."""

from __future__ import annotations

import logging
import os
import signal
from collections.abc import Iterator
from dataclasses import dataclass, field

import pytest

from memcache_shm.server import watchdog
from memcache_shm.server.crew import Place
from memcache_shm.server.watchdog import Watchdog

STUCK_S = 8.0
PERIOD_S = STUCK_S / 4


@dataclass
class Worker:
    """Stands for counters, acceptor and crew of one worker. An idle one beats when it is poked, a stuck one never."""

    place: Place = field(default_factory=lambda: Place(0, pid=11))
    workers: int = 1
    stuck: bool = False
    beaten: int = 0
    pokes: int = 0
    avoided: bool = False
    noted: list[str] = field(default_factory=list)

    @property
    def living(self) -> Iterator[Place]:
        return iter([self.place])

    def poke(self, place: Place) -> None:
        self.pokes += 1
        self.beaten += not self.stuck

    def beats(self, which: int) -> int:
        return self.beaten

    def avoid(self, which: int, avoided: bool) -> None:
        self.avoided = avoided

    def note(self, name: str, count: int = 1) -> None:
        self.noted.append(name)


@pytest.fixture
def worker() -> Worker:
    return Worker()


@pytest.fixture
def signals(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """What the watchdog sent."""
    sent: list[int] = []
    monkeypatch.setattr(os, "kill", lambda pid, number: sent.append(number) if pid == 11 else pytest.fail("another pid"))
    return sent


class Clock:
    """Looks in the watchdog's own steps."""

    def __init__(self, worker: Worker, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 1000.0
        monkeypatch.setattr(watchdog.time, "monotonic", lambda: self.now)
        self.dog = Watchdog(worker, worker, worker, STUCK_S)  # type: ignore[arg-type]
        self.dog.look(self.now)

    def run(self, seconds: float) -> None:
        end = self.now + seconds
        while self.dog.due_s <= end:
            self.now = self.dog.due_s
            self.dog.look(self.now)


@pytest.fixture
def clock(worker: Worker, monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(worker, monkeypatch)


def test_an_idle_worker_is_poked_twice_per_limit(worker: Worker, clock: Clock, signals: list[int]) -> None:
    clock.run(100 * STUCK_S)
    assert worker.pokes == pytest.approx(200, abs=1)
    assert not worker.noted
    assert not signals


def test_a_busy_worker_is_never_poked(worker: Worker, clock: Clock) -> None:
    for _ in range(50):
        worker.beaten += 1
        clock.run(PERIOD_S)
    assert not worker.pokes


def test_stages(worker: Worker, clock: Clock, signals: list[int], caplog: pytest.LogCaptureFixture) -> None:
    worker.stuck = True
    clock.run(STUCK_S)  # poked at the first look, silent from there on
    assert not caplog.records
    clock.run(PERIOD_S)
    assert worker.noted == ["shm_workers_stuck"]
    assert worker.avoided
    assert not signals
    clock.run(STUCK_S)
    assert signals == [signal.SIGABRT]
    clock.run(STUCK_S)
    assert signals == [signal.SIGABRT, signal.SIGKILL]
    clock.run(10 * STUCK_S)  # it cannot die yet, in a system call that does not end
    assert signals == [signal.SIGABRT, signal.SIGKILL]
    assert worker.pokes == 1
    assert [record.levelno for record in caplog.records] == [logging.WARNING] * 3


def test_a_reported_worker_that_beats_again(worker: Worker, clock: Clock, signals: list[int], caplog: pytest.LogCaptureFixture) -> None:
    worker.stuck = True
    clock.run(PERIOD_S + STUCK_S)
    assert worker.avoided
    worker.stuck = False
    worker.beaten += 1
    clock.run(PERIOD_S)
    assert not worker.avoided
    assert "goes on after 8 s" in caplog.text
    clock.run(10 * STUCK_S)
    assert not signals
    worker.stuck = True
    clock.run(PERIOD_S * 2 + STUCK_S)
    assert len(worker.noted) == 2  # counted anew


def test_a_new_worker_starts_afresh(worker: Worker, clock: Clock, signals: list[int]) -> None:
    worker.stuck = True
    clock.run(PERIOD_S + STUCK_S)
    worker.place.pid = 12
    worker.beaten = 0
    worker.stuck = False
    clock.run(10 * STUCK_S)
    assert not signals
    assert len(worker.noted) == 1


def test_the_supervisors_own_sleep_is_not_held_against_workers(worker: Worker, clock: Clock, signals: list[int]) -> None:
    """All of them were stopped for an hour (Ctrl-Z), then go on; the worker beats a moment later than the supervisor looks."""
    worker.stuck = True
    clock.run(PERIOD_S)
    clock.now += 3600
    clock.dog.look(clock.now)
    assert not worker.noted
    worker.stuck = False
    worker.beaten += 1
    clock.run(10 * STUCK_S)
    assert not worker.noted
    assert not signals


def test_0_is_never(worker: Worker, monkeypatch: pytest.MonkeyPatch) -> None:
    assert Watchdog(worker, worker, worker, 0).due_s == float("inf")  # type: ignore[arg-type]
