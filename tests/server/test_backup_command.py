"""The command `backup`: who may, what file comes of it, and that nothing but the file is ever left."""

from __future__ import annotations

import contextlib
import fcntl
import os
import select
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from support.backups import fill, table_of
from support.client import Client
from support.isolation import children, is_running
from support.servers import Daemon
from support.supervision import await_line
from support.waiting import until

import memcache_shm
from memcache_shm.client.items import Item
from memcache_shm.ops import backups

NOT_ALLOWED = b"CLIENT_ERROR backup not allowed; start the daemon with --backup-dir DIR"
NOT_HERE = b"CLIENT_ERROR backup is for clients of the UNIX socket only"
BAD_NAME = b"CLIENT_ERROR bad file name: 1 to 200 printable ASCII characters without a slash, the first no dot"
BUSY = b"SERVER_ERROR busy: a backup is running, try again later"
OPTIONS = ("-m", "16", "-I", "4m", "--name", "app")


@pytest.fixture(autouse=True)
def _nothing_is_left(no_leaks: None) -> None:
    """Checked after each test."""


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The directory of --backup-dir; this test's tables are registered elsewhere."""
    monkeypatch.setenv("MEMCACHE_SHM_DIR", str(tmp_path / "tables"))
    (tmp_path / "backups").mkdir()
    return tmp_path / "backups"


@pytest.fixture
def start(place: Path) -> Callable[..., Daemon]:
    """A function that starts a daemon with it."""
    return lambda *options: Daemon(*OPTIONS, "--backup-dir", str(place), *options)


@pytest.fixture
def daemon(start: Callable[..., Daemon]) -> Iterator[Daemon]:
    with start() as daemon:
        yield daemon


def fill_large(daemon: Daemon) -> None:
    """8 MiB, so that a backup takes a moment."""
    with Client(daemon) as client:
        for number in range(8):
            assert client.set(b"large%d" % number, os.urandom(1 << 20)) == b"STORED"


@pytest.fixture
def large(daemon: Daemon) -> Daemon:
    fill_large(daemon)
    return daemon


def _child_of(pid: int) -> int:
    """Without a look at every process there is; 0: none."""
    pids = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return int(pids[0]) if pids else 0


def _has_answer(client: Client) -> bool:
    return bool(select.select([client.sock], [], [], 0)[0])


def _is_itself(pid: int) -> bool:
    """No longer a copy of its worker, which catches SIGTERM: it has seen to its own end by then."""
    caught = next(line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("SigCgt:"))
    return not int(caught.split()[1], 16) >> (signal.SIGTERM - 1) & 1


class Held:
    """A backup that was stopped soon after it began; `go_on` lets it."""

    def __init__(self, client: Client, worker: int, file: bytes = b"held") -> None:
        for _ in range(100):
            client.send(b"backup %b\r\n" % file)
            self.pid = until(lambda: _child_of(worker) or int(_has_answer(client)), "the child", every_s=0.0)
            if self.pid > 1 and self._stop(worker):
                return
            assert client.line().startswith(b"OK ")  # it was too fast: once more
        raise AssertionError("no backup could be stopped")

    def _stop(self, worker: int) -> bool:
        with contextlib.suppress(OSError):  # it has ended
            until(lambda: _is_itself(self.pid), "it to begin", every_s=0.0)
            os.kill(self.pid, signal.SIGSTOP)
        until(lambda: children(worker).get(self.pid) in ("T", "Z", None), "it to stop or to end")
        return children(worker).get(self.pid) == "T"

    def go_on(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGCONT)


def restored(path: Path) -> dict[bytes, Item]:
    """What a new table has that the file is loaded into."""
    with memcache_shm.open("other", memory="16m", max_item="4m") as cache:
        try:
            backups.load(str(path), cache)
            return table_of(cache)
        finally:
            memcache_shm.unlink("other")


# Who may


def test_not_without_the_option(place: Path) -> None:
    with Daemon("64", "100") as daemon:
        for door in ("tcp", "unix"):
            with Client(daemon, door) as client:
                assert client.ask(b"backup file") == NOT_ALLOWED


def test_not_over_tcp(daemon: Daemon, place: Path) -> None:
    with Client(daemon) as client:
        assert client.ask(b"backup file") == NOT_HERE
        assert client.ask(b"mn") == b"MN"
    assert os.listdir(place) == []


NAMES = (b"../x", b"a/b", b"/etc/x", b".", b"..", b".x", b"a\0b", b"a\x7fb", b"a\tb", b"\xc3\xa4", b"x" * 201)


@pytest.mark.parametrize("name", NAMES, ids=repr)
def test_no_way_out_of_the_directory(daemon: Daemon, place: Path, name: bytes) -> None:
    with Client(daemon, "unix") as client:
        assert client.ask(b"backup " + name) == BAD_NAME
        assert client.ask(b"backup") == b"ERROR"
        assert client.ask(b"backup a b") == b"ERROR"
    assert os.listdir(place) == []
    assert not (place.parent / "x").exists()


def test_only_those_who_have_logged_in(start: Callable[..., Daemon], place: Path, tmp_path: Path) -> None:
    users = tmp_path / "users"
    users.write_text("user:secret\n")
    with start("-Y", str(users)) as daemon, Client(daemon, "unix") as client:
        assert client.ask(b"backup file") == b"CLIENT_ERROR unauthenticated"
        assert client.ask(b"set login 0 0 11\r\nuser secret") == b"STORED"
        assert client.ask(b"backup file") == b"OK 0 0"
    assert os.listdir(place) == ["file"]


# What comes of it


def test_every_item_with_all_its_fields(daemon: Daemon, place: Path) -> None:
    with memcache_shm.attach("app") as cache, Client(daemon, "unix") as client:
        fill(cache)
        expected = table_of(cache)
        word, items, size = client.ask(b"backup file").split()
        assert (word, int(items)) == (b"OK", len(expected))
        assert int(size) == sum(28 + len(item.key) + len(item.value) for item in expected.values())
    assert restored(place / "file") == expected
    assert (place / "file").stat().st_mode & 0o777 == 0o600
    assert os.listdir(place) == ["file"]


def test_replies_come_in_the_order_of_requests(daemon: Daemon) -> None:
    with Client(daemon, "unix") as client:
        client.send(b"mn\r\nset k 0 0 1\r\nx\r\nbackup one\r\nget k\r\nbackup two\r\nbackup /\r\nmn\r\n")
        expected = [b"MN", b"STORED", b"OK 1 30", b"VALUE k 0 1", b"x", b"END", b"OK 1 30", BAD_NAME, b"MN"]
        assert [client.line() for _ in expected] == expected


def test_an_older_file_is_replaced_and_keeps_its_rights(daemon: Daemon, place: Path) -> None:
    with Client(daemon, "unix") as client:
        assert client.ask(b"backup file") == b"OK 0 0"
        (place / "file").chmod(0o640)
        client.set(b"k", b"v")
        assert client.ask(b"backup file") == b"OK 1 30"
    assert (place / "file").stat().st_mode & 0o777 == 0o640
    assert list(restored(place / "file")) == [b"k"]


def test_a_link_is_replaced_and_not_followed(daemon: Daemon, place: Path, tmp_path: Path) -> None:
    target = tmp_path / "target"
    target.write_text("precious")
    (place / "link").symlink_to(target)
    (place / "dangling").symlink_to(tmp_path / "absent")
    with Client(daemon, "unix") as client:
        assert client.ask(b"backup link") == b"OK 0 0"
        assert client.ask(b"backup dangling") == b"OK 0 0"
    assert target.read_text() == "precious"
    assert not (tmp_path / "absent").exists()
    assert not (place / "link").is_symlink()
    assert not (place / "dangling").is_symlink()
    assert restored(place / "link") == {}


def test_what_is_no_file_is_not_written_to(daemon: Daemon, place: Path) -> None:
    os.mkdir(place / "directory")
    os.mkfifo(place / "fifo")
    with Client(daemon, "unix") as client:
        assert client.ask(b"backup directory").startswith(b"SERVER_ERROR DIR/directory: Is a directory; ")
        await_line(daemon, f"backup directory: {place}/directory: Is a directory; ")
        assert client.ask(b"backup fifo") == b"OK 0 0"
    assert restored(place / "fifo") == {}


def test_a_directory_that_is_gone(daemon: Daemon, place: Path) -> None:
    place.rmdir()
    with Client(daemon, "unix") as client:
        assert client.ask(b"backup file") == b"SERVER_ERROR DIR: No such file or directory"
    await_line(daemon, f"backup file: {place}: No such file or directory")


def test_what_a_killed_one_left_goes(daemon: Daemon, place: Path) -> None:
    (place / ".file.0123abcd.tmp").write_text("x")
    with Client(daemon, "unix") as client:
        assert client.ask(b"backup file") == b"OK 0 0"
    assert os.listdir(place) == ["file"]


# While one runs


def test_others_are_served_meanwhile_and_another_one_is_refused(large: Daemon, place: Path) -> None:
    with Client(large, "unix") as client, Client(large, "unix") as other, Client(large) as third:
        held = Held(client, large.workers[0])
        client.send(b"mn\r\n")
        for each in (other, third):
            assert each.set(b"k", b"v") == b"STORED"
            assert each.get(b"k") == b"v"
        assert other.ask(b"backup other") == BUSY
        assert other.ask(b"backup held") == BUSY
        held.go_on()
        assert client.line().startswith(b"OK ")
        assert client.line() == b"MN"
        assert other.ask(b"backup other").startswith(b"OK 9 ")
    assert sorted(os.listdir(place)) == ["held", "other"]


def test_one_at_a_time_into_a_directory(daemon: Daemon, place: Path) -> None:
    """Whichever worker or daemon writes there: its process holds this lock."""
    descriptor = os.open(place, os.O_RDONLY)
    with Client(daemon, "unix") as client:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        assert client.ask(b"backup file") == BUSY
        await_line(daemon, "backup file: busy")
        os.close(descriptor)
        assert client.ask(b"backup file") == b"OK 0 0"


def test_a_client_that_leaves_has_its_file_all_the_same(large: Daemon, place: Path) -> None:
    worker = large.workers[0]
    with Client(large, "unix") as client:
        held = Held(client, worker)
        client.send(b"set late 0 0 1\r\nx\r\n")
    held.go_on()
    until(lambda: not children(worker), "it to be reaped")
    assert len(restored(place / "held")) == 8
    with Client(large, "unix") as client:
        assert client.ask(b"backup other").startswith(b"OK 8 ")
        assert client.get(b"late") is None, "what follows is not executed for nobody"


def test_a_killed_one(large: Daemon, place: Path) -> None:
    with Client(large, "unix") as client:
        held = Held(client, large.workers[0])
        existed = (place / "held").exists()  # it was too fast before
        os.kill(held.pid, signal.SIGKILL)
        assert client.line() == b"SERVER_ERROR the process that wrote it killed by SIGKILL"
        await_line(large, "backup held: the process that wrote it killed by SIGKILL")
        assert os.listdir(place) == ["held"] * existed
        assert client.ask(b"backup held").startswith(b"OK 8 ")
        assert client.ask(b"set k 0 0 1\r\nx") == b"STORED"


@pytest.mark.parametrize("victim", ["worker", "daemon"])
def test_it_ends_with_its_worker(start: Callable[..., Daemon], place: Path, victim: str) -> None:
    with start() as daemon, Client(daemon, "unix") as client:
        fill_large(daemon)
        held = Held(client, daemon.workers[0], b"never")
        os.kill(daemon.workers[0] if victim == "worker" else daemon.pid, signal.SIGKILL)
        until(lambda: not is_running(held.pid), "its end")
        assert client.is_closed()
        if victim == "worker":
            with Client(daemon, "unix") as other:
                assert other.ask(b"backup file").startswith(b"OK 8 ")
                assert [name for name in os.listdir(place) if name.startswith(".")] == []
    if victim == "daemon":
        memcache_shm.unlink("app")


def test_the_end_of_the_daemon_waits_for_one_for_a_while(start: Callable[..., Daemon], place: Path) -> None:
    with start() as daemon, Client(daemon, "unix") as client:
        fill_large(daemon)
        held = Held(client, daemon.workers[0])
        daemon.process.send_signal(signal.SIGTERM)
        until(lambda: not os.path.exists(daemon.unix_path), "the listeners to close")
        held.go_on()
        assert client.line().startswith(b"OK 8 ")
        assert client.is_closed()
        assert daemon.wait() == 0
    assert len(restored(place / "held")) == 8


def test_the_end_of_the_daemon_does_not_wait_for_ever(start: Callable[..., Daemon], place: Path) -> None:
    with start() as daemon, Client(daemon, "unix") as client:
        fill_large(daemon)
        held = Held(client, daemon.workers[0])
        began_s = time.monotonic()
        assert daemon.stop() == 0
        assert time.monotonic() - began_s < 8.0
        assert not is_running(held.pid)
        assert client.is_closed()
