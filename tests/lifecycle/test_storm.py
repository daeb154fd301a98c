"""SIGKILL at random moments, at everything that writes: workers, the supervisor, attached programs. No value is ever torn or foreign.

Every value names its key, has a counter and letters up to a length of its own, and a CRC over all of it.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import threading
import time
import zlib
from pathlib import Path

import pytest
from support.client import Client
from support.isolation import is_running
from support.servers import Daemon
from support.tables import verb
from support.waiting import until

KEYS = 50
SHORT_S = 3.0
LONG_S = float(os.environ.get("TORTURE_S", "600"))

WRITER = """
import random, sys, zlib
import memcache_shm
cache = memcache_shm.attach("app")
chance = random.Random(int(sys.argv[1]))
print("go", flush=True)
counter = 0
while True:
    counter += 1
    key = b"k%d" % chance.randrange(50)
    body = b"%b %d " % (key, counter) + b"x" * chance.randrange(3000)
    cache.set(key.decode(), body + b" %d" % zlib.crc32(body))
    if not counter % 10:
        cache.delete(b"k%d" % chance.randrange(50))
"""


def is_sound(key: bytes, value: bytes) -> bool:
    """Whether it is a whole value that was stored under this key."""
    body, _, crc = value.rpartition(b" ")
    return body.startswith(key + b" ") and crc == b"%d" % zlib.crc32(body)


class Reader(threading.Thread):
    """Reads and writes through the daemon, whichever daemon it is, and collects what is wrong."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        self.daemon_now: Daemon | None = None
        self.wrong: list[tuple[bytes, bytes]] = []
        self.read = 0
        self.leave = threading.Event()
        self._chance = random.Random(seed)

    def run(self) -> None:
        while not self.leave.is_set():
            try:
                self._talk()
            except (OSError, IndexError, ValueError, AssertionError):
                self.leave.wait(0.01)  # this worker or this daemon was killed: the next one

    def _talk(self) -> None:
        assert self.daemon_now is not None
        with Client(self.daemon_now) as client:
            while not self.leave.is_set():
                self._turn(client)

    def _turn(self, client: Client) -> None:
        key = b"k%d" % self._chance.randrange(KEYS)
        value = client.get(key)
        if value is not None:
            self.read += 1
            if not is_sound(key, value):
                self.wrong.append((key, value))
        body = b"%b %d " % (key, self.read) + b"y" * self._chance.randrange(3000)
        client.set(key, body + b" %d" % zlib.crc32(body))


def _start_writer(seed: int) -> subprocess.Popen[bytes]:
    writer = subprocess.Popen([sys.executable, "-c", WRITER, str(seed)], stdout=subprocess.PIPE)
    assert writer.stdout is not None
    assert writer.stdout.readline() == b"go\n"
    return writer


def _end(writer: subprocess.Popen[bytes]) -> None:
    writer.kill()
    writer.wait()
    assert writer.stdout is not None
    writer.stdout.close()


def _start_daemon() -> Daemon:
    return Daemon("--name", "app", "-m", "2", "-I", "4k", workers=2)


def _kill_daemon(daemon: Daemon) -> None:
    workers = daemon.workers
    os.kill(daemon.pid, signal.SIGKILL)
    daemon.wait()
    until(lambda: not any(map(is_running, workers)), "the workers to go")


def _storm(seconds: float, chance: random.Random) -> None:
    daemon = _start_daemon()
    writers = [_start_writer(number) for number in range(2)]
    reader = Reader(chance.randrange(1000))
    reader.daemon_now = daemon
    reader.start()
    end = time.monotonic() + seconds
    try:
        while time.monotonic() < end:
            time.sleep(chance.random() / 10)  # the moment of the kill is what is varied
            victim = chance.choice(["worker", "writer", "writer", "daemon"])
            if victim == "worker" and daemon.workers:
                os.kill(chance.choice(daemon.workers), signal.SIGKILL)
            elif victim == "writer":
                _end(writers.pop(0))
                writers.append(_start_writer(chance.randrange(1000)))
            elif victim == "daemon":
                _kill_daemon(daemon)
                reader.daemon_now = daemon = _start_daemon()
    finally:
        for writer in writers:
            _end(writer)
        reader.leave.set()
        reader.join()
        status = daemon.stop()
        verb("rm", "app")
    assert status == 0, daemon.lines
    assert not reader.wrong
    assert reader.read > 0


def test_storm(state_dir: Path) -> None:
    _storm(SHORT_S, random.Random(1))


@pytest.mark.torture
def test_long_storm(state_dir: Path) -> None:
    _storm(LONG_S, random.Random())
