"""A daemon with --save: what may happen to its table and to itself meanwhile, and how service managers start it."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import sysv_ipc
from support.client import Client
from support.following import await_copies, contents
from support.isolation import is_running
from support.saving import SOON, damage, figures, refused, store, value
from support.servers import START_LINE, Daemon
from support.supervision import await_line, said
from support.tables import names, state
from support.terminal import Terminal
from support.waiting import until

import memcache_shm

NOWHERE = "127.0.0.1:1"  # nobody listens there
only_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
LIMITED = "import os, resource, sys; resource.setrlimit(resource.RLIMIT_FSIZE, (65536, 65536)); os.execv(sys.argv[1], sys.argv[1:])"


# What else may happen to the table


@pytest.mark.parametrize("how", ["whole", "damaged"])
def test_a_table_removed_from_outside(saver: Callable[..., Daemon], path: Path, state_dir: Path, how: str) -> None:
    """It comes back as it was saved last; where that cannot be loaded the table is empty, and the file is kept."""
    with saver() as daemon:
        store(daemon, **{f"saved{number}": "x" * 100 for number in range(50)})
    with saver(workers=2) as daemon:
        store(daemon, lost="1")
        if how == "damaged":
            damage(path, "cut off")
        content = path.read_bytes()
        old = state(state_dir, "app")
        sysv_ipc.remove_shared_memory(old["shmid"])
        await_line(daemon, "the table was removed from outside")
        with Client(daemon) as client:
            until(lambda: client.ask(b"mn") == b"MN", "an answer")
            until(lambda: client.ask(b"mg saved7") == (b"HD" if how == "whole" else b"EN"), "the new table")
            assert client.get(b"lost") is None
        assert len(said(daemon, "50 items loaded from")) == (2 if how == "whole" else 1)
        await_line(daemon, "a new one with 50 items took its place" if how == "whole" else "an empty one took its place")
        assert daemon.stop() == 0
    if how == "damaged":
        assert said(daemon, f"--save: cannot load {path}: cut off after .*; table app begins empty, and the next save keeps .* as .*")
        assert path.with_name("table.old").read_bytes() == content


def test_without_its_state_file(saver: Callable[..., Daemon], path: Path, state_dir: Path) -> None:
    """The daemon has the table all the same: it saves, and at its end, too."""
    with saver("--backup-dir", str(path.parent), every=SOON) as daemon:
        (state_dir / "app.json").unlink()
        store(daemon, key="value")
        until(lambda: figures(daemon)["shm_save_items"] == 1, "a save")
        with Client(daemon, "unix") as client:
            assert client.ask(b"backup other") == b"OK 1 36"
        store(daemon, late="1")
        assert daemon.stop() == 0
    assert names(state_dir) == []
    with saver() as daemon:
        assert value(daemon, b"late") == b"1"


@pytest.mark.parametrize("gone", ["state file", "directory"])
def test_a_table_that_stays_can_be_found(saver: Callable[..., Daemon], path: Path, state_dir: Path, gone: str) -> None:
    with saver() as daemon:
        store(daemon, key="value")
        (state_dir / "app.json").unlink()
        if gone == "directory":
            shutil.rmtree(state_dir)
        path.parent.rename(path.parent.with_name("aside"))
        assert daemon.stop() == 1
        assert said(daemon, "table app with 1 items stays; the next start with the same options takes it over")
    path.parent.mkdir()
    with saver() as daemon:
        assert value(daemon, b"key") == b"value"


def test_an_emptied_table_keeps_the_copy_before(saver: Callable[..., Daemon], path: Path) -> None:
    with saver(every=SOON) as daemon, Client(daemon) as client:
        store(daemon, **{f"key{number}": "x" * 100 for number in range(50)})
        until(lambda: figures(daemon)["shm_save_items"] == 50, "a save")
        assert client.ask(b"flush_all") == b"OK"
        await_line(daemon, rf"{path} has become much smaller; what it was before is kept as {path}\.old")
    path.with_name("table.old").rename(path)
    with saver() as daemon:
        assert value(daemon, b"key7") == b"x" * 100


def test_a_follower_saves_what_it_has_copied(saver: Callable[..., Daemon], path: Path) -> None:
    """Not before it has, and it does not load: its leader knows better."""
    with saver() as daemon:
        store(daemon, **{f"old{number}": "x" for number in range(50)})
    content = path.read_bytes()
    with saver("--follow", NOWHERE, every=SOON) as daemon:
        assert daemon.lines[0].endswith(f"{path} is not loaded: the items come from {NOWHERE}")
        await_line(daemon, "cannot follow")
        assert value(daemon, b"old7") is None
        assert daemon.stop() == 0
    assert path.read_bytes() == content
    with Daemon("--name", "lead", "-m", "16", "-I", "4m") as leader:
        store(leader, new="1")
        with saver("--follow", f"{leader.host}:{leader.port}", every=SOON) as copy:
            await_copies(copy, 1)
            until(lambda: figures(copy)["shm_save_items"] == 1, "a save")
            assert contents(copy) == contents(leader)
    with saver() as daemon:
        assert value(daemon, b"new") == b"1"


def test_a_table_that_a_program_made(saver: Callable[..., Daemon], state_dir: Path) -> None:
    with memcache_shm.open("app", memory="16m", max_item="4m") as cache:
        cache.set("key", b"a program's")
        with saver() as daemon:
            assert value(daemon, b"key") == b"a program's"
            assert daemon.stop() == 0
        cache.set("key", b"later")
    memcache_shm.unlink("app")
    with saver() as daemon:
        assert value(daemon, b"key") == b"a program's"


def test_a_further_signal_stops_without_a_save(saver: Callable[..., Daemon], path: Path, state_dir: Path) -> None:
    """As it does everything: what was saved before stays."""
    with saver() as daemon:
        store(daemon, key="saved")
    content = path.read_bytes()
    with saver() as daemon, Client(daemon) as client:
        client.set(b"big", bytes(4 << 20))
        client.send(b"get big\r\n" * 64)  # and never read
        client.line()
        daemon.process.send_signal(signal.SIGTERM)
        until(lambda: not os.path.exists(daemon.unix_path), "the listeners to close")
        daemon.process.send_signal(signal.SIGTERM)
        assert daemon.wait() == 0
        assert said(daemon, f"--save: told to stop at once; {path} is as it was saved last")
    assert path.read_bytes() == content
    assert names(state_dir) == []


# As a service manager starts it


@pytest.fixture
def place(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A directory that every user may write to and reach; tables are in it, too."""
    with tempfile.TemporaryDirectory(prefix="ms") as directory:
        os.chmod(directory, 0o777)
        monkeypatch.setenv("MEMCACHE_SHM_DIR", f"{directory}/tables")
        yield Path(directory)


@only_root
def test_as_another_user(place: Path) -> None:
    """The file is that user's, and so is the right to make it."""
    nobody = pwd.getpwnam("nobody")
    options = ("-u", nobody.pw_name, "-s", f"{place}/s", "--save", str(place / "table"))
    with Daemon(*options) as daemon:
        store(daemon, key="value")
    assert (place / "table").stat().st_uid == nobody.pw_uid
    with Daemon(*options) as daemon:
        assert value(daemon, b"key") == b"value"
    os.mkdir(place / "root")
    os.chmod(place / "root", 0o755)
    line = refused(Daemon(*options, "--save", str(place / "root" / "table"), wait=False))
    assert f"--save: no file can be made in {place}/root by this user; " in line


def test_in_the_background(place: Path) -> None:
    """A relative path is one of the directory where it was started; what fails is told to who started it."""
    words = [sys.executable, "-m", "memcache_shm", "-d", "-p", "0", "-s", "s", "--name", "app", "--save", "table"]

    def start() -> subprocess.CompletedProcess[str]:
        return subprocess.run(words, cwd=place, capture_output=True, text=True, timeout=30, check=False)

    for lines in (1, 2):
        done = start()
        assert done.returncode == 0, done.stderr
        assert done.stderr.count("\n") == lines
        match = START_LINE.search(done.stderr)
        assert match
        with memcache_shm.attach("app") as cache:
            assert cache.get("key") == (b"value" if lines == 2 else None)
            cache.set("key", b"value")
        os.kill(int(match["pid"]), signal.SIGTERM)
        until(lambda: not is_running(int(match["pid"])), "the daemon to end", 20.0)  # noqa: B023
    damage(place / "table", "altered")
    done = start()
    assert done.returncode == 1
    assert f"--save: cannot load {place}/table: " in done.stderr


STOPPED = """import os, signal, sys
signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
os.kill(os.getpid(), signal.SIGTERM)
os.execv(sys.argv[1], sys.argv[1:])"""


def test_a_stop_amid_the_load(saver: Callable[..., Daemon], path: Path, state_dir: Path) -> None:
    """By a signal that waits since before the start; a line says so, and nothing is left."""
    with saver() as daemon:
        store(daemon, key="value")
    words = [sys.executable, "-m", "memcache_shm", "-p", "0", "--name", "app", "-m", "16", "-I", "4m", "--save", str(path)]
    done = subprocess.run([sys.executable, "-c", STOPPED, *words], capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 0
    assert done.stderr == "memcache-shm: told to stop before the table was loaded; nothing was changed\n"
    assert os.listdir(state_dir) == []
    assert os.listdir(path.parent) == ["table"]


def test_a_load_on_a_terminal_shows_how_far_it_is(saver: Callable[..., Daemon], path: Path, state_dir: Path) -> None:
    with saver() as daemon, Client(daemon) as client:
        for number in range(8):
            client.set(b"key%d" % number, bytes(1 << 20))
    command = [sys.executable, "-m", "memcache_shm", "-p", "0", "-t", "1", "--name", "app", "-m", "16", "-I", "4m", "--save", str(path)]
    with Terminal(command, {"COLUMNS": "200"}, columns=200) as terminal:
        terminal.expect(r"verifying [^\r]*/table \[[#.]{24}\]")
        terminal.expect(r"restoring [^\r]*/table \[[#.]{24}\]")
        terminal.expect(r"8 items loaded from")
        terminal.expect(r"serving app")
        terminal.interrupt()
        assert terminal.ends() == 0
