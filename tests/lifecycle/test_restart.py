"""A killed supervisor's table is found again, whole, by the next start with the same name and geometry."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from support.client import Client
from support.isolation import is_running
from support.servers import Daemon
from support.tables import is_gone, is_there, names, state, verb
from support.waiting import until

import memcache_shm

ITEMS = 500


def _kill(daemon: Daemon) -> None:
    """SIGKILL to the supervisor; its workers go with it."""
    workers = daemon.workers
    os.kill(daemon.pid, signal.SIGKILL)
    daemon.wait()
    until(lambda: not any(map(is_running, workers)), "the workers to go")


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


def test_another_geometry_is_refused_in_one_line(state_dir: Path) -> None:
    with Daemon("--name", "app", "64", "100") as daemon:
        _kill(daemon)
    done = verb("-p", "0", "--name", "app", "128", "100")
    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 1
    assert "memcache-shm rm app" in done.stderr
    assert verb("rm", "app").returncode == 0


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
