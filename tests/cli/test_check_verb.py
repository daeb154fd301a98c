"""`memcache-shm check`, as a shell sees it."""

from __future__ import annotations

import io
import json
import multiprocessing
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TextIO

import pytest
import sysv_ipc
from support.segments import Segment
from support.tables import state, verb

import memcache_shm
from memcache_shm.cli.check import _bar, _grouped
from memcache_shm.cli.main import main
from memcache_shm.storage.check import Finding

Said = Callable[[], tuple[str, str]]
NOBODY = 65534
SLOT_BITS = 12  # of a lock word


@pytest.fixture
def said(capsys: pytest.CaptureFixture[str]) -> Said:
    """Standard output and standard error since the last call."""

    def read() -> tuple[str, str]:
        out, error = capsys.readouterr()
        return out, error

    return read


@pytest.fixture
def cache(state_dir: Path) -> memcache_shm.Cache:
    """A table of 4 shards with 100 items; the directory's removal removes it."""
    cache = memcache_shm.open("app", memory="512k", max_item="1k")
    for number in range(100):
        cache.set(f"k{number}", b"v")
    return cache


def damage(cache: memcache_shm.Cache, name: str, by: int, shards: int = 1) -> None:
    """Add to a control word of the first shards."""
    with Segment(cache.attached_table) as segment:
        for shard in range(shards):
            field = segment.control(shard, name)
            segment.put(field, segment.get(field) + by)


def test_clean(cache: memcache_shm.Cache, said: Said) -> None:
    assert main(["check", "app"]) == 0
    assert said() == ("clean: 4 shards, 100 items\n", "")
    memcache_shm.open("one", elements=1, element_size=1).set("k", b"v")
    assert main(["check", "one"]) == 0
    assert said() == ("clean: 1 shard, 1 item\n", "")


def test_findings_then_repair(cache: memcache_shm.Cache, said: Said) -> None:
    damage(cache, "bytes", 7, shards=3)
    assert main(["check", "app"]) == 1
    out, error = said()
    *lines, last = out.splitlines()
    assert [line.split(":")[:2] for line in lines] == [[f"shard {shard}", " count"] for shard in range(3)]
    assert "bytes are counted" in lines[0]
    assert last == "3 findings"
    assert error == ""
    assert main(["check", "app", "--repair"]) == 0
    assert said()[0].splitlines() == [*lines, "repaired shards 0, 1, 2", "clean: 4 shards, 100 items"]
    assert main(["check", "app", "--repair"]) == 0
    assert said()[0] == "clean: 4 shards, 100 items\n"


def test_a_repair_tells_the_items_that_are_left(cache: memcache_shm.Cache, said: Said) -> None:
    with Segment(cache.attached_table) as segment:
        segment.put(segment.record(segment.find(b"k1"), "key_length"), 0)
    assert main(["check", "app", "--repair"]) == 0
    assert said()[0].splitlines()[-1] == "clean: 4 shards, 99 items"
    assert cache.get("k1") is None


def test_json(cache: memcache_shm.Cache, said: Said) -> None:
    assert main(["check", "--json", "app"]) == 0
    clean = json.loads(said()[0])
    assert (clean["name"], clean["clean"], clean["shards"], clean["items"], clean["findings"]) == ("app", True, 4, 100, [])
    damage(cache, "bytes", 7)
    assert main(["check", "--json", "app"]) == 1
    found = json.loads(said()[0])
    assert (found["clean"], found["left"]) == (False, found["findings"])
    (finding,) = found["findings"]
    assert (finding["shard"], finding["kind"], finding["count"]) == (0, "count", 1)
    assert main(["check", "--json", "--repair", "app"]) == 0
    mended = json.loads(said()[0])
    assert (mended["clean"], mended["left"], mended["repaired"], mended["findings"]) == (True, [], [0], [finding])


def test_many_findings_are_bounded() -> None:
    findings = [Finding(shard, kind, f"text {shard}") for kind in ("leak", "record") for shard in range(30)]
    findings += [Finding(None, "record", "and 500 more", 500), Finding(None, "process slot", "text")]
    lines = list(_grouped(findings))
    assert lines[:2] == ["shard 0: leak: text 0", "shard 1: leak: text 1"]
    assert lines[10:12] == ["leak: and 20 more", "shard 0: record: text 0"]
    assert lines[-2:] == ["record: and 520 more", "table: process slot: text"]
    assert len(lines) == 10 + 1 + 10 + 1 + 1


def test_what_the_repair_cannot_mend(cache: memcache_shm.Cache, said: Said, monkeypatch: pytest.MonkeyPatch) -> None:
    """No damage to a segment is of this kind; a repair that failed must not pass for a clean table."""
    from memcache_shm.cli import check
    from memcache_shm.storage.check import Report

    found = [Finding(2, "leak", "some"), Finding(3, "count", "others")]
    monkeypatch.setattr(check, "check_table", lambda *_, **__: Report(4, 100, 100, 0, [2, 3], found, found[:1]))
    assert main(["check", "app", "--repair"]) == 1
    assert said()[0].splitlines() == [
        "shard 2: leak: some", "shard 3: count: others", "repaired shards 2, 3", "still there:", "shard 2: leak: some", "1 finding",
    ]  # fmt: skip


def test_left_behind_by_a_crash(state_dir: Path) -> None:
    """No process has it: the command alone attaches it."""
    program = """
import memcache_shm, os, signal
memcache_shm.open("app", elements=9, element_size=9).set("key", b"1")
os.kill(os.getpid(), signal.SIGKILL)
"""
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == -9
    done = verb("check", "app")
    assert (done.returncode, done.stdout, done.stderr) == (0, "clean: 1 shard, 1 item\n", "")


def test_a_shard_that_is_kept_locked(cache: memcache_shm.Cache, said: Said) -> None:
    """By a process that lives: this one, which does not come round to unlock it."""
    with Segment(cache.attached_table) as segment:
        pids = {segment.get(segment.process(number, "pid")): number for number in range(segment.plan.process_slots)}
        number = pids[os.getpid()]
        segment.put(segment.control(2, "lock"), segment.get(segment.process(number, "epoch")) << SLOT_BITS | number + 1)
        assert main(["check", "app"]) == 1
        segment.put(segment.control(2, "lock"), 0)
    out, error = said()
    assert error == ""
    assert f"shard 2: busy: process {os.getpid()}" in out
    assert out.splitlines()[-1] == "1 finding", "the other shards are clean"


def test_no_such_table(state_dir: Path, said: Said) -> None:
    assert main(["check", "missing"]) == 1
    out, error = said()
    assert out == ""
    assert error.count("\n") == 1
    assert "'missing'" in error
    assert "'memcache-shm ls'" in error


def test_removed_from_outside(cache: memcache_shm.Cache, state_dir: Path, said: Said) -> None:
    sysv_ipc.remove_shared_memory(state(state_dir, "app")["shmid"])
    assert main(["check", "app"]) == 1
    out, error = said()
    assert out == ""
    assert error.count("\n") == 1
    assert "removed" in error
    assert "'memcache-shm rm app'" in error


def test_another_layout(cache: memcache_shm.Cache, said: Said) -> None:
    with Segment(cache.attached_table) as segment:
        segment.put(segment.header("fingerprint"), 1)
    assert main(["check", "app"]) == 1
    out, error = said()
    assert out == ""
    assert error.count("\n") == 1
    assert "layout" in error
    assert "memcache-shm rm" in error


@pytest.mark.skipif(os.getuid() != 0, reason="only root can become somebody else")
def test_without_the_right_to_write(monkeypatch: pytest.MonkeyPatch) -> None:
    with tempfile.TemporaryDirectory(prefix="mschk") as directory, open(f"{directory}/said", "w+") as said:  # where others may look
        os.chmod(directory, 0o755)
        monkeypatch.setenv("MEMCACHE_SHM_DIR", f"{directory}/tables")
        memcache_shm.open("app", elements=1, element_size=1, mode=0o644).close()
        child = multiprocessing.get_context("fork").Process(target=check_as_somebody_else, args=(said,))
        child.start()
        child.join()
        memcache_shm.unlink("app")
        said.seek(0)
        assert said.read() == (
            "memcache-shm: error: no right to write to table 'app', and a check takes its locks; run it as the table's owner\n"
        )
        assert child.exitcode == 1


def check_as_somebody_else(said: TextIO) -> None:
    os.setuid(NOBODY)
    sys.stderr = said
    sys.exit(main(["check", "app"]))


@pytest.mark.parametrize("words", [[], ["a/b"], ["app", "other"], ["app", "--fix"]])
def test_wrong_usage(state_dir: Path, words: list[str], said: Said) -> None:
    assert main(["check", *words]) == 2
    out, error = said()
    assert out == ""
    assert error.count("\n") == 1
    assert "'memcache-shm check --help' explains" in error


def test_help_shows_how(said: Said) -> None:
    with pytest.raises(SystemExit) as end:
        main(["check", "--help"])
    assert end.value.code == 0
    assert "\n  memcache-shm check --repair memcache_shm-11211\n" in said()[0]


class Terminal(io.StringIO):
    """A stream that says it is one."""

    def isatty(self) -> bool:
        return True


def test_progress_of_a_large_table_on_a_terminal() -> None:
    terminal = Terminal()
    draw = _bar("app", 1 << 30, terminal)
    assert draw is not None
    for done in range(1, 5):
        draw(done, 4)
    first, *_, last, rest = terminal.getvalue().removeprefix("\r").split("\r")
    assert first == "checking app [#######.......................] 1/4 shards"
    assert last == " " * len(first), "wiped"
    assert rest == ""
    assert _bar("app", 1 << 20, terminal) is None
    assert _bar("app", 1 << 30, io.StringIO()) is None
