"""SIGKILL and SIGSTOP at random moments, at everything that writes: workers, the supervisor, attached programs.

No value is ever torn or foreign, no key that nobody writes is lost, no acknowledged store of a key's only writer is lost, no write waits
for long, no lock and no zombie stays behind. All write to one shard, and the storm goes on until some of the dead died amid a change.
"""

from __future__ import annotations

import contextlib
import functools
import os
import random
import re
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from model.hammering import FAILED, Fleet
from support.isolation import children, is_running
from support.servers import Daemon
from support.storming import DOORS, WRITE_LIMIT_S, Attached, Board, Talker, make_value, read_counter
from support.tables import verb
from support.waiting import until

import memcache_shm
from memcache_shm.storage.check import check_table

BYSTANDERS = 300
WRITERS = 2
STORM_S = 9.0
MORE_S = 20.0  # for a kill that hits, on a machine that gives the storm little
STOPS_S = 5.0
TORTURE_S = float(os.environ.get("TORTURE_S", "600"))
PAUSE_S = 0.05  # at most, between two kills
OPTIONS = ("--name", "app", "-m", "768k", "-I", "160k", "-M")  # one shard; no eviction: whatever goes missing was lost


def test_wrong_values_are_noticed() -> None:
    value = make_value("k1", 7, 100)
    assert read_counter("k1", value) == 7
    with pytest.raises(AssertionError, match="foreign"):
        read_counter("k2", value)
    with pytest.raises(AssertionError, match="torn"):
        read_counter("k1", value[:50] + b"z" + value[51:])


def test_lost_stores_are_noticed(tmp_path: Path) -> None:
    def stored(counter: int) -> Callable[[str], bytes]:
        return lambda key: make_value(key, counter, 10)

    board = Board(tmp_path)
    board.check(0, lambda key: None)
    board.acknowledged[0] = 7
    for counter in (7, 8):  # the acknowledged one, and one that was under way
        board.check(0, stored(counter))
    for counter in (6, 9):
        with pytest.raises(AssertionError, match="went back"):
            board.check(0, stored(counter))
    with pytest.raises(AssertionError, match="lost"):
        board.check(0, lambda key: None)


class Storm:
    """A daemon, attached writers, clients over sockets, each a child process, and keys that nobody touches."""

    def __init__(self, directory: Path, seed: int, *, stops: bool) -> None:
        self.chance = random.Random(seed)
        self.board = Board(directory / "s")
        self.zombies: set[int] = set()
        self.writers: list[Fleet] = []
        self.talkers: list[Fleet] = []
        self.daemon = self.start_daemon()
        self.cache = memcache_shm.attach("app")
        assert self.cache.attached_table.geometry.shards == 1
        self.bystanders = {f"b{number}": make_value(f"b{number}", number, number) for number in range(BYSTANDERS)}
        for key, value in self.bystanders.items():
            self.cache.set(key, value)
        for place in range(WRITERS):
            self.writers.append(self.start(functools.partial(Attached, place, board=self.board, may_wait=stops)))
        for place, door in enumerate(() if stops else DOORS, WRITERS):  # theirs would meet the stopped one, too
            self.talkers.append(self.start(functools.partial(Talker, place, board=self.board, door=door)))

    def start_daemon(self) -> Daemon:
        daemon = Daemon(*OPTIONS, "-s", str(self.board.unix_path), workers=2)
        self.board.port = daemon.port
        return daemon

    def start(self, make: Callable[[int], Attached | Talker]) -> Fleet:
        """A process of its own that takes turns; what is wrong ends it."""
        seed = self.chance.randrange(1000)
        return Fleet(lambda number: make(seed + number).turn, 1)

    def kill_worker(self) -> None:
        if workers := self.daemon.workers:
            os.kill(self.chance.choice(workers), signal.SIGKILL)

    def kill_writer(self) -> None:
        fleet = self.chance.choice(self.writers)
        assert fleet.end_all() == [-signal.SIGKILL], "a writer ended before it was killed: see its traceback"
        fleet.pids = [fleet.spawn()]

    def kill_daemon(self) -> None:
        workers = self.daemon.workers
        os.kill(self.daemon.pid, signal.SIGKILL)
        self.daemon.wait()
        until(lambda: not any(map(is_running, workers)), "the workers to go")
        self.daemon = self.start_daemon()
        self.zombies = set()

    def blow(self) -> None:
        """Kill somebody, mostly who is quick to come again."""
        (kill,) = self.chance.choices([self.kill_writer, self.kill_worker, self.kill_daemon], [30, 8, 1])
        kill()

    def check(self) -> None:
        """What nobody wrote, and what its only writer knows to be stored, is there; who was dead at the last look is reaped by now."""
        lost = [key for key, value in self.bystanders.items() if self.cache.get(key) != value]
        assert not lost, f"{len(lost)} keys that nobody wrote are lost or changed: {lost[:5]}"
        for place in range(len(self.writers) + len(self.talkers)):
            self.board.check(place, self.cache.get)
        for fleet in self.talkers:
            assert is_running(fleet.pids[0]), "a client over sockets met something wrong: see its traceback"
        daemon = self.daemon
        until(lambda: not self.zombies & dead_children(daemon.pid), "the dead to be reaped")
        self.zombies = dead_children(daemon.pid)

    def hits(self) -> dict[bytes, int]:
        """How often a death left something to do, and how often the index changed its size."""
        stats = self.cache.stats("shm")
        return {name: stats[name] for name in (b"repairs", b"locks_taken_over", b"splits", b"merges")}

    def check_end(self) -> None:
        """Everybody who wrote is gone, some of them in the middle of it."""
        for key in self.bystanders:
            before_s = time.monotonic()
            self.cache.touch(key, 0)
            assert time.monotonic() - before_s < WRITE_LIMIT_S
        self.talkers = []
        self.check()
        table = self.cache.attached_table
        table.sweep()
        assert check_table(table).findings == []
        assert self.cache.stats()[b"evictions"] == 0

    def end(self) -> list[int]:
        """Kill all attackers; how they ended."""
        return [status for fleet in (*self.writers, *self.talkers) for status in fleet.end_all()]

    def close(self) -> None:
        with contextlib.suppress(memcache_shm.MemcacheError):
            self.cache.close()
        status = self.daemon.stop()
        verb("rm", "app")
        assert status == 0, self.daemon.lines


def dead_children(pid: int) -> set[int]:
    return {child for child, state in children(pid).items() if state == "Z"}


@pytest.fixture
def storms(state_dir: Path) -> Iterator[list[Storm]]:
    """What is put in here is ended with the test."""
    started: list[Storm] = []
    yield started
    for storm in started:
        storm.end()
        storm.close()


def rage(storm: Storm, seconds: float) -> None:
    """Kill until the time is over and some have died amid a change; at the end all that must hold does."""
    end = time.monotonic() + seconds
    while (now := time.monotonic()) < end or (now < end + MORE_S and not all(storm.hits().values())):
        time.sleep(storm.chance.random() * PAUSE_S)  # the moment of the kill is what is varied
        storm.blow()
        storm.check()
    daemon = storm.daemon
    until(lambda: not dead_children(daemon.pid) and len(daemon.workers) == 2, "the dead to be reaped and replaced")
    stored = [storm.board.acknowledged[place] for place in range(WRITERS + len(DOORS))]
    assert FAILED not in storm.end()
    storm.check_end()
    assert all(storm.hits().values()), storm.hits()
    assert all(stored), stored


def test_storm(storms: list[Storm], tmp_path: Path) -> None:
    storms.append(Storm(tmp_path, 1, stops=False))
    rage(storms[0], STORM_S)


@pytest.mark.torture
def test_long_storm(storms: list[Storm], tmp_path: Path) -> None:
    storms.append(Storm(tmp_path, random.SystemRandom().randrange(2**32), stops=False))
    rage(storms[0], TORTURE_S)


def stop_and_go(storm: Storm, seconds: float) -> int:
    """Stop a writer wherever it is; how often that was amid a change."""
    end = time.monotonic() + seconds
    stopped_amid = 0
    while time.monotonic() < end or not stopped_amid:
        time.sleep(storm.chance.random() / 50)  # the moment of the stop is what is varied
        pid = storm.writers[0].pids[0]
        os.kill(pid, signal.SIGSTOP)
        os.waitid(os.P_PID, pid, os.WSTOPPED | os.WNOWAIT)
        stopped_amid += write_everywhere(storm, pid)
        storm.check()
        os.kill(pid, signal.SIGCONT)
    return stopped_amid


def write_everywhere(storm: Storm, stopped: int) -> bool:
    """A write to each shard, where some may have to give up after a second; whether one had to."""
    table = storm.cache.attached_table
    for number in range(4 * table.geometry.shards):
        before_s = time.monotonic()
        try:
            storm.cache.set(f"w{number}", b"x")
        except memcache_shm.BusyError as error:
            assert 0.05 < time.monotonic() - before_s < 2 * WRITE_LIMIT_S
            match = re.search(r"process (\d+) ", str(error))
            assert match is not None
            assert int(match[1]) == stopped
            return True
    return False


def test_stopped_writers(storms: list[Storm], tmp_path: Path) -> None:
    """A lock is never taken from the living: writes fail in time and say who it is, reads go on, and afterwards all goes on."""
    storm = Storm(tmp_path, 2, stops=True)
    storms.append(storm)
    assert stop_and_go(storm, STOPS_S) > 0
    until(lambda: not write_everywhere(storm, storm.writers[0].pids[0]), "writes to go on")
    assert FAILED not in storm.end()
    storm.check_end()
