"""The life of a run: signals, kills, other runs in the same directory, and what a terminal shows."""

from __future__ import annotations

import itertools
import json
import os
import re
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.isolation import is_running
from support.jobs import JobDirectory, listed, offspring, send
from support.tables import names, verb
from support.terminal import Terminal
from support.waiting import until

import memcache_shm
from memcache_shm.ops.job_lines import HELP

VALUE = b"v" * 500_000
SIZE = 20
WRITES = b"WRITE [%b]\n" % b"".join(b"(key%02d,%b)" % (number, VALUE) for number in range(SIZE))
WAITING = b"WAIT 100000\n"


def stopped_child(process: subprocess.Popen[bytes]) -> int:
    """A child of the run that writes a backup, stopped."""

    chosen: list[int] = []

    def stop() -> int:
        found = offspring(process.pid)
        chosen[:] = [pid for pid in chosen if found.get(pid, "Z") != "Z"]  # one that ended before the signal came
        if not chosen:
            chosen.extend(pid for pid, state in list(found.items())[:1] if state != "Z" and send(pid, signal.SIGSTOP))
        return chosen[0] if chosen and found[chosen[0]] == "T" else 0

    return until(stop, "a backup child", every_s=0.0005)


def is_alone_with(pid: int, child: int) -> bool:
    """Whether the process has one thread and this child."""
    return len(os.listdir(f"/proc/{pid}/task")) == 1 and offspring(pid).keys() == {child}


@pytest.fixture
def backing(tmp_path: Path) -> JobDirectory:
    """Jobs whose backups are large enough to meet a child that writes one, and one that waits after its backup."""
    jobs = JobDirectory(tmp_path / "jobs", {"waits": WRITES + b"BACKUP\n" + WAITING})
    for number in range(8):
        jobs.add(f"backs{number}", WRITES + b"BACKUP\n" * 4)
    return jobs


def is_whole(content: bytes) -> bool:
    return listed(content) == {b"key%02d" % number: VALUE for number in range(SIZE)}


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_signal_ends_a_run_after_its_commands(tmp_path: Path, no_leaks: None, state_dir: Path, number: signal.Signals) -> None:
    jobs = JobDirectory(tmp_path / "jobs", {name: b"READ [%b]\n%bREAD [never]\n" % (name.encode(), WAITING) for name in ("a", "b", "c")})
    with jobs.started(2, 1) as process:
        until(lambda: sum(path.stat().st_size > 20 for path in jobs.path.glob("*.out")) == 2, "two jobs to wait")
        process.send_signal(number)
        _, errors = process.communicate(timeout=20)
    assert process.returncode == 1
    assert errors.decode() == f"memcache-shm: stopped by {number.name}: 0 of 3 jobs done\n"
    assert jobs.results == {f"{name}.out": b"[(%b,KVSERROR)]\nWaiting...\n" % name.encode() for name in ("a", "b")}
    assert names(state_dir) == []


def test_stopped_run_waits_for_its_backups(backing: JobDirectory, no_leaks: None, state_dir: Path) -> None:
    with backing.started(16, 2) as process:
        child = stopped_child(process)
        process.send_signal(signal.SIGTERM)
        until(lambda: is_alone_with(process.pid, child), "jobs and other children to end")
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(0.3)
        os.kill(child, signal.SIGCONT)
        _, errors = process.communicate(timeout=20)
    assert process.returncode == 1
    assert re.fullmatch(rb"memcache-shm: stopped by SIGTERM: \d of 9 jobs done\n", errors)
    backups = list(backing.path.glob("*.bck"))
    assert backups
    assert all(is_whole(path.read_bytes()) for path in backups)
    assert list(backing.path.glob(".*")) == []


def test_second_signal_ends_the_backups_too(backing: JobDirectory, no_leaks: None, state_dir: Path) -> None:
    with backing.started(16, 2) as process:
        child = stopped_child(process)
        process.send_signal(signal.SIGINT)
        until(lambda: is_alone_with(process.pid, child), "jobs and other children to end")
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=20)
    assert process.returncode == 1
    first, second = errors.decode().splitlines()
    assert re.fullmatch(r".*\.bck: backup not written: its child was killed by SIGKILL", first)
    assert second.startswith("memcache-shm: stopped by SIGINT: ")
    assert all(is_whole(path.read_bytes()) for path in backing.path.glob("*.bck"))
    assert list(backing.path.glob(".*")) == []
    assert names(state_dir) == []


@pytest.fixture
def killed(backing: JobDirectory, no_leaks: None, state_dir: Path) -> Iterator[int]:
    """A run that was killed; the pid of its backup child, which is stopped."""
    with backing.started(16, 1) as process:
        child = stopped_child(process)
        process.kill()
        process.wait()
    yield child
    if is_running(child):
        os.kill(child, signal.SIGKILL)


def test_killed_run_leaves_a_table_that_can_be_removed(killed: int, state_dir: Path) -> None:
    (table,) = json.loads(verb("ls", "--json").stdout)
    assert re.fullmatch(r"run-\d+-[0-9a-f]{8}", table["name"])
    assert table["items"] == SIZE
    assert verb("check", table["name"]).returncode == 0
    removed = verb("rm", table["name"])
    assert (removed.returncode, removed.stderr) == (0, "")
    assert names(state_dir) == []


def test_next_run_removes_the_table_of_a_killed_one(killed: int, tmp_path: Path, state_dir: Path) -> None:
    """Once nobody has that attached any more, such as a child that writes a backup; no other table goes."""
    (table,) = names(state_dir)
    jobs = JobDirectory(tmp_path / "others", {"one": b"READ [a]\n"})
    with memcache_shm.open(f"run-{os.getpid() + 1}-01234567", memory="4m") as alike:
        assert jobs.run(1, 1).returncode == 0
        assert names(state_dir) == sorted([table, alike.name])
    os.kill(killed, signal.SIGKILL)
    until(lambda: not is_running(killed), "the orphan to end")
    result = jobs.run(1, 1)
    assert (result.returncode, result.stderr) == (0, b"")
    assert names(state_dir) == [alike.name]


def test_tables_of_runs_that_live_stay(tmp_path: Path, no_leaks: None, state_dir: Path) -> None:
    waiting = JobDirectory(tmp_path / "waiting", {"one": b"WRITE [(a,b)]\nWAIT 100000\n"})
    jobs = JobDirectory(tmp_path / "jobs", {"one": b"READ [a]\n"})
    with waiting.started(1, 1) as process:
        until(lambda: waiting.so_far("one"), "the job to wait")
        assert jobs.run(1, 1).returncode == 0
        (table,) = names(state_dir)
        with memcache_shm.attach(table) as cache:
            assert cache.get("a") == b"b"
        process.terminate()
        process.wait(20)


def test_backup_of_a_killed_run_is_whole_or_nothing(killed: int, backing: JobDirectory) -> None:
    parts = [path.name for path in backing.path.glob(".*")]
    os.kill(killed, signal.SIGCONT)
    until(lambda: not is_running(killed), "the orphan to end")
    assert len(parts) <= 1
    assert list(backing.path.glob(".*")) == []
    assert all(is_whole(path.read_bytes()) for path in backing.path.glob("*.bck"))


def test_one_run_a_directory(killed: int, backing: JobDirectory, state_dir: Path) -> None:
    """While another run is at work there, if only by a child that its death left; then that one's remains go."""
    (backing.path / "waits.job").unlink()
    refused = backing.run(16, 2)
    assert refused.returncode == 1
    assert refused.stderr.decode() == (
        f"memcache-shm: error: JOBS_DIR {backing.path}: another run is at work there; wait for it, or copy the jobs elsewhere\n"
    )
    os.kill(killed, signal.SIGKILL)
    until(lambda: not is_running(killed), "the orphan to end")
    (backing.path / ".bck-1-1.part").write_bytes(b"(half")
    (backing.path / ".bck-note").write_bytes(b"mine")
    result = backing.run(16, 2)
    assert (result.returncode, result.stderr) == (0, b"")
    assert [path.name for path in backing.path.glob(".*")] == [".bck-note"]
    assert len(list(backing.path.glob("*.bck"))) >= 32


def test_table_that_is_removed_ends_the_jobs(tmp_path: Path, no_leaks: None, state_dir: Path) -> None:
    jobs = JobDirectory(tmp_path / "jobs", {"one": b"READ [a]\n", "two": b"READ [a]\nWAIT 2000\nSHOW\nSHOW\n"})
    with memcache_shm.open("app", memory="4m"), jobs.started(2, 1, "--name", "app") as process:
        outs = jobs.path / "one.out", jobs.path / "two.out"
        until(lambda: all(path.exists() and path.stat().st_size for path in outs), "one job to end and the other to wait")
        memcache_shm.unlink("app")
        _, errors = process.communicate(timeout=20)
    assert process.returncode == 1
    assert re.fullmatch(rf"{jobs.path}/two\.job:3: .*removed.*; the rest of the job is left out\n", errors.decode())


def test_terminal_shows_how_far_it_is(tmp_path: Path, no_leaks: None, state_dir: Path) -> None:
    jobs = JobDirectory(tmp_path / "jobs", {"fast": b"READ [a]\nBACKUP\n", "slow": b"BACKUP\nFOO\n" + b"WAIT 300\n"})
    with Terminal(jobs.words(2, 2)) as terminal:
        terminal.expect(r"\[#{15}\.{15}\] 1/2 jobs")
        terminal.expect(r"2 of 2 jobs, 2 backups in \d+\.\d\d s\r\n")
        assert terminal.ends() == 0
    assert f"{jobs.path}/slow.job:2: Invalid command. See HELP for usage\r\n" in terminal.text
    last = terminal.text.rpartition("memcache-shm: 2 of 2")[0]
    assert last.endswith("\r"), "the bar is wiped"


def test_ctrl_c_at_a_terminal_spares_the_backups(backing: JobDirectory, no_leaks: None, state_dir: Path) -> None:
    """It reaches the whole process group, so the children as well."""
    with Terminal(backing.words(16, 4)) as terminal:
        until(lambda: list(backing.path.glob(".*")), "a backup that is being written", every_s=0.0005)
        terminal.type("\x03")
        terminal.expect(r"stopped by SIGINT: \d of 9 jobs done\r\n")
        assert terminal.ends() == 1
    assert "not written" not in terminal.text
    backups = list(backing.path.glob("*.bck"))
    assert backups
    assert all(is_whole(path.read_bytes()) for path in backups)


def test_help_and_the_bar_leave_each_other_alone(tmp_path: Path, no_leaks: None, state_dir: Path) -> None:
    """Where both go to one terminal each line of the help stands alone, and a bar that has not changed is not drawn again."""
    jobs = JobDirectory(tmp_path / "jobs", {f"job{number}": b"HELP\nWAIT 20\n" * 3 for number in range(4)})
    with Terminal(jobs.words(4, 1)) as terminal:
        terminal.expect(r"4 of 4 jobs, 0 backups in \d+\.\d\d s\r\n")
        assert terminal.ends() == 0
    shown = on_screen(terminal.text)
    assert shown[:-1] == HELP.splitlines() * 12
    assert shown[-1].startswith("memcache-shm: 4 of 4 jobs")
    pictures = [piece for piece in terminal.text.split("\r") if piece.startswith("[")]
    assert all(first != second for first, second in itertools.pairwise(pictures))


def on_screen(text: str) -> list[str]:
    """The lines that a terminal shows in the end, without blanks at their ends: a carriage return writes over what is there."""
    lines = []
    for line in text.removesuffix("\r\n").split("\r\n"):
        shown = ""
        for piece in line.split("\r"):
            shown = piece + shown[len(piece) :]
        lines.append(shown.rstrip())
    return lines


@pytest.mark.parametrize("where", ["2>/dev/full", "2>&-"])
def test_lines_that_cannot_be_said_do_not_matter(tmp_path: Path, no_leaks: None, state_dir: Path, where: str) -> None:
    """Neither a bad line nor a command that fails ends a job for that."""
    jobs = JobDirectory(tmp_path / "jobs", dict.fromkeys("abc", b"FOO\nREAD [%b]\nREAD [a]\n" % (b"k" * 251)))
    silent = ["bash", "-c", f'exec "$@" {where}', "bash", *jobs.words(2, 2)]
    assert subprocess.run(silent, timeout=30, check=False).returncode == 1
    assert jobs.results == {f"{name}.out": b"[(a,KVSERROR)]\n" for name in "abc"}


def test_help_on_a_full_disk(tmp_path: Path, no_leaks: None, state_dir: Path) -> None:
    """It fails, once each time, and nothing else does."""
    jobs = JobDirectory(tmp_path / "jobs", {"one": b"HELP\nHELP\nREAD [a]\n"})
    full = ["bash", "-c", 'exec "$@" >/dev/full', "bash", *jobs.words(1, 1)]
    result = subprocess.run(full, stderr=subprocess.PIPE, timeout=30, check=False)
    assert result.returncode == 1
    told = [f"{jobs.path}/one.job:{number}: standard output: No space left on device" for number in (1, 2)]
    assert result.stderr.decode().splitlines()[:2] == told
    assert jobs.results == {"one.out": b"[(a,KVSERROR)]\n"}


def test_run_without_standard_streams(tmp_path: Path, no_leaks: None, state_dir: Path) -> None:
    jobs = JobDirectory(tmp_path / "jobs", {"one": b"HELP\nFOO\nREAD [a]\n"})
    closed = ["bash", "-c", 'exec "$@" <&- >&- 2>&-', "bash", *jobs.words(1, 1)]
    assert subprocess.run(closed, timeout=30, check=False).returncode == 0
    assert jobs.results == {"one.out": b"[(a,KVSERROR)]\n"}


def test_many_commands_take_no_time(tmp_path: Path, no_leaks: None, state_dir: Path) -> None:
    """A large file is read line by line, and a line costs microseconds."""
    jobs = JobDirectory(tmp_path / "jobs", {"one": b"WRITE [(a,1)(b,2)]\nREAD [a,b]\n# end\n" * 100_000})
    begun_s = time.monotonic()
    assert jobs.run(1, 1).returncode == 0
    assert time.monotonic() - begun_s < 30
    assert jobs.out("one") == b"[(a,1)(b,2)]\n" * 100_000
