"""A file written by a child: what it is when the child ends, whatever ends it."""

from __future__ import annotations

import errno
import os
import signal
import threading
from pathlib import Path

import pytest

from memcache_shm.client.filing import write_in_child


def written(directory: Path, data: bytes, name: str = "file") -> int:
    """The exit status of a child that writes the file."""
    pid = write_in_child(os.fsencode(directory / ".part"), os.fsencode(directory / name), data)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


@pytest.mark.parametrize("size", [0, 1, 10_000_000])
def test_file_is_written(tmp_path: Path, size: int) -> None:
    data = os.urandom(size)
    assert written(tmp_path, data) == 0
    assert (tmp_path / "file").read_bytes() == data
    assert os.listdir(tmp_path) == ["file"]


def test_name_without_a_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    pid = write_in_child(b".part", b"file", b"data")
    assert os.waitpid(pid, 0)[1] == 0
    assert os.listdir(tmp_path) == ["file"]


def test_older_file_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"older and longer")
    assert written(tmp_path, b"new") == 0
    assert (tmp_path / "file").read_bytes() == b"new"


def test_file_has_the_umask(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        assert written(tmp_path, b"") == 0
    finally:
        os.umask(before)
    assert (tmp_path / "file").stat().st_mode & 0o777 == 0o640


def test_exit_status_is_the_error(tmp_path: Path) -> None:
    """And the temporary file tells that it was not kept."""
    (tmp_path / "directory").mkdir()
    assert written(tmp_path, b"data", "directory") == errno.EISDIR
    assert sorted(os.listdir(tmp_path)) == [".part", "directory"]


def test_temporary_file_that_cannot_be_made(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        written(tmp_path / "none", b"data")
    (tmp_path / ".part").write_bytes(b"theirs")
    with pytest.raises(FileExistsError):
        written(tmp_path, b"data")
    assert (tmp_path / ".part").read_bytes() == b"theirs"


def test_paths_with_nul(tmp_path: Path) -> None:
    for paths in ((b"a\0", b"b"), (b"a", b"b\0")):
        with pytest.raises(ValueError, match="NUL"):
            write_in_child(*paths, b"data")


def test_signals_that_stop_the_parent_spare_the_child(tmp_path: Path) -> None:
    """What its parent handles it does not, and what it ignores is ignored: nothing runs in the child but the writing."""
    handled = [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1]
    previous = {number: signal.signal(number, lambda *_: os._exit(99)) for number in handled}
    try:
        pid = write_in_child(os.fsencode(tmp_path / ".part"), os.fsencode(tmp_path / "file"), b"x" * 50_000_000)
        for number in handled:
            os.kill(pid, number)
        assert os.waitpid(pid, 0)[1] == 0
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
    assert (tmp_path / "file").stat().st_size == 50_000_000


def test_signals_of_the_calling_thread_come_again(tmp_path: Path) -> None:
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR2})
    try:
        assert written(tmp_path, b"") == 0
        assert signal.pthread_sigmask(signal.SIG_BLOCK, ()) == before | {signal.SIGUSR2}
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def test_threads_that_hold_locks_do_no_harm(tmp_path: Path) -> None:
    """Some allocate, some log, some import: a child that needed one of their locks would hang now and then."""
    over = threading.Event()

    def busy() -> None:
        while not over.is_set():
            bytes(100_000)
            [str(number) for number in range(100)]

    threads = [threading.Thread(target=busy) for _ in range(4)]
    for thread in threads:
        thread.start()
    try:
        for _ in range(100):
            assert written(tmp_path, b"data") == 0
    finally:
        over.set()
        for thread in threads:
            thread.join()


def test_killed_child_leaves_the_temporary_file_or_the_whole_one(tmp_path: Path) -> None:
    data = b"x" * 20_000_000
    statuses = set()
    for _ in range(20):
        pid = write_in_child(os.fsencode(tmp_path / ".part"), os.fsencode(tmp_path / "file"), data)
        os.kill(pid, signal.SIGKILL)
        statuses.add(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
        found = set(os.listdir(tmp_path))
        assert len(found) == 1
        assert found <= {".part", "file"}
        if "file" in found:
            assert (tmp_path / "file").read_bytes() == data
        for name in found:
            (tmp_path / name).unlink()
    assert statuses <= {0, -signal.SIGKILL}
