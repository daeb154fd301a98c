"""Backup children that are stopped and killed: never more than allowed, each reaped, no half file, and the exit status tells."""

from __future__ import annotations

import os
import random
import re
import signal
import subprocess
import time
from pathlib import Path

import pytest
from support.jobs import JobDirectory, listed, offspring, send
from support.waiting import until

JOBS = 64
THREADS = 16
MOST = 4
TURNS = 2
VALUE = b"v" * 10_000
KEYS = 64
TORTURE_S = float(os.environ.get("TORTURE_S", "60"))
_KILLED = re.compile(r"(?P<path>.*\.bck): backup not written: its child was killed by SIGKILL")


@pytest.fixture
def jobs(tmp_path: Path) -> JobDirectory:
    """64 jobs, each with several backups of over half a megabyte, which a child takes a moment to write."""
    directory = JobDirectory(tmp_path / "jobs")
    pairs = b"".join(b"(key%02d,%b)" % (number, VALUE) for number in range(KEYS))
    for number in range(JOBS):
        directory.add(f"job{number:02}", b"WRITE [%b]\n%bREAD [none]\n" % (pairs, b"BACKUP\n" * TURNS))
    return directory


def told_as_killed(errors: bytes) -> set[str]:
    """The files that standard error names, of which nothing else is said."""
    found = set()
    for line in errors.decode().splitlines():
        match = _KILLED.fullmatch(line)
        assert match, line
        found.add(Path(match["path"]).name)
    return found


def check_files(jobs: JobDirectory, missing: set[str]) -> None:
    """Every output, and every backup but the missing ones, each whole; and nothing besides."""
    results = jobs.results
    backups = {f"job{number:02}-{turn}.bck" for number in range(JOBS) for turn in range(1, TURNS + 1)}
    outs = {f"job{number:02}.out" for number in range(JOBS)}
    assert results.keys() == outs | (backups - missing)
    for name, content in results.items():
        if name in outs:
            assert content == b"[(none,KVSERROR)]\n"
        else:
            assert listed(content) == {b"key%02d" % number: VALUE for number in range(KEYS)}


class Watched:
    """A run whose children are looked at again and again."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self.process = process
        self.most = 0  # children at a time
        self._ended_s: dict[int, float] = {}  # children seen as zombies, and since when

    def look(self) -> dict[int, str]:
        """Its children and their states. AssertionError for one that is not reaped within seconds."""
        found = offspring(self.process.pid)
        now = time.monotonic()
        self._ended_s = {pid: self._ended_s.get(pid, now) for pid, state in found.items() if state == "Z"}
        assert all(now - since < 5 for since in self._ended_s.values()), "a zombie"
        self.most = max(self.most, len(found))
        return found

    @property
    def goes_on(self) -> bool:
        return self.process.poll() is None


def stop_and_kill(watched: Watched, kills: int) -> None:
    """Stop each child that is seen, until there are as many as may be; then none comes until one is killed; and so on."""
    stopped: set[int] = set()

    def all_stopped() -> bool:
        for pid, state in watched.look().items():
            if state not in "TZ" and pid not in stopped:
                send(pid, signal.SIGSTOP)
        stopped.intersection_update(watched.look())
        stopped.update(pid for pid, state in watched.look().items() if state == "T")
        return len(stopped) == MOST

    for _ in range(kills):
        until(all_stopped, "as many stopped children as there may be", every_s=0.0005)
        victim = stopped.pop()
        send(victim, signal.SIGKILL)
        until(lambda victim=victim: victim not in watched.look(), "the killed child to be reaped", every_s=0.001)  # type: ignore[misc]
    for pid in watched.look():
        send(pid, signal.SIGCONT)


def test_backups_wait_for_a_place(jobs: JobDirectory, no_leaks: None, state_dir: Path) -> None:
    """Four that are stopped are all there are; a killed one makes place, and is told, unless its file was there already."""
    kills = 5
    with jobs.started(THREADS, MOST) as process:
        watched = Watched(process)
        stop_and_kill(watched, kills)
        _, errors = process.communicate(timeout=60)
    assert watched.most == MOST
    missing = told_as_killed(errors)
    assert len(missing) <= kills
    assert process.returncode == (1 if missing else 0)
    check_files(jobs, missing)


def kill_at_random(jobs: JobDirectory, rand: random.Random) -> int:
    """One run with kills of children at any moment; how many were told."""
    with jobs.started(THREADS, MOST) as process:
        watched = Watched(process)
        killed = 0
        while watched.goes_on:
            for pid, state in watched.look().items():
                if state != "Z" and rand.random() < 0.1:
                    killed += send(pid, signal.SIGKILL)
        _, errors = process.communicate(timeout=60)
    assert watched.most <= MOST
    told = told_as_killed(errors)
    assert len(told) <= killed, "some had ended before"
    assert process.returncode == (1 if told else 0)
    check_files(jobs, told)
    for name in jobs.results:
        if name.endswith(".bck"):
            (jobs.path / name).unlink()
    return len(told)


def test_killed_backup_children(jobs: JobDirectory, no_leaks: None, state_dir: Path) -> None:
    rand = random.Random(7)
    told = 0
    for _ in range(2):
        told += kill_at_random(jobs, rand)
    assert told > 0


@pytest.mark.torture
def test_killed_backup_children_for_long(jobs: JobDirectory, no_leaks: None, state_dir: Path) -> None:
    seed = int(time.time())
    rand = random.Random(seed)
    end = time.monotonic() + TORTURE_S / 4
    runs = told = 0
    while time.monotonic() < end:
        told += kill_at_random(jobs, rand)
        runs += 1
    print(f"seed {seed}: {runs} runs, {told} backups not written")
    assert told > 0
