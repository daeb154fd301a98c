"""A daemon with --save: what it loads at its start, when it saves, and what becomes of the file whatever happens to the daemon."""

from __future__ import annotations

import os
import pwd
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import sysv_ipc
from support.backups import fill, table_of
from support.client import Client
from support.following import await_copies, companion_of, contents
from support.isolation import is_running
from support.servers import START_LINE, Daemon
from support.supervision import await_line, said, shm_stats
from support.tables import names, state, verb
from support.terminal import Terminal
from support.waiting import until

import memcache_shm
from memcache_shm.ops import backups

LATER = "86400"  # seconds between saves: none while a test runs
SOON = "1"
NOWHERE = "127.0.0.1:1"  # nobody listens there
only_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
LIMITED = "import os, resource, sys; resource.setrlimit(resource.RLIMIT_FSIZE, (65536, 65536)); os.execv(sys.argv[1], sys.argv[1:])"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """The file, in a directory of its own."""
    (tmp_path / "saves").mkdir()
    return tmp_path / "saves" / "table"


@pytest.fixture
def saver(state_dir: Path, path: Path) -> Callable[..., Daemon]:
    """A function that starts a daemon which saves to the file."""

    def start(*options: str, every: str = LATER, workers: int = 1, wait: bool = True, within: tuple[str, ...] = ()) -> Daemon:
        usual = ("--name", "app", "-m", "16", "-I", "4m", "--save", str(path), "--save-every", every)
        return Daemon(*usual, *options, workers=workers, wait=wait, within=within)

    return start


def store(daemon: Daemon, **items: str) -> None:
    with Client(daemon) as client:
        for key, value in items.items():
            assert client.set(key.encode(), value.encode()) == b"STORED"


def value(daemon: Daemon, key: bytes) -> bytes | None:
    with Client(daemon) as client:
        return client.get(key)


def figures(daemon: Daemon) -> dict[str, int]:
    with Client(daemon) as client:
        return {name: int(figure) for name, figure in shm_stats(client).items() if name.startswith("shm_save")}


def kill(daemon: Daemon) -> None:
    children = daemon.workers
    os.kill(daemon.pid, signal.SIGKILL)
    daemon.wait()
    until(lambda: not any(map(is_running, children)), "its children to go")


def refused(daemon: Daemon) -> str:
    """The one line of a start that fails."""
    assert daemon.wait() == 1
    (line,) = daemon.lines
    return line


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


def damage(path: Path, how: str) -> None:
    content = bytearray(path.read_bytes())
    if how == "altered":
        content[len(content) // 2] ^= 1
    path.write_bytes({"altered": content, "cut off": content[:-10], "empty": b"", "another": b"hello\n"}[how])


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
        terminal.expect(r"verifying .*/table \[[#.]{24}\]")
        terminal.expect(r"restoring .*/table \[[#.]{24}\]")
        terminal.expect(r"8 items loaded from")
        terminal.expect(r"serving app")
        terminal.type("\x03")
        assert terminal.ends() == 0
