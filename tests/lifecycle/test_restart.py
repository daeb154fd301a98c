"""A table outlives its daemon's end with --keep, and its being killed: the next start takes it over, whole; attached processes go on."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import sysv_ipc
from support.client import Client
from support.isolation import is_running
from support.servers import Daemon
from support.tables import is_gone, is_there, names, state, verb
from support.users import Users
from support.waiting import until

import memcache_shm
from memcache_shm.storage import layout

ITEMS = 500
SOON_S = 4


def _kill(daemon: Daemon) -> None:
    """SIGKILL to the supervisor; its workers go with it."""
    workers = daemon.workers
    os.kill(daemon.pid, signal.SIGKILL)
    daemon.wait()
    until(lambda: not any(map(is_running, workers)), "the workers to go")


def _keep(daemon: Daemon) -> None:
    """An orderly end of one that was started with --keep."""
    assert daemon.stop() == 0


either_end = pytest.mark.parametrize("end", [_kill, _keep], ids=["kill", "keep"])


@pytest.mark.parametrize("geometry", [("1024", "256"), ("-m", "8")], ids=" ".join)
@pytest.mark.parametrize("workers", [1, 3])
def test_the_next_start_takes_over_every_item(geometry: tuple[str, ...], workers: int, state_dir: Path) -> None:
    with Daemon("--name", "app", *geometry, workers=workers) as daemon, Client(daemon) as client:
        for number in range(ITEMS):
            assert client.ask(b"set k%d %d 0 7\r\nv%06d" % (number, number, number)) == b"STORED"
        value, cas = client.gets(b"k7")
        _kill(daemon)
    ids = state(state_dir, "app")
    assert is_there(state_dir, "app")
    assert "left behind" in verb("ls").stdout
    with Daemon("--name", "app", *geometry, workers=workers) as daemon, Client(daemon, "unix") as client:
        assert f"{ITEMS} items taken over" in daemon.lines[0]
        assert state(state_dir, "app")["shmid"] == ids["shmid"]
        for number in range(ITEMS):
            assert client.ask(b"get k%d" % number) == b"VALUE k%d %d 7" % (number, number)
            assert client.read(9) == b"v%06d\r\n" % number
            assert client.line() == b"END"
        assert client.gets(b"k7") == (value, cas)
        assert client.ask(b"cas k7 0 0 1 %b\r\nx" % cas) == b"STORED"
        assert daemon.stop() == 0
    assert is_gone(ids["shmid"], ids["semid"])
    assert names(state_dir) == []


def test_killed_again_and_again(state_dir: Path) -> None:
    for turn in range(5):
        with Daemon("--name", "app", "64", "100", workers=2) as daemon, Client(daemon) as client:
            client.set(b"k%d" % turn, b"v")
            assert all(client.get(b"k%d" % number) == b"v" for number in range(turn + 1))
            _kill(daemon)
    assert names(state_dir) == ["app"]
    assert verb("rm", "app").returncode == 0


def test_the_socket_file_of_a_killed_daemon_is_taken_over(state_dir: Path, tmp_path: Path) -> None:
    path = str(tmp_path / "s")
    with Daemon("--name", "app", "-s", path, "64", "100") as daemon:
        _kill(daemon)
    assert Path(path).is_socket()
    with Daemon("--name", "app", "-s", path, "64", "100") as daemon, Client(daemon, "unix") as client:
        assert client.ask(b"version").startswith(b"VERSION")
        assert daemon.stop() == 0
    assert not Path(path).exists()


def _all_of(client: Client, keys: list[bytes]) -> dict[bytes, tuple[bytes, bytes, bytes] | None]:
    """Flags, CAS id and value of each key."""
    found: dict[bytes, tuple[bytes, bytes, bytes] | None] = {}
    for key in keys:
        head = client.ask(b"gets " + key).split()
        found[key] = None
        if head[0] == b"VALUE":
            found[key] = head[2], head[4], client.read(int(head[3]) + 2)[:-2]
            assert client.line() == b"END"
    return found


def _store_all_kinds(client: Client, largest: int) -> list[bytes]:
    """Items of all sizes and histories, more than fit; the keys."""
    chance = random.Random(7)
    keys = [b"k%d" % number for number in range(ITEMS)]
    for number, key in enumerate(keys):
        value = chance.randbytes(largest if number % 25 == 24 else chance.randrange(min(largest, 4000)))
        exptime = (0, 1000, 10_000)[number % 3]
        assert client.ask(b"set %b %d %d %d\r\n%b" % (key, number, exptime, len(value), value)) == b"STORED"
    for key in chance.sample(keys, ITEMS // 5):
        assert client.ask(b"touch %b 2000" % key) in (b"TOUCHED", b"NOT_FOUND")
    for key in chance.sample(keys, ITEMS // 5):
        assert client.ask(b"append %b 0 0 1\r\n+" % key) in (b"STORED", b"NOT_STORED", b"SERVER_ERROR object too large for cache")
    for key in chance.sample(keys, ITEMS // 10):
        assert client.ask(b"delete %b" % key) in (b"DELETED", b"NOT_FOUND")
    assert client.ask(b"set n 5 0 2\r\n41") == b"STORED"
    assert client.ask(b"incr n 1") == b"42"
    return [*keys, b"n"]


def _store_in_several_runs(client: Client) -> list[bytes]:
    """Large values in a full table that evicts nothing and has but small gaps; the keys of all its items."""
    keys = [b"k%d" % number for number in range(200)]
    stored = [key for key in keys if client.ask(b"set %b 1 0 20000\r\n%b" % (key, b"x" * 20_000)) == b"STORED"]
    assert 50 < len(stored) < len(keys)
    for key in stored[::2]:
        assert client.ask(b"delete " + key) == b"DELETED"
    large = random.Random(7).randbytes(100_000)
    for key in (b"large", b"larger", b"n"):
        assert client.ask(b"set %b 5 0 100000\r\n%b" % (key, large)) == b"STORED"
    assert client.ask(b"set n 5 0 2\r\n42") == b"STORED"
    with memcache_shm.attach("app") as cache:
        assert cache.stats("shm")[b"several_run_records"] >= 3
    return [*keys, b"large", b"larger", b"n"]


@either_end
@pytest.mark.parametrize("geometry", [("400", "3000"), ("-m", "2", "-I", "300k"), ("-m", "2", "-I", "300k", "-M")], ids=" ".join)
def test_value_flags_and_cas_of_every_item(end: Callable[[Daemon], None], geometry: tuple[str, ...], state_dir: Path) -> None:
    with Daemon("--name", "app", "--keep", *geometry, workers=2) as daemon, Client(daemon) as client:
        largest = 3000 if "400" in geometry else 300_000
        keys = _store_in_several_runs(client) if "-M" in geometry else _store_all_kinds(client, largest)
        before = _all_of(client, keys)
        end(daemon)
    assert sum(item is not None for item in before.values()) > 20
    for _ in range(2):
        with Daemon("--name", "app", "--keep", *geometry, workers=2) as daemon, Client(daemon) as client:
            assert _all_of(client, keys) == before
            end(daemon)
    with Daemon("--name", "app", *geometry) as daemon, Client(daemon) as client:
        flags, cas, value = before[b"n"] or (b"", b"", b"")
        assert (flags, value) == (b"5", b"42")
        assert client.ask(b"cas n 0 0 1 %b\r\nx" % cas) == b"STORED"
        assert client.ask(b"cas n 0 0 1 %b\r\ny" % cas) == b"EXISTS"
        new = client.gets(b"n")[1]
        assert int(new) > max(int(item[1]) for item in before.values() if item), "CAS ids go on from the last one"


@either_end
def test_expiry_goes_on_meanwhile(end: Callable[[Daemon], None], state_dir: Path) -> None:
    """What expires soon does so after the restart; what was touched lives on."""
    with Daemon("--name", "app", "--keep", "64", "100") as daemon, Client(daemon) as client:
        for key, exptime in ((b"soon", SOON_S), (b"touched", SOON_S), (b"sooner", 1000), (b"never", 0), (b"gone", 1000)):
            assert client.ask(b"set %b 0 %d 1\r\nx" % (key, exptime)) == b"STORED"
        assert client.ask(b"touch touched 1000") == b"TOUCHED"
        assert client.ask(b"touch sooner %d" % SOON_S) == b"TOUCHED"
        assert client.ask(b"touch gone -1") == b"TOUCHED"
        stored = time.monotonic()
        end(daemon)
    with Daemon("--name", "app", "64", "100") as daemon, Client(daemon) as client:
        soon = client.get(b"soon"), client.get(b"sooner")
        assert soon == (b"x", b"x") or time.monotonic() - stored > SOON_S - 1
        assert client.get(b"gone") is None
        until(lambda: client.get(b"soon") is client.get(b"sooner") is None, "the items to expire", SOON_S + 2)
        assert client.get(b"touched") == client.get(b"never") == b"x"


@either_end
def test_a_flush_that_is_yet_to_come(end: Callable[[Daemon], None], state_dir: Path) -> None:
    with Daemon("--name", "app", "--keep", "64", "100") as daemon, Client(daemon) as client:
        assert client.set(b"k", b"v") == b"STORED"
        assert client.ask(b"flush_all %d" % SOON_S) == b"OK"
        flushed = time.monotonic()
        end(daemon)
    with Daemon("--name", "app", "64", "100") as daemon, Client(daemon) as client:
        assert client.get(b"k") == b"v" or time.monotonic() - flushed > SOON_S - 1
        until(lambda: client.get(b"k") is None, "the flush", SOON_S + 2)
        assert client.set(b"k", b"w") == b"STORED"
        assert client.get(b"k") == b"w"


def _refused(*options: str) -> str:
    """Start a daemon that must refuse; its one line, which names both remedies."""
    done = verb("-p", "0", "--name", "app", *options)
    assert done.returncode == 1, done.stderr
    (line,) = done.stderr.splitlines()
    assert "memcache-shm rm app" in line or "memcache-shm rm NAME" in line
    assert "memcache-shm backup" in line
    return line


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (("128", "100"), "64 elements of 100 bytes, 1 shard, not 128 elements of 100 bytes, 1 shard"),
        (("64", "101"), "not 64 elements of 101 bytes"),
        (("-m", "1", "-I", "1k"), "not 1 MiB memory, items up to 1 KiB"),
        (("64", "100", "-M"), "eviction on, not eviction off (-M)"),
        (("64", "100", "--mode", "640"), "--mode 0600, not --mode 0640"),
    ],
    ids=lambda value: value if isinstance(value, str) else " ".join(value),
)
def test_a_start_with_other_options_is_refused(options: tuple[str, ...], reason: str, state_dir: Path) -> None:
    """In one line that says what differs and what to do; the table is none the worse for it."""
    with Daemon("--name", "app", "64", "100") as daemon, Client(daemon) as client:
        client.set(b"k", b"v")
        _kill(daemon)
    assert reason in _refused(*options)
    with Daemon("--name", "app", "64", "100") as daemon, Client(daemon) as client:
        assert client.get(b"k") == b"v"


def test_a_table_of_another_layout_is_refused(state_dir: Path) -> None:
    with Daemon("--name", "app", "64", "100") as daemon:
        _kill(daemon)
    segment = sysv_ipc.attach(state(state_dir, "app")["shmid"])
    place = segment.read(4096).index(layout.fingerprint().to_bytes(8, sys.byteorder))
    segment.write((layout.fingerprint() ^ 1).to_bytes(8, sys.byteorder), place)
    segment.detach()
    assert "layout" in _refused("64", "100")
    with pytest.raises(memcache_shm.LayoutError, match="backup"):
        memcache_shm.attach("app")
    assert verb("rm", "app").returncode == 0


@either_end
def test_attached_processes_go_on_through_a_restart(end: Callable[[Daemon], None], state_dir: Path) -> None:
    """Readers, writers, threads and forked children meet no error at all, whatever the daemon does."""
    options = ("--name", "app", "--keep", "-m", "4", "-I", "64k")
    with Daemon(*options) as first:
        cache, reader = memcache_shm.attach("app"), memcache_shm.attach("app", readonly=True)
        with Users({"thread": cache, "reading": reader}, {"child": cache, "child_reading": reader}) as users:
            users.go_on()
            end(first)
            assert users.go_on() == set()
            with Daemon(*options, workers=2) as daemon, Client(daemon) as client:
                client.set(b"k", b"v")
                assert cache.get("k") == b"v"
                assert users.go_on() == set()
                end(daemon)
                assert users.go_on() == set()
        cache.close()
        reader.close()
    assert verb("rm", "app").returncode == 0


def test_attached_processes_after_an_orderly_end(state_dir: Path) -> None:
    """The table goes with its daemon: TableRemovedError, call by call, until the next one has made a new table."""
    with contextlib.ExitStack() as daemons:
        daemon = daemons.enter_context(Daemon("--name", "app", "64", "3000"))
        cache, reader = memcache_shm.attach("app"), memcache_shm.attach("app", readonly=True)
        with Users({"thread": cache, "reading": reader}, {"child": cache, "child_reading": reader}) as users:
            for size in ("2000", "4000"):
                users.go_on()
                assert daemon.stop() == 0
                users.notice()
                for handle in (cache, reader):
                    with pytest.raises(memcache_shm.TableRemovedError, match=r"'app' was removed \(end of its daemon.*start a daemon"):
                        handle.get("k")
                daemon = daemons.enter_context(Daemon("--name", "app", "64", size))
                users.go_on()
                assert users.go_on() == set()
        cache.close()
        reader.close()
        assert daemon.stop() == 0


@pytest.mark.parametrize("how", ["segment", "semaphores", "both"])
def test_attached_processes_find_the_table_that_the_daemon_makes_anew(how: str, state_dir: Path) -> None:
    with Daemon("--name", "app", "64", "3000", workers=2) as daemon:
        cache, reader = memcache_shm.attach("app"), memcache_shm.attach("app", readonly=True)
        with Users({"thread": cache, "reading": reader}, {"child": cache, "child_reading": reader}) as users:
            users.go_on()
            old = state(state_dir, "app")
            if how != "semaphores":
                sysv_ipc.remove_shared_memory(old["shmid"])
            if how != "segment":
                sysv_ipc.remove_semaphore(old["semid"])
            until(lambda: state(state_dir, "app")["uuid"] != old["uuid"], "a new table")
            users.go_on()
            assert users.go_on() == set()
            with Client(daemon) as client:
                cache.set("k", b"v")
                assert client.get(b"k") == reader.get("k") == b"v"
        cache.close()
        reader.close()
        assert daemon.stop() == 0
    assert names(state_dir) == []


def test_a_second_daemon_of_the_name_is_refused_with_the_first_ones_pid(state_dir: Path) -> None:
    with Daemon("--name", "app", "64", "100") as daemon:
        done = verb("-p", "0", "--name", "app", "64", "100")
        assert done.returncode == 1
        assert str(daemon.pid) in done.stderr
        with Client(daemon) as client:
            assert client.ask(b"version").startswith(b"VERSION")


def test_a_program_that_stayed_attached_through_the_kill(state_dir: Path) -> None:
    """It goes on without a daemon, and with the next one."""
    with Daemon("--name", "app", "64", "100") as daemon, memcache_shm.attach("app") as cache:
        _kill(daemon)
        cache.set("k", b"v")
        with Daemon("--name", "app", "64", "100") as again, Client(again) as client:
            assert client.get(b"k") == b"v"
            assert client.set(b"k", b"w") == b"STORED"
            assert cache.get("k") == b"w"


def test_a_killed_writer_that_was_attached_blocks_nobody(state_dir: Path) -> None:
    """A program is killed in the midst of its writes; the daemon's clients write the same keys at once."""
    program = (
        "import memcache_shm\n"
        "cache = memcache_shm.attach('app')\n"
        "print('go', flush=True)\n"
        "while True:\n"
        "    for n in range(20): cache.set(f'k{n}', b'x' * (n * 4))\n"
    )
    with Daemon("--name", "app", "64", "100") as daemon, Client(daemon) as client:
        for _ in range(5):
            with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE) as writer:
                assert writer.stdout is not None
                assert writer.stdout.readline() == b"go\n"
                until(lambda: client.get(b"k19") is not None, "its writes")
                writer.kill()
            for number in range(20):
                value = client.get(b"k%d" % number)
                assert value is None or value == b"x" * (number * 4)
                assert client.ask(b"delete k%d" % number) in (b"DELETED", b"NOT_FOUND")
        assert daemon.stop() == 0
