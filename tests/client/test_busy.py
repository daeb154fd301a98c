"""A writer that is stopped amid a change: others' writes fail in time and say who it is, reads and other threads go on."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import memcache_shm

WRITER = """
import memcache_shm
cache = memcache_shm.attach("test")
value = b"x" * 60_000
print("writing", flush=True)
while True:
    cache.set("busy", value)
"""


@pytest.fixture
def cache(state_dir: Path) -> Iterator[memcache_shm.Cache]:
    """A table so small that it has one shard: every write needs the same lock."""
    with memcache_shm.open("test", memory="256k", max_item="64k") as cache:
        assert cache.attached_table.geometry.shards == 1
        yield cache


@pytest.fixture
def stopped_owner(cache: memcache_shm.Cache) -> Iterator[int]:
    """The pid of a process that is stopped while it holds the lock."""
    with subprocess.Popen([sys.executable, "-c", WRITER], stdout=subprocess.PIPE) as writer:
        try:
            assert writer.stdout is not None
            writer.stdout.readline()
            deadline = time.monotonic() + 30
            while time.monotonic() < deadline:
                os.kill(writer.pid, signal.SIGSTOP)
                os.waitid(os.P_PID, writer.pid, os.WSTOPPED)
                try:
                    cache.set("probe", b"1")
                except memcache_shm.BusyError:
                    break
                os.kill(writer.pid, signal.SIGCONT)
            yield writer.pid
        finally:
            writer.kill()


def test_stopped_owner(cache: memcache_shm.Cache, stopped_owner: int) -> None:
    started = time.monotonic()
    with pytest.raises(memcache_shm.BusyError, match=f"process {stopped_owner} "):
        cache.set("key", b"1")
    assert time.monotonic() - started < 2
    assert cache.get("probe", b"none") in (b"none", b"1")
    assert cache.get("busy") in (None, b"x" * 60_000)
    os.kill(stopped_owner, signal.SIGCONT)
    assert cache.set("key", b"1") is True


def test_other_threads_run_while_one_waits(cache: memcache_shm.Cache, stopped_owner: int) -> None:
    outcome: list[type[BaseException]] = []

    def write() -> None:
        try:
            cache.set("key", b"1")
        except memcache_shm.BusyError as error:
            outcome.append(type(error))

    waiting = threading.Thread(target=write)
    waiting.start()
    turns = 0
    while waiting.is_alive():
        cache.get("probe")
        turns += 1
    waiting.join()
    assert outcome == [memcache_shm.BusyError]
    assert turns > 1000, "the waiting thread gave up the GIL"


def test_dead_owner(cache: memcache_shm.Cache, stopped_owner: int) -> None:
    os.kill(stopped_owner, signal.SIGKILL)
    os.waitid(os.P_PID, stopped_owner, os.WEXITED | os.WNOWAIT)
    assert cache.set("key", b"1") is True
    assert cache.get("key") == b"1"
    assert cache.get("busy") in (None, b"x" * 60_000)
