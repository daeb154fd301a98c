"""`memcache-shm run`: what each command prints and writes, byte for byte, and what is said of what goes wrong."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from support.jobs import JobDirectory, listed, listing
from support.servers import Daemon
from support.tables import names, verb

import memcache_shm
from memcache_shm.ops.job_lines import HELP

THREADS = pytest.mark.parametrize("threads", [1, 4, 16])
INVALID = "Invalid command. See HELP for usage"

# Jobs that do not touch each other's keys: (job, what it prints).
APART = {
    "write": (
        b"# store and read\n\nWRITE [(w:d,dog)(w:a,anna)]\nREAD [w:a,w:d,w:missing]\nREAD [w:d,w:a,w:a]\n"
        b"WRITE [(w:a,1)(w:a,2)]\nREAD [w:a]\n",
        b"[(w:a,anna)(w:d,dog)(w:missing,KVSERROR)]\n[(w:a,anna)(w:a,anna)(w:d,dog)]\n[(w:a,2)]\n",
    ),
    "delete": (
        b"WRITE [(d:1,x)(d:2,y)(d:3,z)]\nDELETE [d:2,d:9,d:1,d:0]\nDELETE [d:3]\nDELETE [d:3,d:3]\nWRITE [(d:4,a)]\nDELETE [d:4,d:4]\n",
        b"[(d:0,KVSMISSING)(d:9,KVSMISSING)]\n[(d:3,KVSMISSING)(d:3,KVSMISSING)]\n[(d:4,KVSMISSING)]\n",
    ),
    "blanks": (
        b"WRITE [(s:a,1) (s:b, 2)\t(s:c d,3 )]\nREAD [s:a, s:b,  \ts:c d]\nDELETE [s:a, s:b, s:c d, s:none]\nREAD [s:a, ]\nREAD [ s:a]\n",
        b"[(s:a,1)(s:b, 2)(s:c d,3 )]\n[(s:none,KVSMISSING)]\n[( s:a,KVSERROR)]\n",
    ),
    "wait": (b"WAIT 1\nREAD [none]\nWAIT 0\n", b"Waiting...\n[(none,KVSERROR)]\nWaiting...\n"),
    "bytes": (
        b"WRITE [(b: \xff\x00,\r#\xfe)(b:empty,)(b: blank , two words )]\r\n  READ [b:empty,b: \xff\x00,b: blank ]  \r\n\tREAD\t[b:empty]",
        b"[(b: blank , two words )(b: \xff\x00,\r#\xfe)(b:empty,)]\n[(b:empty,)]\n",
    ),
    "comments": (b"# nothing\n\n   # but comments [\n\r\n#", b""),
    "empty": (b"", b""),
    "wrong": (b"write [(x,y)]\nREAD [x\nFOO\n\nREAD [x]\nSHOW me\nWAIT soon\nREAD []\nWRITE [(x)]", b"[(x,KVSERROR)]\n"),
    "helped": (b"HELP\nREAD [h]\n", b"[(h,KVSERROR)]\n"),
    "long": (
        b"WRITE [%b]\nREAD [%b]\n"
        % (b"".join(b"(l:%05d,%b)" % (n, b"v" * 100) for n in range(20_000)), b",".join(b"l:%05d" % n for n in range(20_000))),
        b"[%b]\n" % b"".join(b"(l:%05d,%b)" % (n, b"v" * 100) for n in range(20_000)),
    ),
    "many": (b"WRITE [(m,1)]\nREAD [m]\nDELETE [m]\n" * 500, b"[(m,1)]\n" * 500),
}
WRONG_LINES = {1, 2, 3, 6, 7, 8, 9}

# One job changes the table; others do what others' changes do not matter to.
WHOLE = {
    "show": (
        b"SHOW\nBACKUP\nWRITE [(b,2)(a,1)(\xff,3)(B,0)]\nSHOW\nBACKUP\nDELETE [a,B]\nWRITE [(b, two)]\nBACKUP\nSHOW\n",
        b"(B, 0)\n(a, 1)\n(b, 2)\n(\xff, 3)\n(b,  two)\n(\xff, 3)\n",
    ),
    "idle": (b"READ [nothing]\nWAIT 1\nDELETE [nothing]\n", b"[(nothing,KVSERROR)]\nWaiting...\n[(nothing,KVSMISSING)]\n"),
    "idler": (b"HELP\n", b""),
}
BACKUPS = {"show-1.bck": b"", "show-2.bck": b"(B, 0)\n(a, 1)\n(b, 2)\n(\xff, 3)\n", "show-3.bck": b"(b,  two)\n(\xff, 3)\n"}


def directory_of(path: Path, jobs: dict[str, tuple[bytes, bytes]]) -> JobDirectory:
    return JobDirectory(path / "jobs", {name: job for name, (job, _) in jobs.items()})


def expected(jobs: dict[str, tuple[bytes, bytes]]) -> dict[str, bytes]:
    return {f"{name}.out": out for name, (_, out) in jobs.items()}


@THREADS
def test_jobs_side_by_side(tmp_path: Path, no_leaks: None, state_dir: Path, threads: int) -> None:
    jobs = directory_of(tmp_path, APART)
    result = jobs.run(threads, 2)
    assert result.returncode == 0
    assert jobs.results == expected(APART)
    told = [f"{jobs.path}/blanks.job:4: {INVALID}", *(f"{jobs.path}/wrong.job:{line}: {INVALID}" for line in sorted(WRONG_LINES))]
    assert sorted(result.stderr.decode().splitlines()) == told
    assert result.stdout.decode() == HELP
    assert names(state_dir) == []


@THREADS
def test_show_and_backup(tmp_path: Path, no_leaks: None, state_dir: Path, threads: int) -> None:
    jobs = directory_of(tmp_path, WHOLE)
    result = jobs.run(threads, 1)
    assert (result.returncode, result.stderr) == (0, b"")
    assert jobs.results == expected(WHOLE) | BACKUPS
    again = jobs.run(threads, 4)
    assert (again.returncode, jobs.results) == (0, expected(WHOLE) | BACKUPS)


@pytest.mark.parametrize("table", [("1024", "256"), ("-m", "8", "-I", "64k")])
def test_table_of_another_size(tmp_path: Path, no_leaks: None, state_dir: Path, table: tuple[str, ...]) -> None:
    jobs = directory_of(tmp_path, WHOLE)
    result = jobs.run(4, 2, *table)
    assert (result.returncode, jobs.results) == (0, expected(WHOLE) | BACKUPS)


def test_table_by_its_name(tmp_path: Path, daemon_with: Callable[..., Daemon]) -> None:
    """A daemon's table: what is there is seen, what the jobs leave stays, and an item is one whatever the door."""
    daemon = daemon_with("-m", "64", "--name", "for-jobs")
    with memcache_shm.attach(daemon.name) as cache:
        cache.flush_all()
        cache.set("old", b"from outside", flags=7, expire=100)
        jobs = JobDirectory(tmp_path, {"one": b"READ [old]\nWRITE [(new,x)]\nBACKUP\nSHOW\nDELETE [old]\n"})
        result = jobs.run(4, 2, "--name", daemon.name)
        assert (result.returncode, result.stderr) == (0, b"")
        shown = listing({b"old": b"from outside", b"new": b"x"})
        assert jobs.results == {"one.out": b"[(old,from outside)]\n" + shown, "one-1.bck": shown}
        assert cache.get_many(["old", "new"]) == {"new": b"x"}


def test_values_with_line_feeds_come_from_other_doors(tmp_path: Path, no_leaks: None, state_dir: Path) -> None:
    with memcache_shm.open("app", memory="4m") as cache:
        cache.set("key", b"a\nb, (c)\r\n")
        jobs = JobDirectory(tmp_path / "jobs", {"one": b"READ [key]\nSHOW\nBACKUP\n"})
        assert jobs.run(1, 1, "--name", "app").returncode == 0
        assert jobs.results == {"one.out": b"[(key,a\nb, (c)\r\n)]\n(key, a\nb, (c)\r\n)\n", "one-1.bck": b"(key, a\nb, (c)\r\n)\n"}


def test_a_table_of_ones_own_is_empty_and_goes(tmp_path: Path, no_leaks: None, state_dir: Path) -> None:
    jobs = JobDirectory(tmp_path / "jobs", {"one": b"SHOW\nWRITE [(a,b)]\n"})
    for _ in range(2):
        assert jobs.run(1, 1).returncode == 0
        assert jobs.out("one") == b""
        assert names(state_dir) == []


def test_keys_and_values_that_are_too_long(tmp_path: Path, no_leaks: None, state_dir: Path) -> None:
    """Nothing of the command is done; the job goes on, the exit status tells."""
    longest, longer = b"k" * 250, b"k" * 251
    value, larger = b"v" * 100, b"v" * 101
    job = b"WRITE [(a,%b)(%b,x)]\nWRITE [(b,1)(%b,x)]\nREAD [%b]\nDELETE [%b]\nWRITE [(c,1)(d,%b)]\nSHOW\n"
    jobs = JobDirectory(tmp_path / "jobs", {"one": job % (value, longest, longer, longer, longer, larger)})
    result = jobs.run(1, 1, "16", "100")
    assert result.returncode == 1
    assert jobs.out("one") == listing({b"a": value, longest: b"x"})
    lines = result.stderr.decode().splitlines()
    assert [line.split(": ", 1)[0] for line in lines] == [f"{jobs.path}/one.job:{number}" for number in (2, 3, 4, 5)]
    assert all("a key has 1 to 250 bytes, not 251" in line for line in lines[:3])
    assert re.search(r"value .*'d'.* 100 bytes; -I or ELEMENT_SIZE for larger ones", lines[3])


def test_full_table_refuses_and_says_so(tmp_path: Path, no_leaks: None, state_dir: Path) -> None:
    """Nothing that a job has written is lost for another one's sake."""
    jobs = JobDirectory(tmp_path / "jobs", {"one": b"".join(b"WRITE [(key%02d,x)]\n" % number for number in range(20)) + b"SHOW\n"})
    result = jobs.run(1, 1, "16", "100")
    assert result.returncode == 1
    assert jobs.out("one") == listing({b"key%02d" % number: b"x" for number in range(16)})
    lines = result.stderr.decode().splitlines()
    assert len(lines) == 4
    for number, line in enumerate(lines, 17):
        assert line.startswith(f"{jobs.path}/one.job:{number}: ")
        assert line.endswith("is full and eviction is off; -m or NUM_ELEMENTS for a larger one")


def test_jobs_that_cannot_be_read_or_written(tmp_path: Path, no_leaks: None, state_dir: Path) -> None:
    """Each is named, and the others run. (Rights mean nothing to root: directories, pipes and links that lead nowhere do the same.)"""
    jobs = JobDirectory(tmp_path / "jobs", {"good": b"READ [a]\n", "unwritable": b"READ [a]\n", "piped": b"READ [a]\n"})
    (jobs.path / "directory.job").mkdir()
    (jobs.path / "dangling.job").symlink_to("nowhere")
    os.mkfifo(jobs.path / "pipe.job")
    (jobs.path / "unwritable.out").mkdir()
    os.mkfifo(jobs.path / "piped.out")
    result = jobs.run(4, 1)
    assert result.returncode == 1
    assert jobs.out("good") == b"[(a,KVSERROR)]\n"
    assert not (jobs.path / "pipe.out").exists()
    assert sorted(result.stderr.decode().splitlines()) == [
        f"{jobs.path}/dangling.job: No such file or directory",
        f"{jobs.path}/directory.job: no regular file",
        f"{jobs.path}/pipe.job: no regular file",
        f"{jobs.path}/piped.out: No such device or address",
        f"{jobs.path}/unwritable.out: Is a directory",
    ]


@pytest.mark.parametrize("other", ["one.job", "two.job"])
@pytest.mark.parametrize("link", [os.link, os.symlink])
def test_output_that_is_a_job_by_another_name(
    tmp_path: Path, no_leaks: None, state_dir: Path, other: str, link: Callable[[Path, Path], None]
) -> None:
    """No job is written over, its own or another one."""
    jobs = JobDirectory(tmp_path / "jobs", {"one": b"READ [a]\n", "two": b"READ [b]\n"})
    link(jobs.path / other, jobs.path / "one.out")
    result = jobs.run(1, 1)
    assert result.returncode == 1
    assert result.stderr.decode() == f"{jobs.path}/one.out: is the job {jobs.path}/{other} by another name; remove it\n"
    assert [(jobs.path / f"{name}.job").read_bytes() for name in ("one", "two")] == [b"READ [a]\n", b"READ [b]\n"]
    assert jobs.out("two") == b"[(b,KVSERROR)]\n"


def test_output_elsewhere(tmp_path: Path, no_leaks: None, state_dir: Path) -> None:
    """A link to another file is followed; what was in that one goes."""
    jobs = JobDirectory(tmp_path / "jobs", {"one": b"READ [a]\n"})
    elsewhere = tmp_path / "elsewhere"
    elsewhere.write_bytes(b"x" * 1000)
    (jobs.path / "one.out").symlink_to(elsewhere)
    assert jobs.run(1, 1).returncode == 0
    assert elsewhere.read_bytes() == b"[(a,KVSERROR)]\n"


def test_names_that_are_no_text(tmp_path: Path, no_leaks: None, state_dir: Path) -> None:
    """They are told by their bytes, and move no terminal's cursor."""
    jobs = JobDirectory(tmp_path / "jobs", {os.fsdecode(b"\xff\xfe"): b"FOO\n", "a\x1b[2J\n": b"FOO\n"})
    result = jobs.run(1, 1)
    assert result.returncode == 0
    assert sorted(result.stderr.decode().splitlines()) == [
        rf"{jobs.path}/\xff\xfe.job:1: {INVALID}",
        rf"{jobs.path}/a\x1b[2J\n.job:1: {INVALID}",
    ]


def test_disk_is_full(tmp_path: Path, no_leaks: None, state_dir: Path) -> None:
    """A limit of the file size stands for it: output and backup break off, and no part of a backup stays."""
    jobs = JobDirectory(tmp_path / "jobs", {"backup": b"WRITE [(key,%b)]\nBACKUP\n" % (b"v" * 100_000), "out": b"READ [a]\n" * 10_000})
    limited = ["bash", "-c", 'ulimit -f 8; exec "$@"', "bash", *jobs.words(1, 1)]
    result = subprocess.run(limited, capture_output=True, timeout=30, check=False)
    assert result.returncode == 1
    assert sorted(result.stderr.decode().splitlines()) == [
        f"{jobs.path}/backup-1.bck: backup not written: File too large",
        f"{jobs.path}/out.out: File too large; the rest of the job is left out",
    ]
    assert sorted(jobs.results) == ["backup.out", "out.out"]


def test_backup_cannot_take_its_name(tmp_path: Path, no_leaks: None, state_dir: Path) -> None:
    jobs = JobDirectory(tmp_path / "jobs", {"one": b"BACKUP\nBACKUP\n"})
    (jobs.path / "one-1.bck").mkdir()
    result = jobs.run(1, 1)
    assert result.returncode == 1
    assert result.stderr.decode() == f"{jobs.path}/one-1.bck: backup not written: Is a directory\n"
    assert sorted(path.name for path in jobs.path.iterdir()) == ["one-1.bck", "one-2.bck", "one.job", "one.out"]


def test_which_files_are_jobs(tmp_path: Path, no_leaks: None, state_dir: Path) -> None:
    """As *.job of a shell; in alphabetical order, as one thread shows."""
    jobs = JobDirectory(
        tmp_path / "jobs", {name: b"WRITE [(last,%b)]\n" % name.encode() for name in ("b", "a", ".hidden", "B", "c.d", "ü")}
    )
    (jobs.path / "no-job.txt").write_bytes(b"WRITE [(last,txt)]\n")
    jobs.add("zz", b"SHOW\n")
    (jobs.path / os.fsdecode(b"\xff.job")).write_bytes(b"SHOW\n")
    assert jobs.run(1, 1).returncode == 0
    assert jobs.out("zz") == listing({b"last": b"c.d"})
    assert jobs.out(os.fsdecode(b"\xff")) == listing({b"last": "ü".encode()})
    assert not (jobs.path / ".hidden.out").exists()
    assert len(list(jobs.path.glob("*.out"))) == 7


def test_errors_of_the_command_line(tmp_path: Path, no_leaks: None, state_dir: Path) -> None:
    jobs = str(JobDirectory(tmp_path / "jobs", {"one": b"SHOW\n"}).path)
    cases = {
        (): (2, r"the following arguments are required: JOBS_DIR, MAX_THREADS, MAX_BACKUPS .*"),
        (jobs, "0", "1"): (2, r"MAX_THREADS: must be from 1 .*"),
        (jobs, "1", "0"): (2, r"MAX_BACKUPS: must be from 1 .*"),
        (jobs, "1", "1", "5"): (2, r"NUM_ELEMENTS ELEMENT_SIZE: give two numbers, not '5'"),
        (jobs, "1", "1", "16", "100", "--name", "app"): (2, r"--name: .*leave .* out"),
        (jobs, "1", "1", "--fifo-sessions", "3"): (2, r"--fifo-sessions: goes with --fifo PATH, .*"),
        (jobs, "1", "1", "--name", "nothing"): (1, r"no table 'nothing' in .*; 'memcache-shm ls' shows what there is"),
        (jobs + "/none", "1", "1"): (1, r"JOBS_DIR .*/none: No such file or directory; name a directory .*"),
        (jobs + "/one.job", "1", "1"): (1, r"JOBS_DIR .*/one.job: Not a directory; name a directory .*"),
    }
    for words, (status, text) in cases.items():
        result = verb("run", *words)
        assert (result.returncode, result.stdout) == (status, ""), (words, result.stderr)
        assert re.fullmatch(f"memcache-shm: error: {text}\n", result.stderr), result.stderr
    assert not os.path.exists(jobs + "/one.out")


def test_no_jobs(tmp_path: Path, no_leaks: None, state_dir: Path) -> None:
    result = verb("run", str(tmp_path), "1", "1")
    assert (result.returncode, result.stdout) == (0, "")
    assert result.stderr == f"memcache-shm: no files *.job in {tmp_path}: nothing to do\n"


def test_help_teaches() -> None:
    result = verb("run", "--help")
    assert result.returncode == 0
    for word in ("JOBS_DIR", "MAX_THREADS", "MAX_BACKUPS", "--name NAME", "-m MIB", "--fifo PATH", "KVSERROR", "exit status", "examples:"):
        assert word in result.stdout
    assert HELP in result.stdout
    assert max(map(len, result.stdout.splitlines())) <= 100
    assert re.search(r"^ +run +carry out job files", verb("--help").stdout, re.MULTILINE)


def test_the_example_of_the_help_is_true(tmp_path: Path, no_leaks: None, state_dir: Path) -> None:
    jobs = JobDirectory(tmp_path / "jobs", {"first": b"WRITE [(fruit,apple)(root,carrot)]\nREAD [fruit,nut]\n"})
    assert jobs.run(4, 2).returncode == 0
    shown = verb("run", "--help").stdout
    assert jobs.out("first").decode() in shown
    assert "WRITE [(fruit,apple)(root,carrot)]\n  READ [fruit,nut]' > jobs/first.job" in shown


def test_help_without_a_reader(tmp_path: Path, no_leaks: None, state_dir: Path) -> None:
    """Standard output that nobody reads fails the command, not the job."""
    jobs = JobDirectory(tmp_path / "jobs", {"one": b"HELP\n" * 3 + b"READ [a]\n"})
    with jobs.started(1, 1) as process:
        assert process.stdout is not None
        process.stdout.close()
        assert process.stderr is not None
        errors = process.stderr.read()
        process.wait(30)
    assert process.returncode == 1
    assert jobs.out("one") == b"[(a,KVSERROR)]\n"
    assert errors.decode().splitlines()[:1] == [f"{jobs.path}/one.job:1: standard output: Broken pipe"]


def test_backups_of_many_jobs_are_wholes(tmp_path: Path, no_leaks: None, state_dir: Path) -> None:
    """Each holds what its job has written so far, and of another job the results of whole commands."""
    jobs = JobDirectory(tmp_path / "jobs")
    for number in range(16):
        group = b"".join(b"(%02d.%d,%%d)" % (number, key) for key in range(8))
        jobs.add(f"job{number:02}", b"".join(b"WRITE [%b]\nBACKUP\n" % (group % ((turn,) * 8)) for turn in range(4)))
    result = jobs.run(16, 4)
    assert (result.returncode, result.stderr) == (0, b"")
    for number in range(16):
        for turn in range(4):
            pairs = listed(jobs.backup(f"job{number:02}", turn + 1))
            assert {pairs[b"%02d.%d" % (number, key)] for key in range(8)} == {b"%d" % turn}
            for other in range(16):
                assert len({pairs.get(b"%02d.%d" % (other, key)) for key in range(8)}) == 1
