"""A daemon with --save: what it loads at its start, when it saves, and what becomes of the file whatever happens to the daemon."""

from __future__ import annotations

import os
import re
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from support.backups import fill, table_of
from support.client import Client
from support.following import companion_of
from support.isolation import is_running
from support.saving import LATER, SOON, damage, figures, kill, refused, store, value
from support.servers import Daemon
from support.supervision import await_line, said
from support.tables import names, verb
from support.waiting import until

import memcache_shm
from memcache_shm.ops import backups

NOWHERE = "127.0.0.1:1"  # nobody listens there
only_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
LIMITED = "import os, resource, sys; resource.setrlimit(resource.RLIMIT_FSIZE, (65536, 65536)); os.execv(sys.argv[1], sys.argv[1:])"


# Start and end


def test_every_field_of_every_item(saver: Callable[..., Daemon], path: Path, state_dir: Path) -> None:
    with saver(workers=2) as daemon:
        with memcache_shm.attach("app") as cache:
            fill(cache)
            before = table_of(cache)
        assert daemon.stop() == 0
    assert len(before) > 500
    assert names(state_dir) == []
    assert path.stat().st_mode & 0o777 == 0o600
    for _ in range(2):
        with saver(workers=2) as daemon:
            assert f"{len(before)} items loaded from {path} in" in daemon.lines[0]
            with memcache_shm.attach("app") as cache, Client(daemon) as client:
                assert table_of(cache) == before
                client.set(b"later", b"x")
                assert int(client.gets(b"later")[1]) > max(item.cas for item in before.values() if item.cas < 1 << 40)
                assert client.ask(b"delete later") == b"DELETED"
            assert daemon.stop() == 0


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=lambda number: number.name)
@pytest.mark.parametrize("every", ["0", LATER])
def test_the_end_right_after_a_write(saver: Callable[..., Daemon], number: int, every: str) -> None:
    with saver(every=every) as daemon:
        store(daemon, key="value")
        assert daemon.stop(number) == 0
    with saver(every=every) as daemon:
        assert value(daemon, b"key") == b"value"


def test_a_first_start_without_a_file(saver: Callable[..., Daemon], path: Path) -> None:
    with saver() as daemon:
        assert len(daemon.lines) == 1
        assert not path.exists()
        store(daemon, key="value")
    assert path.exists()


def test_saves_while_it_changes(saver: Callable[..., Daemon], path: Path) -> None:
    with saver(every=SOON) as daemon:
        store(daemon, one="1", two="2")
        until(lambda: figures(daemon)["shm_save_items"] == 2, "a save")
        saves = figures(daemon)["shm_saves"]
        store(daemon, three="3")
        until(lambda: figures(daemon)["shm_save_items"] == 3, "another one")
        assert figures(daemon)["shm_saves"] == saves + 1
        assert figures(daemon)["shm_save_failures"] == 0
        kill(daemon)
    assert verb("rm", "app").returncode == 0
    with saver() as daemon:
        assert value(daemon, b"three") == b"3"


def test_without_the_option_there_are_no_figures(state_dir: Path) -> None:
    with Daemon("1024", "256") as daemon:
        assert figures(daemon) == {}


def test_with_keep_both_stay(saver: Callable[..., Daemon], path: Path) -> None:
    with saver("--keep") as daemon:
        store(daemon, key="value")
        assert daemon.stop() == 0
    assert path.exists()
    with saver() as daemon:
        assert "is not loaded: table app was there already, with 1 item; " in daemon.lines[0]
        assert value(daemon, b"key") == b"value"


def test_a_smaller_table_says_what_it_had_no_room_for(saver: Callable[..., Daemon], path: Path) -> None:
    with saver() as daemon, Client(daemon) as client:
        client.set(b"large", bytes(3 << 20))
        client.set(b"small", b"x")
        client.ask(b"set over 0 1 1\r\nx")
        until(lambda: client.get(b"over") is None, "the item to expire")
    with saver("-I", "1m") as daemon:
        assert "1 item loaded from" in daemon.lines[0]
        assert daemon.lines[0].endswith(f", 1 found no room; the next save keeps {path} as {path}.old")
        assert value(daemon, b"small") == b"x"


def test_a_smaller_table_says_what_it_evicted(saver: Callable[..., Daemon], path: Path) -> None:
    with saver() as daemon, Client(daemon) as client:
        for number in range(12):
            client.set(b"key%d" % number, os.urandom(1 << 20))
    content = path.read_bytes()
    with saver("-m", "9", "-I", "2m", every=SOON) as daemon:
        assert re.search(rf"12 items loaded from .* \d+ evicted again for want of room; the next save keeps {path} as ", daemon.lines[0])
        store(daemon, key="value")
        await_line(daemon, rf"{path} was not loaded completely; what it was before is kept as {path}\.old")
    assert path.with_name("table.old").read_bytes() == content


def test_two_daemons_with_one_file(saver: Callable[..., Daemon], path: Path) -> None:
    with saver() as daemon:
        store(daemon, key="value")
        line = refused(saver("--name", "other", wait=False))
        assert line.endswith(f"error: --save: {path} is what the daemon with pid {daemon.pid} saves to; stop it, or name another file")
        kill(daemon)
    assert verb("rm", "app").returncode == 0
    with saver():
        pass
    assert os.listdir(path.parent) == ["table"]


def test_a_client_may_not_replace_the_file(saver: Callable[..., Daemon], path: Path) -> None:
    with saver("--backup-dir", str(path.parent)) as daemon, Client(daemon, "unix") as client:
        why = f"is what the daemon with pid {daemon.pid} saves to (--save); choose another name"
        assert client.ask(b"backup table") == f"SERVER_ERROR DIR/table {why}".encode()
        assert client.ask(b"backup other") == b"OK 0 0"


# A file that cannot be loaded, a place that cannot be written


@pytest.mark.parametrize("how", ["altered", "cut off", "empty", "another"])
def test_a_damaged_file(saver: Callable[..., Daemon], path: Path, state_dir: Path, how: str) -> None:
    """No start over it: it may be all there is. Nothing is left but the file."""
    with saver() as daemon:
        store(daemon, key="value")
    damage(path, how)
    content = path.read_bytes()
    line = refused(saver(wait=False))
    assert f"error: --save: cannot load {path}: " in line
    assert line.endswith("; put a good one in its place, or move it away to start empty")
    assert path.read_bytes() == content
    assert names(state_dir) == []
    path.rename(path.with_name("damaged"))
    with saver() as daemon:
        assert value(daemon, b"key") is None


def test_places_where_nothing_can_be_saved(saver: Callable[..., Daemon], tmp_path: Path, state_dir: Path) -> None:
    assert "--save: there is no directory /nowhere; " in refused(saver("--save", "/nowhere/table", wait=False))
    assert "is no regular file" in refused(saver("--save", str(tmp_path), wait=False))
    assert "--backup-dir: there is no directory /nowhere; " in refused(saver("--backup-dir", "/nowhere", wait=False))
    assert names(state_dir) == []


def test_usage() -> None:
    for words, why in (
        (("--save-every", "5"), "--save-every: goes with --save FILE"),
        (("--save", "x", "--save-every", "-1"), "--save-every"),
        (("--save", ""), "--save: needs a name"),
        (("--backup-dir", ""), "--backup-dir: needs a name"),
        (("--backup-dir", "."), "--backup-dir: goes with -s PATH, "),
    ):
        done = verb("-p", "0", *words)
        assert done.returncode == 2
        assert why in done.stderr


def test_a_full_disk(saver: Callable[..., Daemon], path: Path) -> None:
    """Told once, tried again and again; the file of before stays, and at the end the table does."""
    with saver(every=SOON, within=(sys.executable, "-c", LIMITED)) as daemon:
        store(daemon, key="small")
        until(lambda: figures(daemon)["shm_save_items"] == 1, "a save")
        content = path.read_bytes()
        store(daemon, key="x" * 100_000)
        until(lambda: figures(daemon)["shm_save_failures"] >= 2, "two tries")
        assert len(said(daemon, "the table cannot be saved: ")) == 1
        assert f"{path}: File too large; " in said(daemon, "the table cannot be saved: ")[0]
        assert path.read_bytes() == content
        store(daemon, key="fits")
        await_line(daemon, f"the table is saved to {path} again after")
        saved = path.read_bytes()
        store(daemon, key="x" * 100_000)
        assert daemon.stop() == 1
        assert said(daemon, "--save: cannot save table app: ")
        assert said(daemon, "table app with 1 items stays")
        assert path.read_bytes() == saved
        assert os.listdir(path.parent) == ["table"]
    with saver() as daemon:
        assert value(daemon, b"key") == b"x" * 100_000


def test_a_directory_that_goes(saver: Callable[..., Daemon], path: Path) -> None:
    with saver(every=SOON) as daemon:
        store(daemon, key="value")
        until(lambda: path.exists(), "a save")
        aside = path.parent.rename(path.parent.with_name("aside"))
        store(daemon, key="other")
        await_line(daemon, f"the table cannot be saved: {path}: there is no directory {path.parent}; ")
        aside.rename(path.parent)
        await_line(daemon, "again after")
        kill(daemon)
    assert verb("rm", "app").returncode == 0
    with saver() as daemon:
        assert value(daemon, b"key") == b"other"


# Kills


def test_a_killed_daemon_leaves_the_table_which_is_newer(saver: Callable[..., Daemon], path: Path) -> None:
    with saver() as daemon:
        store(daemon, key="saved")
    with saver() as daemon:
        store(daemon, key="newer")
        kill(daemon)
    with saver() as daemon:
        assert f"{path} is not loaded: table app was there already, with 1 item; 'memcache-shm restore {path} app' puts" in daemon.lines[0]
        assert value(daemon, b"key") == b"newer"
    with saver() as daemon:
        assert value(daemon, b"key") == b"newer"


def test_a_killed_saver_is_replaced(saver: Callable[..., Daemon]) -> None:
    with saver(every=SOON) as daemon:
        victim = companion_of(daemon)
        os.kill(victim, signal.SIGKILL)
        await_line(daemon, rf"saver \(pid {victim}\) killed by SIGKILL; starting another")
        store(daemon, key="value")
        until(lambda: figures(daemon)["shm_save_items"] == 1, "a save")


def test_a_daemon_killed_amid_saves(saver: Callable[..., Daemon], path: Path) -> None:
    """Whenever that is, the file is a whole one."""
    with saver(every=SOON) as daemon, Client(daemon) as client:
        for number in range(8):
            client.set(b"large%d" % number, os.urandom(1 << 20))
        until(path.exists, "a save")
        for number in range(10):
            victim = companion_of(daemon)
            client.set(b"n", b"%d" % number)
            saves = figures(daemon)["shm_saves"]
            until(lambda: _writes(victim) or figures(daemon)["shm_saves"] > saves, "it to be at it", every_s=0.0)  # noqa: B023
            os.kill(victim, signal.SIGKILL)
            until(lambda: not is_running(victim), "its end")  # noqa: B023
            with backups.opened(str(path)) as file:
                backups.verify(backups.reader_of(file, str(path)), file)
        kill(daemon)
    assert verb("rm", "app").returncode == 0


def _writes(pid: int) -> bool:
    """Whether it has a file open that has no name yet."""
    try:
        return any(" (deleted)" in os.readlink(link) for link in Path(f"/proc/{pid}/fd").iterdir())
    except OSError:
        return False
