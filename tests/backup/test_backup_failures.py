"""What can go wrong around a backup: disks, pipes, rights, tables, people."""

from __future__ import annotations

import multiprocessing
import os
import re
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TextIO

import pytest
from support.backups import fill, shell, table_of
from support.tables import verb
from support.waiting import until

import memcache_shm
from memcache_shm.cli.main import main

NOBODY = 65534


@pytest.fixture
def app(state_dir: Path) -> Iterator[memcache_shm.Cache]:
    """The table "app", with some MiB in it."""
    with memcache_shm.open("app", memory="64m", max_item="4m") as cache:
        fill(cache)
        for number in range(8):
            cache.set(f"large{number}", os.urandom(1 << 20))
        yield cache


def one_line(stderr: str) -> str:
    match = re.fullmatch(r"memcache-shm: error: (.*)\n", stderr)
    assert match, stderr
    return match[1]


def test_a_full_disk(app: memcache_shm.Cache, here: Path) -> None:
    """An older backup is as it was, and no part of the new one is left."""
    (here / "b").write_bytes(b"old")
    for form in ("binary", "jsonl"):
        result = shell(f"ulimit -f 4096; memcache-shm backup --format {form} app b", here)
        assert (result.returncode, result.stdout) == (1, "")
        assert one_line(result.stderr) == "b: File too large; nothing was changed there"
        result = verb("backup", "--format", form, "app", "/dev/full")
        assert (result.returncode, one_line(result.stderr)) == (1, "/dev/full: No space left on device")
        result = shell(f"memcache-shm backup --format {form} app - >/dev/full", here)
        assert one_line(result.stderr) == "standard output: No space left on device; what was written is no whole backup"
    assert (here / "b").read_bytes() == b"old"
    assert os.listdir(here) == ["b"]


def test_a_pipe_that_nobody_empties(app: memcache_shm.Cache, here: Path) -> None:
    result = shell("memcache-shm backup app - | head -c 100 | wc -c", here)
    assert (result.returncode, result.stdout) == (1, "100\n")
    assert one_line(result.stderr) == "standard output: Broken pipe; what was written is no whole backup"


def test_what_cannot_be_named(app: memcache_shm.Cache, here: Path) -> None:
    cases = {
        ("backup", "nothing", "b"): r"no table 'nothing' in .+; 'memcache-shm ls' shows what there is",
        ("backup", "--format", "keys", "nothing", "b"): r"no table 'nothing' in .+; 'memcache-shm ls' shows what there is",
        ("backup", "127.0.0.1:1", "b"): r"127\.0\.0\.1:1: Connection refused",
        ("backup", "app", "missing/b"): r"missing/b: there is no directory .*/missing; nothing was changed there",
        ("restore", "b", "nothing"): r"no table 'nothing' in .+; 'memcache-shm ls' shows what there is",
        ("restore", "b", "app"): r"b: No such file or directory",
        ("restore", ".", "app"): r"\.: Is a directory",
        ("restore", "b", "/nowhere/at/all"): r"/nowhere/at/all: No such file or directory; a daemon makes it with -s PATH",
    }
    for words, text in cases.items():
        result = shell(f"memcache-shm {' '.join(words)}", here)
        assert (result.returncode, result.stdout) == (1, ""), words
        assert re.fullmatch(text, one_line(result.stderr)), result.stderr
    assert os.listdir(here) == []
    for words in (
        ("backup", "app"),
        ("backup", "app", "b", "--format", "csv"),
        ("restore", "b"),
        ("restore", "b", "app", "c"),
        ("backup", "[a:b", "b"),
    ):
        assert verb(*words).returncode == 2


def test_closed_streams(app: memcache_shm.Cache, here: Path) -> None:
    assert one_line(shell("memcache-shm backup app - >&-", here).stderr) == "standard output is closed; name a FILE"
    assert one_line(shell("memcache-shm restore - app <&-", here).stderr) == "standard input is no file and no pipe; name a FILE"


def test_closed_standard_error(app: memcache_shm.Cache, here: Path) -> None:
    """What would be said there does not get into the backup."""
    for options in ("", "--json"):
        assert shell(f"memcache-shm backup {options} app - 2>&- >b", here).returncode == 0
        assert verb("restore", str(here / "b"), "app").returncode == 0
    result = shell("memcache-shm backup nothing - 2>&-", here)
    assert (result.returncode, result.stdout) == (1, "")


def test_standard_output_by_its_names(app: memcache_shm.Cache, here: Path) -> None:
    """Where it is a pipe the summary goes elsewhere; where it is a file that is replaced."""
    before = table_of(app)
    for name in ("/dev/stdout", "/dev/fd/1", "/proc/self/fd/1"):
        result = shell(f"memcache-shm backup app {name} | memcache-shm restore --replace - app", here)
        assert result.returncode == 0, result.stderr
        assert re.match(r"memcache-shm: \d+ items, .* backed up in ", result.stderr)
        assert table_of(app) == before
    assert shell("memcache-shm backup app >(cat >c; touch taken); memcache-shm backup app /dev/stdout >b", here).returncode == 0
    until((here / "taken").exists, "what the shell's reader takes")
    for name in ("b", "c"):
        assert verb("restore", "--replace", str(here / name), "app").returncode == 0
        assert table_of(app) == before


def test_a_pipe_that_does_not_wait(app: memcache_shm.Cache, here: Path) -> None:
    """Its other users may have made it so."""
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    with subprocess.Popen([sys.executable, "-m", "memcache_shm", "backup", "app", "-"], stdout=writer, stderr=subprocess.PIPE) as process:
        os.close(writer)
        with open(reader, "rb") as file:
            (here / "b").write_bytes(file.read())
        assert process.stderr is not None
        assert b" items, " in process.stderr.read()
    assert process.returncode == 0
    assert verb("restore", str(here / "b"), "app").returncode == 0


def test_files_without_a_name(app: memcache_shm.Cache) -> None:
    for words in (("backup", "app", ""), ("restore", "", "app")):
        result = verb(*words)
        assert (result.returncode, one_line(result.stderr)) == (
            2, "FILE: a file cannot have an empty name; write one, or - for a standard stream",
        )  # fmt: skip


def test_names_that_are_no_text(app: memcache_shm.Cache, here: Path) -> None:
    """Are shown escaped, whatever the output can show, and nothing of them moves a cursor."""
    for name, shown in ((b"\xff", "\\xff"), (b"a\x1b[31m\nb", "a\\x1b[31m\\nb"), ("ж".encode(), "\\xd0\\xb6")):
        words: list[str | bytes] = [sys.executable, "-m", "memcache_shm", "backup", "app", name]
        environment = os.environ | {"PYTHONIOENCODING": "ascii:strict"}
        result = subprocess.run(words, cwd=here, env=environment, capture_output=True, check=False)
        assert (result.returncode, result.stderr) == (0, b"")
        assert f" backed up to {shown} in ".encode() in result.stdout
        assert result.stdout.count(b"\n") == 1
        result = subprocess.run([*words[:3], "restore", name + b"x", "app"], cwd=here, env=environment, capture_output=True, check=False)
        assert (result.returncode, one_line(result.stderr.decode())) == (1, f"{shown}x: No such file or directory")


def as_somebody_else(words: list[str], said: TextIO, out: TextIO) -> None:
    os.setgid(NOBODY)
    os.setuid(NOBODY)
    sys.stderr, sys.stdout = said, out
    sys.exit(main(words))


@pytest.mark.skipif(os.getuid() != 0, reason="only root can become somebody else")
def test_rights() -> None:
    """Who may only read a table may list its keys; for the rest there is its daemon. And a directory that is not ours."""
    denied = (
        "no right to write to table 'app', whose writers must wait for a moment; "
        "back it up through its daemon (HOST:PORT or a socket's path); run it as the table's owner"
    )
    cases: dict[tuple[str, ...], str | None] = {
        ("backup", "app", "-"): denied,
        ("backup", "--format", "keys", "app", "-"): None,
        ("restore", "-", "app"): "no right to write to table 'app'; run it as the table's owner",
        ("backup", "--format", "keys", "app", "{}/b"): "{}/b: Permission denied; nothing was changed there",
    }
    with tempfile.TemporaryDirectory() as name, pytest.MonkeyPatch.context() as patch:
        os.chmod(name, 0o755)
        patch.setenv("MEMCACHE_SHM_DIR", f"{name}/tables")
        with memcache_shm.open("app", memory="1m", mode=0o644) as cache:
            cache.set("key", b"v")
            for words, text in cases.items():
                with tempfile.TemporaryFile("w+") as said, tempfile.TemporaryFile("w+") as out:
                    child = multiprocessing.get_context("fork").Process(
                        target=as_somebody_else, args=([word.format(name) for word in words], said, out)
                    )
                    child.start()
                    child.join()
                    said.seek(0)
                    if text is not None:
                        assert (child.exitcode, one_line(said.read())) == (1, text.format(name))
                    else:
                        assert (child.exitcode, said.read()) == (0, "memcache-shm: 1 key of app listed\n")
        memcache_shm.unlink("app")


def test_interrupted(app: memcache_shm.Cache, here: Path) -> None:
    """Ctrl-C while the backup waits for somebody to read: one line, and its end."""
    os.mkfifo(here / "pipe")
    with subprocess.Popen(
        [sys.executable, "-m", "memcache_shm", "backup", "app", str(here / "pipe")], stderr=subprocess.PIPE, text=True
    ) as process:
        reader = os.open(here / "pipe", os.O_RDONLY)
        os.read(reader, 1)  # it is amid its blocks now, and nobody takes more
        process.send_signal(signal.SIGINT)
        assert process.wait(10) == 1
        assert process.stderr is not None
        assert one_line(process.stderr.read()) == "interrupted; no backup was made"
        os.close(reader)


def test_told_to_end(app: memcache_shm.Cache, here: Path) -> None:
    """SIGTERM is as Ctrl-C; amid the verification nothing was written yet."""
    assert verb("backup", "app", str(here / "b")).returncode == 0
    data = (here / "b").read_bytes()
    before = table_of(app)
    with subprocess.Popen([sys.executable, "-c", TOLD_TO_END, str(here / "b")], stderr=subprocess.PIPE, text=True) as process:
        assert process.wait(20) == 1
        assert process.stderr is not None
        assert one_line(process.stderr.read()) == "interrupted; nothing was written"
    assert (here / "b").read_bytes() == data
    assert table_of(app) == before


TOLD_TO_END = """
import os, signal, sys
from memcache_shm.cli.main import main
from memcache_shm.ops import backups
verify = backups.verify
backups.verify = lambda reader, file, progress: verify(reader, file, lambda step: os.kill(os.getpid(), signal.SIGTERM))
sys.exit(main(["restore", sys.argv[1], "app"]))
"""


def test_the_table_goes_away_amid_a_restore(app: memcache_shm.Cache, here: Path) -> None:
    assert verb("backup", "app", str(here / "b")).returncode == 0
    with subprocess.Popen([sys.executable, "-c", GOES_AWAY, str(here / "b")], stderr=subprocess.PIPE, text=True) as process:
        assert process.wait(20) == 1
        assert process.stderr is not None
        told = "table 'app' was removed or made anew meanwhile; restore again into the one that is there"
        assert one_line(process.stderr.read()) == told


GOES_AWAY = """
import sys
import memcache_shm
from memcache_shm.cli.main import main
from memcache_shm.ops import backups
verify = backups.verify
def verify_and_remove(*words):
    verify(*words)
    memcache_shm.unlink("app")
backups.verify = verify_and_remove
sys.exit(main(["restore", sys.argv[1], "app"]))
"""


def test_killed(app: memcache_shm.Cache, here: Path) -> None:
    """No part of a backup is left, and the table is as before."""
    before = table_of(app)
    with subprocess.Popen([sys.executable, "-c", KILLED_AT_ITS_END, str(here / "b")], stderr=subprocess.PIPE, text=True) as process:
        assert process.wait(20) == -signal.SIGKILL
    assert os.listdir(here) == []
    assert table_of(app) == before
    app.set("key", b"nobody has kept a lock")


KILLED_AT_ITS_END = """
import os, signal, sys
import memcache_shm
from memcache_shm.ops import backups
with memcache_shm.attach("app") as cache:
    backups.save(cache, sys.argv[1], lambda step: step.part > 0.9 and os.kill(os.getpid(), signal.SIGKILL))
"""


def test_the_table_goes_away(app: memcache_shm.Cache, here: Path) -> None:
    """Or another one takes its name, while its items are taken from a copy: the file is that of the table that was copied."""
    before = table_of(app)

    def anew(step: object) -> None:
        if "other" not in app:
            memcache_shm.unlink("app")
            with memcache_shm.open("app", memory="1m") as other:
                other.set("other", b"")

    from memcache_shm.ops import backups

    saved = backups.save(app, str(here / "b"), anew)
    assert saved.items == len(before)
    assert set(table_of(app)) == {b"other"}
    memcache_shm.unlink("app")
    with memcache_shm.open("app", memory="64m", max_item="4m") as again:
        backups.load(str(here / "b"), again)
        assert table_of(again) == before


@pytest.mark.parametrize("form", ["binary", "jsonl"])
def test_memory(state_dir: Path, here: Path, form: str) -> None:
    """A restore needs room for some pieces of the file, not for all of it: 100 MiB with 48 MiB of memory of its own."""
    with memcache_shm.open("large", memory="150m", max_item="2m") as large:
        for number in range(100):
            large.set(f"key{number}", b"%d" % number * (1 << 18), flags=number)
        before = {key: hash(item) for key, item in table_of(large).items()}
        assert len(before) == 100
        assert shell(f"memcache-shm backup --format {form} large b", here).returncode == 0
    with memcache_shm.open("again", memory="150m", max_item="2m") as again:
        for source in ("b", "<(cat b)")[: 1 + (form == "binary")]:
            again.flush_all()
            result = shell(f"ulimit -d 49152; TMPDIR=. memcache-shm restore {source} again", here)
            assert (result.returncode, result.stderr) == (0, "")
            assert {key: hash(item) for key, item in table_of(again).items()} == before
    assert os.listdir(here) == ["b"]


def test_memory_of_a_backup(state_dir: Path, here: Path) -> None:
    """It needs room for the copy; where that is not to be had it says so."""
    with memcache_shm.open("large", memory="200m", max_item="2m") as large:
        for number in range(100):
            large.set(f"key{number}", bytes(1 << 20))
        result = shell("ulimit -d 65536; memcache-shm backup large b", here)
        assert (result.returncode, result.stdout) == (1, "")
        assert re.fullmatch(r"no room for a copy of \d+ bytes of table 'large'; free some, .*", one_line(result.stderr))
        assert os.listdir(here) == []


def test_a_temporary_directory_that_is_full(app: memcache_shm.Cache, here: Path) -> None:
    """Where what comes from a pipe is put by."""
    assert shell("memcache-shm backup app b", here).returncode == 0
    result = shell("ulimit -f 4096; cat b | TMPDIR=. memcache-shm restore - app", here)
    assert result.returncode == 1
    assert re.fullmatch(
        r"standard input: cannot be put by in .*: File too large; set TMPDIR to where there is room", one_line(result.stderr)
    )


def test_writers_go_on_meanwhile(app: memcache_shm.Cache, here: Path) -> None:
    """A writer in another process notices nothing but a pause; the backup is of one instant between two of its rounds, or amid one."""
    fork = multiprocessing.get_context("fork")
    over, rounds = fork.Event(), fork.Value("q", 0)
    writer = fork.Process(target=write_rounds, args=(over, rounds))
    writer.start()
    try:
        until(lambda: rounds.value > 10, "the writer")
        for _ in range(3):
            before = rounds.value
            assert verb("backup", "app", str(here / "b")).returncode == 0
            with memcache_shm.open("copy", memory="64m", max_item="4m") as copy:
                assert verb("restore", "--replace", str(here / "b"), "copy").returncode == 0
                found = [int(copy.get(f"round{number}")) for number in range(100)]
            assert found[0] > before - 1
            assert found == sorted(found, reverse=True)  # each is one ahead of, or level with, the next
            assert found[0] - found[-1] <= 1
    finally:
        over.set()
        writer.join()
    assert writer.exitcode == 0


def write_rounds(over: Callable[[], bool], rounds: object) -> None:
    with memcache_shm.attach("app") as cache:
        number = 0
        while not over.is_set():  # type: ignore[attr-defined]
            number += 1
            for key in range(100):
                cache.set(f"round{key}", b"%d" % number)
            rounds.value = number  # type: ignore[attr-defined]
