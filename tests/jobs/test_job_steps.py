"""The keys of one command are handled in one step: no other job's command falls in between, and no write of any door.

What would be seen if they were not is said at each test. `One` is steps key by key, against which the tests must fail: they are run with
it, too.
"""

from __future__ import annotations

import os
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest
from support.jobs import JobDirectory, listed
from support.rival_writers import Rival, rival, working
from support.servers import Daemon

import memcache_shm
from memcache_shm.client.local import LocalTable, attach_local
from memcache_shm.client.snapshot import Snapshot
from memcache_shm.client.steps import Steps
from memcache_shm.ops.job_backups import BackupWriters
from memcache_shm.ops.job_report import Report
from memcache_shm.ops.jobs import Job, Means

DOORS = pytest.mark.parametrize("door", ["attached", "tcp", "unix"])
ROUNDS = 60
BETWEEN = 1000  # keys of a command between its first and its last: the longer it takes, the more falls in between if anything can
GROUP = [b"g%02d" % number for number in range(16)]


@pytest.fixture
def daemon(daemon_with: Callable[..., Daemon]) -> Iterator[Daemon]:
    """With an empty table that evicts nothing that these tests store."""
    found = daemon_with("-m", "64", workers=2)
    found.flush()
    yield found


class One:
    """As `Steps`, but no steps: key by key, and in between other threads have their turn."""

    def __init__(self, table: LocalTable) -> None:
        self._table = table

    def write(self, pairs: list[tuple[bytes, bytes]]) -> None:
        for key, value in pairs:
            self._table.set(key, value)
            os.sched_yield()

    def read(self, keys: list[bytes]) -> list[bytes | None]:
        return [(self._table.get(key), os.sched_yield())[0] for key in keys]

    def delete(self, keys: list[bytes]) -> list[bool]:
        return [(self._table.delete(key), os.sched_yield())[0] for key in keys]


def run_here(name: str, jobs: JobDirectory, steps: Callable[[LocalTable], Steps | One]) -> None:
    """All jobs of the directory in this process, each in a thread."""
    complaints: list[str] = []
    report = Report(complaints.append)
    with closing(attach_local(name)) as table:
        means = Means(
            steps(table),  # type: ignore[arg-type]
            lambda: Snapshot(table),
            BackupWriters(1, report),
            report,
            complaints.append,
            threading.Event(),
        )
        threads = [threading.Thread(target=Job(str(path), means).run) for path in jobs.path.glob("*.job")]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert not complaints


def run_command(name: str, jobs: JobDirectory) -> None:
    result = jobs.run(16, 2, "--name", name)
    assert (result.returncode, result.stderr) == (0, b"")


# Jobs among themselves


def group_jobs(path: Path, groups: int, turns: int) -> JobDirectory:
    """Jobs that give all keys of a group one value, remove them all, and read them all; the keys of the groups alternate."""
    jobs = JobDirectory(path)
    for group in range(groups):
        keys = [b"%b:%d" % (key, group) for key in GROUP]
        listed_keys = b",".join(keys)
        for writer in range(2):
            turns_of = (b"".join(b"(%b,%d.%d)" % (key, writer, turn) for key in keys) for turn in range(turns))
            lines = (b"WRITE [%b]\n%b" % (pairs, b"" if turn % 4 else b"WAIT 1\n") for turn, pairs in enumerate(turns_of))
            jobs.add(f"write{group}.{writer}", b"".join(lines))
        jobs.add(f"read{group}", b"READ [%b]\n" % listed_keys * turns)
        jobs.add(f"delete{group}", b"DELETE [%b]\n" % listed_keys * (turns // 4))
    return jobs


def torn_lines(jobs: JobDirectory) -> list[bytes]:
    """Lines of READ with more than one value, lines of DELETE with some keys of a group but not all."""
    torn = []
    for path in jobs.path.glob("*.out"):
        for line in path.read_bytes().replace(b"Waiting...\n", b"").splitlines():
            values = re.findall(rb"\(g\d\d:\d,([^)]*)\)", line)
            if len(values) != len(GROUP) or len(set(values)) != 1:
                torn.append(line)
    return torn


def test_commands_of_jobs_do_not_mix(tmp_path: Path, daemon: Daemon) -> None:
    """Otherwise a READ would find some keys of a group with one value and some with another."""
    jobs = group_jobs(tmp_path / "jobs", 3, 200)
    run_command(daemon.name, jobs)
    assert all(jobs.out(f"read{group}").count(b"\n") == 200 for group in range(3))
    assert torn_lines(jobs) == []


def test_show_and_backup_find_whole_commands(tmp_path: Path, daemon: Daemon) -> None:
    jobs = group_jobs(tmp_path / "jobs", 3, 200)
    jobs.add("show", b"SHOW\nREAD [end]\nWAIT 1\n" * 50)
    jobs.add("backup", b"BACKUP\nWAIT 1\n" * 50)
    run_command(daemon.name, jobs)
    shows = jobs.out("show").split(b"[(end,KVSERROR)]\nWaiting...\n")[:-1]
    assert len(shows) == 50
    assert len(set(shows)) > 2, "they were taken while jobs wrote"
    for pairs in map(listed, [*shows, *(jobs.backup("backup", number) for number in range(1, 51))]):
        for group in range(3):
            assert len({pairs.get(b"%b:%d" % (key, group)) for key in GROUP}) == 1


@pytest.mark.torture
def test_test_of_jobs_notices_single_keys(tmp_path: Path, daemon: Daemon) -> None:
    jobs = group_jobs(tmp_path / "jobs", 3, 200)
    run_here(daemon.name, jobs, One)
    assert torn_lines(jobs)


# Jobs that write, and other doors


def writing_job(path: Path) -> JobDirectory:
    """Each round has keys of its own: a, many in between, z; all get the value "job"."""
    jobs = JobDirectory(path)
    between = (b"".join(b"(m%03d:%d,job)" % (turn, number) for number in range(BETWEEN)) for turn in range(ROUNDS))
    jobs.add("write", b"".join(b"WRITE [(a%03d,job)%b(z%03d,job)]\n" % (turn, keys, turn) for turn, keys in enumerate(between)))
    return jobs


def overtake(writer: Rival, over: threading.Event) -> None:
    """As soon as a round's first key is there, set it and then the last one: so nothing of the job may be left in either."""
    for turn in range(ROUNDS):
        while writer.get(b"a%03d" % turn) is None and not over.is_set():
            continue
        writer.set(b"a%03d" % turn, b"rival")
        writer.set(b"z%03d" % turn, b"rival")


def overtaken(daemon: Daemon) -> list[int]:
    """Rounds in which the job's value of z is left: the rival's two writes came between the job's of a and of z."""
    with memcache_shm.attach(daemon.name) as cache:
        assert all(cache.get(f"a{turn:03}") == b"rival" for turn in range(ROUNDS))
        return [turn for turn in range(ROUNDS) if cache.get(f"z{turn:03}") != b"rival"]


@DOORS
def test_no_other_write_falls_into_a_write(tmp_path: Path, daemon: Daemon, door: str) -> None:
    jobs = writing_job(tmp_path / "jobs")
    with rival(door, daemon) as writer, working(lambda over: overtake(writer, over)):
        run_command(daemon.name, jobs)
    assert overtaken(daemon) == []


@pytest.mark.torture
def test_test_of_writes_notices_single_keys(tmp_path: Path, daemon: Daemon) -> None:
    jobs = writing_job(tmp_path / "jobs")
    with rival("tcp", daemon) as writer, working(lambda over: overtake(writer, over)):
        run_here(daemon.name, jobs, One)
    assert overtaken(daemon)


# Jobs that read, and other doors


def reading_jobs(path: Path) -> JobDirectory:
    jobs = JobDirectory(path)
    between = b",".join(b"m%d" % number for number in range(BETWEEN))
    jobs.add("read", b"READ [a,%b,z]\nWAIT 1\n" % between * ROUNDS)
    jobs.add("show", b"SHOW\nWAIT 1\n" * ROUNDS)
    jobs.add("backup", b"BACKUP\nWAIT 1\n" * ROUNDS)
    return jobs


def count(writer: Rival, over: threading.Event) -> None:
    """One number after the other into a, then into z: at no instant is that in z larger."""
    number = 0
    while not over.is_set():
        number += 1
        writer.set(b"a", b"%d" % number)
        writer.set(b"z", b"%d" % number)


def numbers(text: bytes) -> list[tuple[int, int]]:
    """Those of a and z, in the order of reading."""
    firsts, lasts = re.findall(rb"\(a, ?(\d+)\)", text), re.findall(rb"\(z, ?(\d+)\)", text)
    return [(int(first), int(last)) for first, last in zip(firsts, lasts, strict=True)]


def prepare(writer: Rival) -> None:
    for number in range(BETWEEN):
        writer.set(b"m%d" % number, b"x")
    for key in (b"a", b"z"):
        writer.set(key, b"0")


@DOORS
def test_no_other_write_falls_into_what_is_read(tmp_path: Path, daemon: Daemon, door: str) -> None:
    """Neither into READ, nor into what SHOW and BACKUP take for one instant."""
    jobs = reading_jobs(tmp_path / "jobs")
    with rival(door, daemon) as writer:
        prepare(writer)
        with working(lambda over: count(writer, over)):
            run_command(daemon.name, jobs)
    texts = [jobs.out("read"), jobs.out("show"), b"".join(jobs.backup("backup", number) for number in range(1, ROUNDS + 1))]
    for text in texts:
        found = numbers(text)
        assert len(found) == ROUNDS
        assert [pair for pair in found if pair[0] < pair[1]] == []
        assert len(set(found)) > 2, "it was read while it changed"


@pytest.mark.torture
def test_test_of_reads_notices_single_keys(tmp_path: Path, daemon: Daemon) -> None:
    jobs = reading_jobs(tmp_path / "jobs")
    for name in ("show", "backup"):
        (jobs.path / f"{name}.job").unlink()
    with rival("tcp", daemon) as writer:
        prepare(writer)
        with working(lambda over: count(writer, over)):
            run_here(daemon.name, jobs, One)
    assert [pair for pair in numbers(jobs.out("read")) if pair[0] < pair[1]]
