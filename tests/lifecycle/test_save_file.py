"""The file of --save by itself: when a save is due, what a kill or a full disk leaves, which former file is kept."""

from __future__ import annotations

import errno
import functools
import os
import resource
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from support.backups import fill, table_of
from support.kills import killed_after
from support.waiting import until

import memcache_shm
from memcache_shm.errors import BackupError, TableNotFoundError, TableRemovedError
from memcache_shm.ops.saving import SaveFile
from memcache_shm.server.saves import SaveFigures
from memcache_shm.storage import registry
from memcache_shm.storage.geometry import Geometry

MIB = 1 << 20
APP = functools.partial(memcache_shm.attach, "app")
GEOMETRY = Geometry.by_memory(16 * MIB, 4 * MIB)


@pytest.fixture
def cache(state_dir: Path) -> Iterator[memcache_shm.Cache]:
    with memcache_shm.open("app", memory="16m", max_item="4m") as cache:
        yield cache
    memcache_shm.unlink("app")


@pytest.fixture
def file(tmp_path: Path) -> SaveFile:
    (tmp_path / "saves").mkdir()
    return SaveFile(str(tmp_path / "saves" / "table"), SaveFigures())


def entries(file: SaveFile) -> list[str]:
    """What is in its directory."""
    return sorted(os.listdir(os.path.dirname(file.path)))


def loaded(file: SaveFile) -> dict[bytes, object]:
    """What a new table has that is filled from it; that table is removed."""
    claim = registry.claim("loaded", GEOMETRY, fill=lambda table, name, directory: file.load(table, name, directory) and None)
    try:
        with memcache_shm.attach("loaded") as cache:
            return dict(table_of(cache))
    finally:
        claim.release()


# When it is due

CHANGES: dict[str, Callable[[memcache_shm.Cache], object]] = {
    "set": lambda cache: cache.set("k", b"v"),
    "set to the same value": lambda cache: cache.set("there", b"1"),
    "incr": lambda cache: cache.incr("there", 1),
    "append": lambda cache: cache.append("there", b"x"),
    "delete": lambda cache: cache.delete("there"),
    "touch": lambda cache: cache.touch("there", 1000),
    "gat": lambda cache: cache.gat("there", 2000),
    "flush_all": lambda cache: cache.flush_all(),
    "flush_all of the future": lambda cache: cache.flush_all(1000),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_a_change_makes_a_save_due_once(cache: memcache_shm.Cache, file: SaveFile, change: Callable[[memcache_shm.Cache], object]) -> None:
    cache.set("there", b"1")
    assert file.save_if_changed(APP)
    cache.get_many(["there", "missing"])
    cache.delete("missing")
    assert not file.save_if_changed(APP)
    change(cache)
    assert file.save_if_changed(APP)
    assert not file.save_if_changed(APP)
    assert loaded(file) == table_of(cache)


def test_a_flush_that_falls_due_makes_a_save_due(cache: memcache_shm.Cache, file: SaveFile) -> None:
    cache.set("there", b"1")
    cache.flush_all(1)
    assert file.save_if_changed(APP)
    assert not file.save_if_changed(APP)
    until(lambda: file.save_if_changed(APP), "the flush")
    assert loaded(file) == {}


def test_what_was_loaded_needs_no_save(cache: memcache_shm.Cache, file: SaveFile) -> None:
    fill(cache)
    assert file.save_if_changed(APP)
    again = SaveFile(file.path, SaveFigures())
    claim = registry.claim("other", GEOMETRY, fill=lambda table, name, directory: again.load(table, name, directory) and None)
    try:
        assert not again.save_if_changed(functools.partial(memcache_shm.attach, "other"))
        assert again.save_if_changed(APP), "another table is another matter"
    finally:
        claim.release()


def test_figures(cache: memcache_shm.Cache, tmp_path: Path) -> None:
    figures = SaveFigures()
    file = SaveFile(str(tmp_path / "table"), figures)
    assert set(figures.figures().values()) == {0}
    cache.set("key", b"value")
    file.save_if_changed(APP)
    told = figures.figures()
    assert (told["shm_saves"], told["shm_save_items"], told["shm_save_failures"]) == (1, 1, 0)
    assert 8 <= told["shm_save_bytes"] < file_bytes(file)
    assert abs(told["shm_save_last"] - os.stat(file.path).st_mtime) <= 2


def file_bytes(file: SaveFile) -> int:
    return os.path.getsize(file.path)


def test_a_table_that_is_being_made_anew_is_no_failure(state_dir: Path, tmp_path: Path) -> None:
    """But one that cannot be found is."""

    def removed() -> memcache_shm.Cache:
        raise TableRemovedError

    figures = SaveFigures()
    file = SaveFile(str(tmp_path / "table"), figures)
    for access, error, failures in ((removed, TableRemovedError, 0), (APP, TableNotFoundError, 1)):
        with pytest.raises(error):
            file.save_if_changed(access)
        assert figures.figures()["shm_save_failures"] == failures
    assert not (tmp_path / "table").exists()


# What is left of one that does not succeed


def test_a_kill_at_any_system_call_leaves_a_whole_file(cache: memcache_shm.Cache, file: SaveFile) -> None:
    """The old one or the new one; and nothing besides that the next save does not remove."""
    cache.set("key", b"old")
    assert file.save_if_changed(APP)
    old = table_of(cache)
    cache.set("key", b"new")
    new = table_of(cache)
    calls, seen = 10, []
    while killed_after(lambda: file.save_if_changed(APP), calls):
        found = loaded(file)
        assert found in (old, new)
        seen.append(found == new)
        assert len(entries(file)) <= 3
        calls += 3
    assert seen == sorted(seen)
    assert False in seen
    cache.set("key", b"newest")
    assert file.save_if_changed(APP)
    assert entries(file) == ["table"]
    assert loaded(file) == table_of(cache)


def test_what_a_killed_save_left_goes_at_the_start(file: SaveFile) -> None:
    directory = Path(file.path).parent
    for name in (".table.0123abcd.tmp", ".table.abc_efg8.tmp", ".table.old"):
        (directory / name).write_text("x")
    others = [".table.tmp", ".tables.0123abcd.tmp", ".table.x.0123abcd.tmp", "table.old"]
    for name in others:
        (directory / name).write_text("x")
    file.claim()
    assert entries(file) == sorted([".table.lock", *others])
    file.release()
    assert entries(file) == sorted(others)


@pytest.fixture
def small_files() -> Iterator[None]:
    """No file of this process may be larger than 64 KiB: what a full disk is like."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (65536, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_full_disk(cache: memcache_shm.Cache, file: SaveFile, small_files: None) -> None:
    cache.set("key", b"small")
    assert file.save_if_changed(APP)
    before = table_of(cache)
    cache.set("key", bytes(100_000))
    for _ in range(2):
        with pytest.raises(BackupError, match=rf"{file.path}: File too large"):
            file.save_if_changed(APP)
    assert entries(file) == ["table"]
    assert loaded(file) == before
    cache.set("key", b"fits")
    assert file.save_if_changed(APP)
    assert loaded(file) == table_of(cache)


def test_places_where_nothing_can_be_saved(tmp_path: Path, file: SaveFile) -> None:
    os.mkfifo(tmp_path / "fifo")
    for path, why in (
        (tmp_path / "absent" / "table", "no directory"),
        (tmp_path, "no regular file"),
        (tmp_path / "fifo", "no regular file"),
        (Path("/dev/full"), "no regular file"),
        (Path("/proc/table"), "no file can be made "),  # root may, as far as access(2) knows
        (tmp_path / ("x" * 256), "File name too long"),
        (tmp_path / ("x" * 252), "File name too long; that is the name for a former one"),
        (tmp_path / "with", "with.old is a directory"),
    ):
        (tmp_path / "with.old").mkdir(exist_ok=True)
        with pytest.raises(BackupError, match=why):
            SaveFile(str(path), SaveFigures()).claim()


def test_the_longest_name(cache: memcache_shm.Cache, tmp_path: Path) -> None:
    file = SaveFile(str(tmp_path / "saves" / ("x" * 251)), SaveFigures())
    os.mkdir(tmp_path / "saves")
    file.claim()
    for _ in range(2):
        cache.set("key", os.urandom(1000))
        file.save_if_changed(APP)
        cache.flush_all()
        file.save_if_changed(APP)
    file.release()
    assert entries(file) == ["x" * 251, "x" * 251 + ".old"]


# Who saves to it


def test_one_at_a_time(file: SaveFile, state_dir: Path) -> None:
    """Found out by another process: a POSIX lock is no matter within one."""
    program = "import sys; from lifecycle.test_save_file import *; SaveFile(sys.argv[1], SaveFigures()).claim()"
    env = os.environ | {"PYTHONPATH": f"{Path(__file__).parents[1]}:{os.environ.get('PYTHONPATH', '')}"}

    def other() -> subprocess.CompletedProcess[str]:
        return subprocess.run([sys.executable, "-c", program, file.path], env=env, capture_output=True, text=True, timeout=30, check=False)

    file.claim()
    assert f"{file.path} is what the daemon with pid {os.getpid()} saves to; stop it, or name another file" in other().stderr
    assert entries(file) == [".table.lock"]
    file.release()
    assert entries(file) == []
    for _ in range(2):
        assert other().returncode == 0, "what one left that did not release it is nobody's"
    file.claim()
    file.release()


# The file before


def test_a_table_that_was_emptied_does_not_take_its_last_copy_with_it(cache: memcache_shm.Cache, file: SaveFile) -> None:
    fill(cache)
    assert file.save_if_changed(APP)
    good = table_of(cache)
    for _ in range(3):
        cache.flush_all()
        assert file.save_if_changed(APP)
        cache.set("first", b"x")
        assert file.save_if_changed(APP)
        assert entries(file) == ["table", "table.old"]
        assert loaded(file) == table_of(cache)
        assert loaded(SaveFile(f"{file.path}.old", SaveFigures())) == good


def test_the_former_file_is_there_before_its_place_is_taken(cache: memcache_shm.Cache, file: SaveFile) -> None:
    """A kill at any system call leaves the good copy under one of the two names."""
    fill(cache)
    assert file.save_if_changed(APP)
    good = table_of(cache)
    cache.flush_all()
    calls, seen = 10, set()
    while killed_after(lambda: file.save_if_changed(APP), calls):
        old = Path(f"{file.path}.old")
        kept = old.exists() and loaded(SaveFile(str(old), SaveFigures())) == good
        replaced = loaded(file) == {}
        assert kept or not replaced
        seen.add((kept, replaced))
        old.unlink(missing_ok=True)
        if replaced:
            break
        calls += 3
    assert {(False, False), (True, False)} <= seen


@pytest.mark.parametrize("links", [True, False])
def test_the_same_former_file_twice(cache: memcache_shm.Cache, file: SaveFile, links: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """As after a save that failed in between: two names of one file. And where there are no such."""

    def refuse(*names: object, **options: object) -> None:
        raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))

    fill(cache)
    assert file.save_if_changed(APP)
    good = table_of(cache)
    os.link(file.path, f"{file.path}.old")
    cache.flush_all()
    if not links:
        monkeypatch.setattr("memcache_shm.ops.former_file.os.link", refuse)
        monkeypatch.setattr("memcache_shm.ops.whole_file._DESCRIPTORS", "/nowhere")
    assert file.save_if_changed(APP)
    assert entries(file) == ["table", "table.old"]
    assert loaded(SaveFile(f"{file.path}.old", SaveFigures())) == good
    assert loaded(file) == {}


def test_a_load_that_was_not_complete(cache: memcache_shm.Cache, tmp_path: Path, state_dir: Path) -> None:
    """The first save keeps the file, once."""
    for number in range(12):
        cache.set(f"key{number}", os.urandom(1 << 20))
    file = SaveFile(str(tmp_path / "table"), SaveFigures())
    assert file.save_if_changed(APP)
    good = Path(file.path).read_bytes()
    small = Geometry.by_memory(9 * MIB, 2 * MIB)
    for evict in (True, False):
        again = SaveFile(file.path, SaveFigures())
        claim = registry.claim("small", small, evict=evict, fill=lambda table, name, directory: again.load(table, name, directory) and None)  # noqa: B023
        try:
            with memcache_shm.attach("small") as other:
                for number in range(2):
                    other.set("later", b"%d" % number)
                    assert again.save_if_changed(functools.partial(memcache_shm.attach, "small"))
                    assert Path(f"{file.path}.old").read_bytes() == good
        finally:
            claim.release()
        os.replace(f"{file.path}.old", file.path)


def test_a_former_file_that_cannot_be_kept(cache: memcache_shm.Cache, file: SaveFile) -> None:
    """Then nothing is replaced."""
    fill(cache)
    assert file.save_if_changed(APP)
    good = table_of(cache)
    os.mkdir(f"{file.path}.old")
    cache.flush_all()
    with pytest.raises(BackupError, match=r"table\.old: Is a directory; .* is not replaced$"):
        file.save_if_changed(APP)
    assert entries(file) == ["table", "table.old"]
    assert loaded(file) == good


def test_a_table_that_shrinks_slowly_keeps_nothing(cache: memcache_shm.Cache, file: SaveFile) -> None:
    for number in range(100):
        cache.set(f"key{number}", bytes(1000))
    for number in range(0, 80, 10):
        assert file.save_if_changed(APP)
        for each in range(number, number + 10):
            cache.delete(f"key{each}")
    assert file.save_if_changed(APP)
    assert entries(file) == ["table"]


def test_a_symbolic_link_leads_to_the_file(cache: memcache_shm.Cache, file: SaveFile, tmp_path: Path) -> None:
    link = tmp_path / "link"
    link.symlink_to(file.path)
    cache.set("key", b"value")
    SaveFile(str(link), SaveFigures()).save_if_changed(APP)
    assert link.is_symlink()
    assert loaded(file) == table_of(cache)
