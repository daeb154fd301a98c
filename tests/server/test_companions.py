"""Children of the supervisor besides the workers: started, started again, done, ended."""

from __future__ import annotations

import logging
import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from support.isolation import is_running
from support.waiting import until

from memcache_shm.server import children
from memcache_shm.server.children import Ending
from memcache_shm.server.companions import Companion, Companions

NEVER = float("inf")


def _forget() -> None:
    """There is nothing of a supervisor's here."""


@pytest.fixture
def companions() -> Iterator[Callable[..., Companions]]:
    """A function that makes the companions of these tasks; none is left behind."""
    made: list[Companions] = []

    def make(*tasks: Callable[[], int], forget: Callable[[], None] = _forget) -> Companions:
        made.append(Companions([Companion(f"task{number}", task) for number, task in enumerate(tasks)], forget))
        return made[-1]

    yield make
    for each in made:
        each.kill_all()


def pids(companions: Companions) -> list[int]:
    return [place.pid for place in companions.living]


def run_once(companions: Companions) -> Ending:
    """Start one, wait for its end, take note of that."""
    companions.fill()
    (pid,) = pids(companions)
    ending = Ending(*os.waitpid(pid, 0))
    assert companions.reap([ending]) == [f"task0 (pid {pid})"]
    assert pids(companions) == []
    return ending


def sleep_on() -> int:
    signal.pause()
    return 1


def ignore_sigterm() -> int:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    while True:
        signal.pause()


def test_one_that_is_done_stays_away(companions: Callable[..., Companions]) -> None:
    made = companions(lambda: 0)
    assert made.due_s == 0
    assert run_once(made).status == 0
    assert made.due_s == NEVER
    made.fill()
    assert pids(made) == []


def test_one_that_fails_is_due_again_later_each_time(companions: Callable[..., Companions], caplog: pytest.LogCaptureFixture) -> None:
    made = companions(lambda: 3)
    delays = []
    for _ in range(3):
        until(lambda: made.due_s <= time.monotonic(), "the next try to be due")
        assert os.waitstatus_to_exitcode(run_once(made).status) == 3
        delays.append(made.due_s - time.monotonic())
    assert 0 < delays[0] < delays[1] < delays[2] < 1
    assert "ended with exit status 3; starting another in 0.1 s" in caplog.text


def test_one_that_raises(companions: Callable[..., Companions]) -> None:
    made = companions(lambda: 1 // 0)
    assert os.waitstatus_to_exitcode(run_once(made).status) == children.EXIT_FAILED
    assert made.due_s < NEVER


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_one_that_is_killed(companions: Callable[..., Companions], caplog: pytest.LogCaptureFixture, number: signal.Signals) -> None:
    made = companions(sleep_on)
    made.fill()
    (pid,) = pids(made)
    until(lambda: _sleeps(pid), "the task to run")
    os.kill(pid, number)
    made.reap([Ending(*os.waitpid(pid, 0)), Ending(1, 0)])  # and somebody unknown
    assert f"task0 (pid {pid}) killed by {number.name}; starting another" in caplog.text
    until(lambda: made.due_s <= time.monotonic(), "the next try to be due")
    made.fill()
    assert len(pids(made)) == 1


def test_the_supervisors_things_are_let_go_first(companions: Callable[..., Companions], tmp_path: Path) -> None:
    note = tmp_path / "note"
    made = companions(lambda: len(note.read_text()), forget=lambda: note.write_text("let go") and None)
    assert os.waitstatus_to_exitcode(run_once(made).status) == len("let go")


def test_an_end_is_no_failure(companions: Callable[..., Companions], caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    made = companions(sleep_on, sleep_on)
    made.fill()
    living = pids(made)
    until(lambda: all(map(_sleeps, living)), "the tasks to run")
    made.end()
    endings = [Ending(*os.waitpid(pid, 0)) for pid in living]
    made.reap(endings)
    assert [ending.status for ending in endings] == [signal.SIGTERM, signal.SIGTERM]
    assert made.due_s == NEVER
    assert caplog.text == ""


def test_the_user_signal_goes_to_those_that_are_meant_by_it(companions: Callable[..., Companions], tmp_path: Path) -> None:
    """An ignored one passes by without a trace."""
    told = tmp_path / "told"

    def take_signal() -> int:
        signal.signal(signal.SIGUSR1, lambda number, frame: told.write_text("told") and None)
        return sleep_on()

    made = Companions([Companion("meant", take_signal, user_signal=True), Companion("other", sleep_on)], _forget)
    try:
        made.fill()
        living = pids(made)
        until(lambda: all(map(_sleeps, living)), "the tasks to run")
        until(lambda: int(_status(living[0], "SigCgt"), 16) >> (signal.SIGUSR1 - 1) & 1, "its handler")
        made.pass_on_user_signal()
        assert os.waitpid(living[0], 0)[0] == living[0]  # back from its pause
        assert told.read_text() == "told"
        assert is_running(living[1])
        made.reap([Ending(living[0], 1 << 8)])
        made.pass_on_user_signal()  # to nobody
    finally:
        made.kill_all()


def test_a_stubborn_one_is_killed(companions: Callable[..., Companions]) -> None:
    made = companions(ignore_sigterm)
    made.fill()
    (pid,) = pids(made)
    until(lambda: _ignores(pid, signal.SIGTERM), "the task to run")
    made.end()
    assert is_running(pid)
    made.kill_all()
    assert not is_running(pid)
    assert pids(made) == []


def _status(pid: int, field: str) -> str:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(line.split()[1] for line in lines if line.startswith(f"{field}:"))


def _ignores(pid: int, number: int) -> bool:
    return bool(int(_status(pid, "SigIgn"), 16) >> (number - 1) & 1)


def _sleeps(pid: int) -> bool:
    """In its task: it catches SIGTERM, holds back no signal, and waits."""
    caught, blocked = int(_status(pid, "SigCgt"), 16), int(_status(pid, "SigBlk"), 16)
    return bool(caught >> (signal.SIGTERM - 1) & 1) and not blocked and _status(pid, "State") == "S"
