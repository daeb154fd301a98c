"""SIGKILL to the supervisor amid work: the workers go at once, the table stays whole, the next start serves all of it, nothing leaks."""

from __future__ import annotations

import itertools
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from support.client import Client
from support.isolation import is_running
from support.servers import Daemon
from support.tables import names, state, verb
from support.waiting import until

WORKERS_END_S = 1.0  # the limit that is promised
KEYS = 200


class Load(threading.Thread):
    """Writes its keys over and over; knows for each the last value that was answered, and the one that may have been."""

    def __init__(self, daemon: Daemon, letter: bytes) -> None:
        super().__init__()
        self._daemon = daemon
        self._letter = letter
        self.answered: dict[bytes, int] = {}
        self.asked: dict[bytes, int] = {}

    def run(self) -> None:
        try:
            with Client(self._daemon) as client:
                for turn in itertools.count():
                    key = b"%b%d" % (self._letter, turn % KEYS)
                    self.asked[key] = turn
                    if client.ask(self.request(key, turn)) != b"STORED":
                        return
                    self.answered[key] = turn
        except OSError:
            return  # killed

    @staticmethod
    def request(key: bytes, turn: int) -> bytes:
        value = b"%d " % turn + key * (turn % 50)
        return b"set %b %d 1000 %d\r\n%b" % (key, turn, len(value), value)

    def check(self, client: Client) -> None:
        """Every answered write is there, whole, with its flags."""
        assert len(self.answered) == KEYS
        for key, turn in self.answered.items():
            head = client.ask(b"get " + key).split()
            assert head[:2] == [b"VALUE", key]
            found = int(head[2])
            assert found in (turn, self.asked[key])
            assert client.read(int(head[3]) + 2) == b"%d " % found + key * (found % 50) + b"\r\n"
            assert client.line() == b"END"


@pytest.mark.parametrize("workers", [1, 3])
def test_killed_under_load(workers: int, state_dir: Path, made_here: Callable[[], dict[str, set[int]]]) -> None:
    with Daemon("--name", "app", "-m", "16", workers=workers) as daemon, Client(daemon) as client:
        assert client.ask(b"set short 0 2 1\r\nx") == b"STORED"
        assert client.ask(b"set quiet 77 1000 5\r\nquiet") == b"STORED"
        quiet = client.gets(b"quiet")
        loads = [Load(daemon, letter) for letter in (b"a", b"b", b"c")]
        for load in loads:
            load.start()
        until(lambda: all(len(load.answered) == KEYS for load in loads), "every key to be written")
        serving = daemon.workers
        ids = state(state_dir, "app")
        os.kill(daemon.pid, signal.SIGKILL)
        until(lambda: not any(map(is_running, serving)), "the workers to end", WORKERS_END_S)
        daemon.wait()
        for load in loads:
            load.join()
    listed = verb("ls").stdout
    assert listed.count("app") == 1
    assert "left behind" in listed
    with Daemon("--name", "app", "-m", "16", workers=workers) as daemon, Client(daemon) as client:
        assert state(state_dir, "app")["uuid"] == ids["uuid"]
        assert made_here() == {"shm": {ids["shmid"]}, "sem": {ids["semid"]}}
        for load in loads:
            load.check(client)
        assert client.gets(b"quiet") == quiet
        assert client.ask(b"get quiet") == b"VALUE quiet 77 5"
        assert client.read(7 + 5) == b"quiet\r\nEND\r\n"
        assert client.ask(b"cas quiet 0 0 1 %b\r\ny" % quiet[1]) == b"STORED"
        until(lambda: client.get(b"short") is None, "the short-lived item to expire")
        assert daemon.stop() == 0
    assert names(state_dir) == []


def test_killed_while_it_starts_workers_and_repairs(state_dir: Path) -> None:
    """Workers are killed just before, so that the supervisor dies while it reaps, sweeps or forks."""
    for turn in range(6):
        with Daemon("--name", "app", "-m", "4", workers=3) as daemon, Client(daemon) as client:
            assert all(client.get(b"k%d" % number) == b"v" for number in range(turn))
            assert client.set(b"k%d" % turn, b"v") == b"STORED"
            serving = daemon.workers
            for pid in serving:
                os.kill(pid, signal.SIGKILL)
            time.sleep(turn * 0.002)  # the moment of the kill is what is varied
            family = set(serving) | set(daemon.workers)
            os.kill(daemon.pid, signal.SIGKILL)
            daemon.wait()
            until(lambda family=family: not any(map(is_running, family)), "the workers to end", WORKERS_END_S)
    assert verb("rm", "app").returncode == 0


def test_the_table_stays_listed_once(state_dir: Path, made_here: Callable[[], dict[str, set[int]]]) -> None:
    for _ in range(3):
        with Daemon("--name", "app", "64", "100", workers=2) as daemon:
            os.kill(daemon.pid, signal.SIGKILL)
            daemon.wait()
    assert len([line for line in verb("ls").stdout.splitlines() if "app" in line]) == 1
    assert [len(ids) for ids in made_here().values()] == [1, 1]
    assert verb("rm", "app").returncode == 0


def test_a_worker_whose_supervisor_died_before_it_could_ask_for_a_signal(state_dir: Path) -> None:
    """The worker is stopped at its birth, so that it asks for the parent's death signal only after that death."""
    program = (
        "import os, signal, sys\n"
        "from memcache_shm.server import supervisor\n"
        "serve = supervisor.run_worker\n"
        "def run_worker(*arguments):\n"
        "    print(os.getpid(), flush=True)\n"
        "    os.kill(os.getpid(), signal.SIGSTOP)\n"
        "    serve(*arguments)\n"
        "supervisor.run_worker = run_worker\n"
        "from memcache_shm.cli.main import main\n"
        "sys.exit(main(sys.argv[1:]))\n"
    )
    words = [sys.executable, "-c", program, "-p", "0", "-t", "1", "--name", "app", "64", "100"]
    with subprocess.Popen(words, stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        worker = int(parent.stdout.readline())
        until(lambda: Path(f"/proc/{worker}/stat").read_text().rpartition(")")[2].split()[0] == "T", "the worker to stop")
        parent.kill()
        parent.wait()
    os.kill(worker, signal.SIGCONT)
    until(lambda: not is_running(worker), "the worker to leave", 1.0)
    with Daemon("--name", "app", "64", "100") as daemon:
        assert daemon.stop() == 0
    assert names(state_dir) == []
