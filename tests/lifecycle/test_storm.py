"""SIGKILL and SIGSTOP at random moments, at everything that writes: workers, the supervisor, attached programs.

No value is ever torn or foreign, no key that nobody writes is lost, no write waits for long, no lock and no zombie stays behind. Every
value names its key, has a counter and letters up to a length of its own, and a CRC over all of it.
"""

from __future__ import annotations

import contextlib
import os
import random
import re
import signal
import subprocess
import sys
import threading
import time
import zlib
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.client import Client
from support.isolation import children, is_running
from support.servers import Daemon
from support.tables import verb
from support.waiting import until

import memcache_shm
from memcache_shm.storage.check import check_table

KEYS = 50
BYSTANDERS = 300
LARGEST = 3000
WRITERS = 2
STORM_S = 20.0
STOPS_S = 5.0
TORTURE_S = float(os.environ.get("TORTURE_S", "600"))
WRITE_LIMIT_S = 1.0  # of any write while nobody is stopped
OPTIONS = ("--name", "app", "-m", "4", "-I", "4k", "-M")  # no eviction: whatever goes missing was lost

# Ends by itself only when something is wrong, and says what.
WRITER = """
import random, sys, time, zlib
import memcache_shm
cache = memcache_shm.attach("app")
chance = random.Random(int(sys.argv[1]))
stops = sys.argv[2] == "stops"
print("go", flush=True)
counter = 0
while True:
    counter += 1
    key = b"k%d" % chance.randrange(50)
    body = b"%b %d " % (key, counter) + b"x" * chance.randrange(3000)
    before = time.monotonic()
    try:
        cache.set(key.decode(), body + b" %d" % zlib.crc32(body))
        if not counter % 10:
            cache.delete(b"k%d" % chance.randrange(50))
    except memcache_shm.BusyError:
        assert stops, "a writer was busy for a second"
    took = time.monotonic() - before
    assert stops or took < 1, f"a write took {took:.1f} s"
    value = cache.get(key)
    if value is not None:
        body, _, crc = value.rpartition(b" ")
        assert body.startswith(key + b" ") and crc == b"%d" % zlib.crc32(body), (key, value)
"""


def make_value(key: bytes, counter: int, size_bytes: int) -> bytes:
    body = b"%b %d " % (key, counter) + b"y" * size_bytes
    return body + b" %d" % zlib.crc32(body)


def is_sound(key: bytes, value: bytes) -> bool:
    """Whether it is a whole value that was stored under this key."""
    body, _, crc = value.rpartition(b" ")
    return body.startswith(key + b" ") and crc == b"%d" % zlib.crc32(body)


def test_wrong_values_are_noticed() -> None:
    value = make_value(b"k1", 7, 100)
    assert is_sound(b"k1", value)
    assert not is_sound(b"k2", value)
    assert not is_sound(b"k1", value[:50] + b"z" + value[51:])


class SocketClient(threading.Thread):
    """Reads and writes through the daemon, whichever daemon it is, and collects what is wrong."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        self.daemon_now: Daemon | None = None
        self.wrong: list[object] = []
        self.read = 0
        self.slowest_s = 0.0
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
        before_s = time.monotonic()
        reply = client.set(key, make_value(key, self.read, self._chance.randrange(LARGEST)))
        if reply == b"STORED":
            self.slowest_s = max(self.slowest_s, time.monotonic() - before_s)
        elif reply.startswith(b"SERVER_ERROR"):
            self.wrong.append(reply)


class Writer:
    """A program that has the table attached."""

    def __init__(self, seed: int, mode: str) -> None:
        command = [sys.executable, "-c", WRITER, str(seed), mode]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == "go\n"

    def end(self) -> str:
        """Kill it; what it found wrong."""
        self.process.kill()
        _, said = self.process.communicate()
        return "" if self.process.returncode == -signal.SIGKILL else said


class Storm:
    """A daemon, attached writers, clients over sockets, and keys that nobody touches."""

    def __init__(self, seed: int, mode: str) -> None:
        self.chance = random.Random(seed)
        self.mode = mode
        self.wrong: list[object] = []
        self.daemon = Daemon(*OPTIONS, workers=2)
        self.cache = memcache_shm.attach("app")
        self.bystanders = {b"b%d" % number: make_value(b"b%d" % number, number, number) for number in range(BYSTANDERS)}
        for key, value in self.bystanders.items():
            self.cache.set(key, value)
        self.writers = [Writer(self.chance.randrange(1000), mode) for _ in range(WRITERS)]
        self.clients = [SocketClient(self.chance.randrange(1000)) for _ in range(2)]
        for client in self.clients:
            client.daemon_now = self.daemon
            client.start()

    def kill_worker(self) -> None:
        if workers := self.daemon.workers:
            os.kill(self.chance.choice(workers), signal.SIGKILL)

    def kill_writer(self) -> None:
        self.wrong += filter(None, [self.writers.pop(0).end()])
        self.writers.append(Writer(self.chance.randrange(1000), self.mode))

    def kill_daemon(self) -> None:
        workers = self.daemon.workers
        os.kill(self.daemon.pid, signal.SIGKILL)
        self.daemon.wait()
        until(lambda: not any(map(is_running, workers)), "the workers to go")
        self.daemon = Daemon(*OPTIONS, workers=2)
        for client in self.clients:
            client.daemon_now = self.daemon

    def check_bystanders(self) -> None:
        lost = [key for key, value in self.bystanders.items() if self.cache.get(key) != value]
        assert not lost, f"{len(lost)} keys that nobody wrote are lost or changed: {lost[:5]}"

    def check_end(self) -> None:
        """Everybody who wrote is gone, some of them in the middle of it."""
        for key in self.bystanders:
            before_s = time.monotonic()
            self.cache.touch(key, 0)
            assert time.monotonic() - before_s < WRITE_LIMIT_S
        self.check_bystanders()
        table = self.cache.attached_table
        table.sweep()
        assert check_table(table).findings == []
        assert self.cache.stats()[b"evictions"] == 0

    def end(self) -> None:
        for client in self.clients:
            client.leave.set()
        for client in self.clients:
            client.join()
        self.wrong += filter(None, [writer.end() for writer in self.writers])

    def close(self) -> None:
        with contextlib.suppress(memcache_shm.MemcacheError):
            self.cache.close()
        status = self.daemon.stop()
        verb("rm", "app")
        assert status == 0, self.daemon.lines


@pytest.fixture
def storms(state_dir: Path) -> Iterator[list[Storm]]:
    """What is put in here is ended with the test."""
    started: list[Storm] = []
    yield started
    for storm in started:
        storm.end()
        storm.close()


def rage(storm: Storm, seconds: float) -> None:
    """Kill somebody every 50 ms on average; at the end all that must hold does."""
    end = time.monotonic() + seconds
    kills = 0
    while time.monotonic() < end:
        time.sleep(storm.chance.random() / 10)  # the moment of the kill is what is varied
        storm.chance.choice([storm.kill_worker, storm.kill_worker, storm.kill_writer, storm.kill_writer, storm.kill_daemon])()
        storm.check_bystanders()
        kills += 1
    daemon = storm.daemon
    until(lambda: "Z" not in children(daemon.pid).values() and len(daemon.workers) == 2, "the dead to be reaped and replaced")
    storm.end()
    storm.check_end()
    assert storm.wrong == []
    assert [client.wrong for client in storm.clients] == [[], []]
    assert max(client.slowest_s for client in storm.clients) < WRITE_LIMIT_S
    assert min(client.read for client in storm.clients) > 0
    assert kills > 5


def test_storm(storms: list[Storm]) -> None:
    storms.append(Storm(1, "kills"))
    rage(storms[0], STORM_S)


@pytest.mark.torture
def test_long_storm(storms: list[Storm]) -> None:
    storms.append(Storm(random.SystemRandom().randrange(2**32), "kills"))
    rage(storms[0], TORTURE_S)


def stop_and_go(storm: Storm, seconds: float) -> int:
    """Stop a writer wherever it is; how often that was amid a change."""
    end = time.monotonic() + seconds
    stopped_amid = 0
    while time.monotonic() < end or not stopped_amid:
        time.sleep(storm.chance.random() / 50)  # the moment of the stop is what is varied
        pid = storm.writers[0].process.pid
        os.kill(pid, signal.SIGSTOP)
        os.waitid(os.P_PID, pid, os.WSTOPPED | os.WNOWAIT)
        stopped_amid += write_everywhere(storm, pid)
        storm.check_bystanders()
        os.kill(pid, signal.SIGCONT)
    return stopped_amid


def write_everywhere(storm: Storm, stopped: int) -> bool:
    """A write to each shard, where some may have to give up after a second; whether one had to."""
    table = storm.cache.attached_table
    for number in range(4 * table.geometry.shards):
        before_s = time.monotonic()
        try:
            storm.cache.set(f"w{number}", b"x")
        except memcache_shm.BusyError as error:
            assert 0.05 < time.monotonic() - before_s < 2 * WRITE_LIMIT_S
            match = re.search(r"process (\d+) ", str(error))
            assert match is not None
            assert int(match[1]) == stopped
            return True
    return False


def test_stopped_writers(storms: list[Storm]) -> None:
    """A lock is never taken from the living: writes fail in time and say who it is, reads go on, and afterwards all goes on."""
    storm = Storm(2, "stops")
    storms.append(storm)
    for client in storm.clients:
        client.leave.set()  # its writes would meet the stopped one, too
        client.join()
    assert stop_and_go(storm, STOPS_S) > 0
    until(lambda: not write_everywhere(storm, storm.writers[0].process.pid), "writes to go on")
    storm.end()
    storm.check_end()
    assert storm.wrong == []
