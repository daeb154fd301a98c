"""Workers that die: their own connections end, nobody else's; they are replaced, or the daemon says why it cannot."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from support.client import Client
from support.isolation import children, is_running
from support.servers import Daemon
from support.tables import names, verb
from support.waiting import until


def _served_by(daemon: Daemon, clients: list[Client], pid: int) -> list[Client]:
    """Which clients the worker has: those whose sockets' other ends are among its descriptors."""
    inodes = {link.name for path in Path(f"/proc/{pid}/fd").iterdir() if (link := path.readlink()).name.startswith("socket:")}
    return [client for client in clients if f"socket:[{_peer_inode(client)}]" in inodes]


def _peer_inode(client: Client) -> str:
    """The inode of the server's end of a TCP connection over 127.0.0.1."""
    ours, theirs = client.sock.getsockname(), client.sock.getpeername()
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        fields = line.split()
        ports = [int(address.rpartition(":")[2], 16) for address in fields[1:3]]
        if ports == [theirs[1], ours[1]]:
            return fields[9]
    raise AssertionError("no such connection")


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV], ids=lambda number: number.name)
def test_a_death_ends_its_own_connections_only(number: int, state_dir: Path) -> None:
    with Daemon("--name", "app", "64", "100", workers=3) as daemon:
        clients = [Client(daemon) for _ in range(9)]
        for client in clients:
            assert client.set(b"k", b"v") == b"STORED"
        before = daemon.workers
        victim = before[1]
        lost = _served_by(daemon, clients, victim)
        assert len(lost) == 3
        os.kill(victim, number)
        assert all(client.is_closed() for client in lost)
        assert all(client.get(b"k") == b"v" for client in clients if client not in lost)
        until(lambda: len(daemon.workers) == 3 and victim not in daemon.workers, "a worker in its place")
        assert set(before) - {victim} < set(daemon.workers)
        again = [Client(daemon) for _ in range(3)]
        assert all(client.get(b"k") == b"v" for client in again)
        assert sum(len(_served_by(daemon, again, pid)) for pid in set(daemon.workers) - set(before)) == 3
        until(lambda: int(again[0].stats()["curr_connections"]) == 9, "the lost connections to be taken from the count")
        for client in [*clients, *again]:
            client.close()


def test_deaths_under_load_tear_nothing(state_dir: Path) -> None:
    """Workers are killed while clients write and read; every value read is whole."""
    stop = threading.Event()
    wrong: list[bytes] = []
    answered = [0]

    def load(daemon: Daemon, letter: bytes) -> None:
        turn = 0
        while not stop.is_set():
            try:
                with Client(daemon) as client:
                    while not stop.is_set():
                        turn += 1
                        client.set(b"k%d" % (turn % 7), letter * (1 + turn * 37 % 2000))
                        value = client.get(b"k%d" % ((turn + 3) % 7))
                        if value is not None and len(set(value)) != 1:
                            wrong.append(value)
                        answered[0] += 1
            except (OSError, IndexError, ValueError):
                continue  # this worker was killed; come again

    with Daemon("--name", "app", "-m", "4", workers=2) as daemon:
        threads = [threading.Thread(target=load, args=(daemon, letter)) for letter in (b"A", b"B", b"C")]
        for thread in threads:
            thread.start()
        for _ in range(10):
            seen = answered[0]
            until(lambda seen=seen: answered[0] > seen + 50, "work to be done")
            victim = daemon.workers[0]
            os.kill(victim, signal.SIGKILL)
            until(lambda victim=victim: len(daemon.workers) == 2 and victim not in daemon.workers, "a worker in its place")
        stop.set()
        for thread in threads:
            thread.join()
        assert not wrong
        assert daemon.stop() == 0


def test_a_stopped_worker_holds_up_nobody_else(state_dir: Path) -> None:
    with Daemon("--name", "app", "64", "100", workers=2) as daemon:
        clients = [Client(daemon) for _ in range(4)]
        for client in clients:
            client.ask(b"version")
        frozen = daemon.workers[0]
        others = [client for client in clients if client not in _served_by(daemon, clients, frozen)]
        os.kill(frozen, signal.SIGSTOP)
        try:
            assert len(others) == 2
            assert all(client.set(b"k", b"v") == b"STORED" for client in others)
        finally:
            os.kill(frozen, signal.SIGCONT)
        assert all(client.get(b"k") == b"v" for client in clients)
        for client in clients:
            client.close()


def test_workers_that_cannot_start_end_the_daemon(state_dir: Path) -> None:
    """Three deaths at boot in a row: an error and status 1, not a loop."""
    program = (
        "import os, sys\n"
        "from memcache_shm.server import supervisor\n"
        "supervisor.run_worker = lambda *arguments: os._exit(7)\n"
        "from memcache_shm.cli.main import main\n"
        "sys.exit(main(sys.argv[1:]))\n"
    )
    words = [sys.executable, "-c", program, "-p", "0", "--name", "app", "64", "100"]
    done = subprocess.run(words, capture_output=True, text=True, timeout=20, check=False)
    assert done.returncode == 1
    assert "exit status 7" in done.stderr
    assert names(state_dir) == []


def test_workers_die_with_their_supervisor(state_dir: Path) -> None:
    with Daemon("--name", "app", "64", "100", workers=3) as daemon:
        workers = daemon.workers
        with Client(daemon) as client:
            client.ask(b"version")
            os.kill(daemon.pid, signal.SIGKILL)
            assert client.is_closed()
        until(lambda: not any(map(is_running, workers)), "the workers to go")
        assert not children(daemon.pid)
        daemon.wait()
    assert verb("rm", "app").returncode == 0
