"""Sessions over named pipes with a run of jobs: they are served meanwhile, and after the jobs until a signal."""

from __future__ import annotations

import os
import signal
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.jobs import JobDirectory, offspring
from support.pipes import DELETED, PipeUser
from support.tables import names, verb
from support.waiting import until

import memcache_shm


@pytest.fixture
def fifo() -> Iterator[str]:
    """Where a registration pipe may be made: a short path."""
    with tempfile.TemporaryDirectory(prefix="jp", dir="/tmp") as directory:
        yield f"{directory}/fifo"


def is_ready(fifo: str) -> bool:
    return os.path.exists(fifo) and stat.S_ISFIFO(os.stat(fifo).st_mode)


def said_of(fifo: str) -> bytes:
    return f"memcache-shm: serving pipe sessions on {fifo}; SIGINT ends\n".encode()


def test_jobs_are_heard_and_sessions_go_on_after_them(tmp_path: Path, fifo: str, no_leaks: None, state_dir: Path) -> None:
    jobs = JobDirectory(tmp_path / "jobs", {"one": b"WRITE [(a,1)(b,1)]\nWAIT 2000\nWRITE [(a,2)]\nDELETE [b]\n"})
    with jobs.started(4, 2, "--fifo", fifo) as process:
        until(lambda: jobs.so_far("one"), "the job to wait")
        with PipeUser(fifo).connected() as user:
            assert user.subscribe(b"a") == 1
            assert user.subscribe(b"b") == 1
            assert user.subscribe(b"c") == 0
            assert sorted(user.note() for _ in range(2)) == [(b"a", b"2"), (b"b", DELETED)]
            (name,) = names(state_dir)
            with memcache_shm.attach(name) as cache:
                until(lambda: cache.get("b") is None, "the job to end")
                cache.set("a", b"from outside")
            assert user.note() == (b"a", b"from outside")
            assert user.disconnect() == 0
        assert process.stderr is not None
        assert process.stderr.readline() == said_of(fifo)
        process.send_signal(signal.SIGINT)
        assert process.communicate(timeout=20) == (b"", b"")
    assert process.returncode == 0
    assert not os.path.exists(fifo)
    assert names(state_dir) == []


def test_failed_jobs_show_in_the_exit_status(tmp_path: Path, fifo: str, no_leaks: None, state_dir: Path) -> None:
    jobs = JobDirectory(tmp_path / "jobs", {"one": b"READ [%b]\nREAD [a]\n" % (b"k" * 251)})
    with jobs.started(1, 1, "--fifo", fifo) as process:
        with PipeUser(until(lambda: is_ready(fifo) and fifo, "the registration pipe")).connected() as user:
            until(lambda: jobs.so_far("one"), "the job to end")
            assert user.disconnect() == 0
        assert process.stderr is not None
        assert f"{jobs.path}/one.job:1: a key has".encode() in process.stderr.readline()
        assert process.stderr.readline() == said_of(fifo)
        process.send_signal(signal.SIGTERM)
        assert process.communicate(timeout=20) == (b"", b"")
    assert process.returncode == 1


def test_it_is_said_that_it_goes_on_without_jobs(tmp_path: Path, fifo: str, no_leaks: None, state_dir: Path) -> None:
    with JobDirectory(tmp_path / "jobs").started(1, 1, "--fifo", fifo) as process:
        assert process.stderr is not None
        assert process.stderr.readline() == f"memcache-shm: no files *.job in {tmp_path}/jobs: nothing to do\n".encode()
        assert process.stderr.readline() == said_of(fifo)
        process.send_signal(signal.SIGINT)
        assert process.communicate(timeout=20) == (b"", b"")
    assert process.returncode == 0


def test_sigusr1_ends_the_sessions_and_not_the_run(tmp_path: Path, fifo: str, no_leaks: None, state_dir: Path) -> None:
    jobs = JobDirectory(tmp_path / "jobs", {"one": b"WAIT 700\nREAD [a]\n"})
    with jobs.started(1, 1, "--fifo", fifo) as process:
        until(lambda: is_ready(fifo), "the registration pipe")
        for _ in range(2):  # while the job runs, and after it
            with PipeUser(fifo).connected() as user:
                process.send_signal(signal.SIGUSR1)
                assert user.ends()
            until(lambda: b"KVSERROR" in jobs.so_far("one"), "the job to end")
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=20)
    assert process.returncode == 0


def test_killed_server_of_pipes_comes_again_after_the_jobs(tmp_path: Path, fifo: str, no_leaks: None, state_dir: Path) -> None:
    """Not before: a process with threads forks no interpreter. Who registers meanwhile waits."""
    jobs = JobDirectory(tmp_path / "jobs", {"one": b"WAIT 2000\nREAD [a]\n"})
    with jobs.started(1, 1, "--fifo", fifo) as process:
        until(lambda: jobs.so_far("one"), "the job to wait")
        (child,) = offspring(process.pid)
        os.kill(child, signal.SIGKILL)
        until(lambda: not offspring(process.pid), "it to be reaped")
        with PipeUser(fifo) as user:
            assert b"KVSERROR" not in jobs.out("one")
            user.connected()
            assert b"KVSERROR" in jobs.out("one")
        process.send_signal(signal.SIGTERM)
        _, errors = process.communicate(timeout=20)
    assert process.returncode == 0
    assert b"killed by SIGKILL; starting another" in errors


def test_stop_amid_jobs_ends_the_sessions(tmp_path: Path, fifo: str, no_leaks: None, state_dir: Path) -> None:
    jobs = JobDirectory(tmp_path / "jobs", {"one": b"WAIT 100000\n"})
    with jobs.started(1, 1, "--fifo", fifo) as process:
        until(lambda: jobs.so_far("one"), "the job to wait")
        with PipeUser(fifo).connected() as user:
            process.send_signal(signal.SIGTERM)
            assert user.ends()
        _, errors = process.communicate(timeout=20)
    assert (process.returncode, errors) == (1, b"memcache-shm: stopped by SIGTERM: 0 of 1 job done\n")
    assert not os.path.exists(fifo)


def test_another_run_may_have_the_directory_while_pipes_are_served(tmp_path: Path, fifo: str, no_leaks: None, state_dir: Path) -> None:
    jobs = JobDirectory(tmp_path / "jobs", {"one": b"READ [a]\n"})
    with jobs.started(1, 1, "--fifo", fifo) as process:
        until(lambda: jobs.so_far("one"), "the job to end")
        until(lambda: jobs.run(1, 1).returncode == 0, "the directory to be free")
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0


def test_pipes_that_cannot_be_served(tmp_path: Path, fifo: str, no_leaks: None, state_dir: Path) -> None:
    jobs = JobDirectory(tmp_path / "jobs", {"one": b"READ [a]\n"})
    Path(fifo).write_bytes(b"mine")
    with memcache_shm.open("silent", memory="4m", feed=0):
        cases = {("--fifo", fifo): "is no named pipe", ("--fifo", fifo + "2", "--name", "silent"): "the feed of table 'silent' is off"}
        for words, why in cases.items():
            result = verb("run", str(jobs.path), "1", "1", *words)
            assert result.returncode == 1
            assert why in result.stderr
            assert len(result.stderr.splitlines()) == 1
    memcache_shm.unlink("silent")
    assert Path(fifo).read_bytes() == b"mine"
    assert list(jobs.path.glob("*.out")) == []
