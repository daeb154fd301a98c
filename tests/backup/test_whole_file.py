"""A file that appears whole or not at all, whatever happens meanwhile."""

from __future__ import annotations

import errno
import multiprocessing
import os
import signal
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from memcache_shm.errors import BackupError
from memcache_shm.ops import whole_file
from memcache_shm.ops.whole_file import WholeFile, hidden_name


@pytest.fixture(params=["nameless", "hidden"], autouse=True)
def kind(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """As on most file systems, and as on one that has no files without a name."""
    if request.param == "hidden":

        def refuse(path: str, flags: int, mode: int = 0o777, *, dir_fd: int | None = None) -> int:
            if flags & os.O_TMPFILE == os.O_TMPFILE:
                raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))
            return real(path, flags, mode, dir_fd=dir_fd)

        real = os.open
        monkeypatch.setattr(whole_file.os, "open", refuse)
    return str(request.param)


def test_nothing_is_there_before_the_end(here: Path, kind: str) -> None:
    path = here / "file"
    with WholeFile(str(path)) as file:
        file.write(b"one ")
        file.write(memoryview(b"two"))
        assert not path.exists()
        assert len(os.listdir(here)) == (kind == "hidden")
    assert path.read_bytes() == b"one two"
    assert os.listdir(here) == ["file"]
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_an_older_one_is_replaced(here: Path) -> None:
    """In one step: who has it open reads on; it keeps its rights."""
    path = here / "file"
    path.write_bytes(b"old")
    path.chmod(0o640)
    with path.open("rb") as old, WholeFile(str(path)) as file:
        file.write(b"new")
        assert path.read_bytes() == b"old"
        assert old.read() == b"old"
    assert path.read_bytes() == b"new"
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
    assert os.listdir(here) == ["file"]


def test_an_error_leaves_all_as_it_was(here: Path) -> None:
    path = here / "file"
    path.write_bytes(b"old")
    with pytest.raises(KeyError), WholeFile(str(path)) as file:
        file.write(b"new")
        raise KeyError
    assert path.read_bytes() == b"old"
    assert os.listdir(here) == ["file"]


def test_a_link_leads_to_what_is_replaced(here: Path) -> None:
    (here / "directory").mkdir()
    (here / "directory" / "file").write_bytes(b"old")
    (here / "link").symlink_to("directory/file")
    (here / "to_be").symlink_to("directory/other")
    for name in ("link", "to_be"):
        with WholeFile(str(here / name)) as file:
            file.write(b"new")
        assert (here / name).is_symlink()
        assert (here / name).read_bytes() == b"new"
    assert sorted(os.listdir(here / "directory")) == ["file", "other"]


def test_names_of_any_length_and_none_at_all(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(here)
    for name in ("x" * 255, "ж" * 127, "-"):
        with WholeFile(name) as file:
            file.write(b"x")
    assert sorted(os.listdir(here)) == sorted(["x" * 255, "ж" * 127, "-"])


def write_until(path: str, then: Callable[[], object]) -> None:
    with WholeFile(path) as file:
        file.write(b"a part")
        then()


def test_a_kill_leaves_nothing(here: Path, kind: str) -> None:
    """But a hidden file where there must be one; the old one is as it was."""
    path = here / "file"
    path.write_bytes(b"old")
    writer = multiprocessing.get_context("fork").Process(target=write_until, args=(str(path), lambda: os.kill(os.getpid(), signal.SIGKILL)))
    writer.start()
    writer.join(10)
    assert writer.exitcode == -signal.SIGKILL
    assert path.read_bytes() == b"old"
    assert len(os.listdir(here)) == 1 + (kind == "hidden")
    assert (kind == "hidden") == any(name.startswith(".file.") and name.endswith(".tmp") for name in os.listdir(here))


def test_what_was_left_goes(here: Path) -> None:
    """With the next file of that name; but what somebody is writing, and the hidden files of others, stay."""
    path = here / "file"
    path.write_bytes(b"old")
    left, kept = here / ".file.abcdefgh.tmp", here / hidden_name("file", "lock")
    for each in (left, kept, here / ".file2.abcdefgh.tmp"):
        each.write_bytes(b"a part")
    with WholeFile(str(path)) as one:
        one.write(b"one")
        with WholeFile(str(path)) as other:
            other.write(b"other")
        assert path.read_bytes() == b"other"
    assert path.read_bytes() == b"one"
    assert sorted(os.listdir(here)) == [".file.lock", ".file2.abcdefgh.tmp", "file"]


def test_nothing_is_left_of_what_could_not_begin(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(fd: int, mode: int) -> None:
        raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))

    before = os.listdir("/proc/self/fd")
    monkeypatch.setattr(whole_file.os, "fchmod", refuse)
    with pytest.raises(BackupError, match="Operation not permitted; nothing was changed there"):
        WholeFile(str(here / "file"))
    assert os.listdir(here) == []
    assert len(os.listdir("/proc/self/fd")) == len(before)


def test_no_rights_but_to_read_and_write(here: Path) -> None:
    path = here / "file"
    path.write_bytes(b"old")
    path.chmod(0o4775)
    with WholeFile(str(path)) as file:
        file.write(b"new")
    assert stat.S_IMODE(path.stat().st_mode) == 0o664


@pytest.mark.skipif(os.getuid() != 0, reason="only root can give files away")
def test_somebody_else_s_file_chooses_nothing(here: Path) -> None:
    path = here / "file"
    path.write_bytes(b"old")
    os.chown(path, 65534, 65534)
    path.chmod(0o4777)
    with WholeFile(str(path)) as file:
        file.write(b"new")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert path.stat().st_uid == 0


def test_descriptors_by_name(here: Path) -> None:
    """As shells name them: a pipe is written to, a file replaced."""
    reader, writer = os.pipe()
    with WholeFile(f"/dev/fd/{writer}") as file:
        file.write(b"through it")
    assert os.read(reader, 100) == b"through it"
    os.close(reader)
    os.close(writer)
    with (here / "file").open("wb") as opened, WholeFile(f"/dev/fd/{opened.fileno()}") as file:
        file.write(b"new")
    assert (here / "file").read_bytes() == b"new"


def test_devices_are_written_to(here: Path) -> None:
    with WholeFile("/dev/null") as file:
        file.write(b"x" * 100)
    assert stat.S_ISCHR(os.stat("/dev/null").st_mode)
    with pytest.raises(BackupError, match=r"^/dev/full: No space left on device$"), WholeFile("/dev/full") as file:
        file.write(b"x")
    os.mkfifo(here / "pipe")
    reader = os.open(here / "pipe", os.O_RDONLY | os.O_NONBLOCK)
    with WholeFile(str(here / "pipe")) as file:
        file.write(b"through it")
    assert os.read(reader, 100) == b"through it"
    os.close(reader)


def test_places_where_no_file_can_be(here: Path) -> None:
    cases = {
        str(here): "Is a directory; nothing was changed there",
        str(here / "missing" / "file"): f"there is no directory {here / 'missing'}; nothing was changed there",
        str(here / ("x" * 256)): "File name too long; nothing was changed there",
        "/proc/file": ".*; nothing was changed there",
    }
    for path, text in cases.items():
        with pytest.raises(BackupError, match=f"^{path}: {text}$"):
            WholeFile(path).__enter__()
    assert os.listdir(here) == []
