"""The connections of one cache object: how few are kept, and what a call does when the server has no more."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator

import pytest
from support.client import Client
from support.scripted import VERSION, Scripted
from support.servers import Daemon
from support.waiting import until

import memcache_shm
from memcache_shm import RemoteError
from memcache_shm.client.connections import IDLE_MOST

GET = b"get key\r\n"
FULL = (b"version\r\n", b"ERROR Too many open connections\r\n")
THREADS = 20


@pytest.fixture(scope="module")
def scarce() -> Iterator[Daemon]:
    """A daemon with two channels."""
    with Daemon("-m", "2", "--channels", "2", workers=2) as daemon:
        yield daemon


def open_channels(client: Client) -> int:
    return int(client.stats(b"shm")["shm_channels"])


def run(threads: list[threading.Thread]) -> None:
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def test_few_are_kept(daemon_with: Callable[..., Daemon]) -> None:
    daemon = daemon_with("-m", "16", workers=2)
    daemon.flush()
    with Client(daemon) as client, memcache_shm.connect(f"channel:{daemon.unix_path}", timeout=20) as cache:
        before = len(os.listdir("/proc/self/fd"))
        threads = [threading.Thread(target=cache.get, args=("key",)) for _ in range(THREADS)]
        for worker in daemon.workers:
            os.kill(worker, signal.SIGSTOP)
        for thread in threads:
            thread.start()
        until(lambda: len(os.listdir("/proc/self/fd")) >= before + THREADS - 1, "all of them to be under way")
        for worker in daemon.workers:
            os.kill(worker, signal.SIGCONT)
        for thread in threads:
            thread.join()
        until(lambda: open_channels(client) == IDLE_MOST, "the others to be closed")
        assert cache.get("key") is None


@pytest.mark.parametrize("address", ["channel", "writes"])
def test_more_threads_than_the_server_has_channels(scarce: Daemon, address: str) -> None:
    problems: list[object] = []
    with (
        memcache_shm.connect(f"channel:{scarce.unix_path}")
        if address == "channel"
        else memcache_shm.attach(scarce.name, readonly=True, writes=scarce.unix_path)
    ) as cache:

        def use(me: int) -> None:
            try:
                for number in range(100):
                    cache.set(f"key{me}", b"%d" % number, noreply=number % 3 == 0)
                    if cache.gat(f"key{me}") != b"%d" % number:
                        problems.append((me, number))
            except memcache_shm.MemcacheError as error:
                problems.append(error)

        run([threading.Thread(target=use, args=(me,)) for me in range(8)])
    assert problems == []


def test_one_connection_is_enough_for_noreply(scarce: Daemon) -> None:
    path = f"channel:{scarce.unix_path}"
    with Client(scarce) as client, memcache_shm.connect(path) as cache, memcache_shm.connect(path) as other:
        for number in range(3):
            cache.set("key", b"%d" % number, noreply=True)
            cache.append("key", b"0", noreply=True)
            assert cache.get("key") == b"%d0" % number
        assert open_channels(client) == 2
        assert other.get("key") == b"20"
        with pytest.raises(RemoteError, match=rf"^{path}: too many channels \(--channels\)$"):
            memcache_shm.connect(path)


def test_nobody_comes_back() -> None:
    """What this object had is lost meanwhile, and the server refuses still."""
    silent = [VERSION, (GET, b"END\r\n"), (GET, Scripted.SILENCE)]
    with Scripted(silent, [FULL], [FULL], [FULL]) as server, memcache_shm.connect(server.address, timeout=20) as cache:
        assert cache.get("key") is None
        failed: list[str] = []

        def get() -> None:
            try:
                cache.get("key")
            except RemoteError as error:
                failed.append(str(error))

        threads = [threading.Thread(target=get) for _ in range(2)]
        threads[0].start()
        until(lambda: server.heard[0].count(GET) == 2, "a call to be under way")
        threads[1].start()
        until(lambda: cache._connections._waiting, "the other to wait")
        server.hang_up()
        for thread in threads:
            thread.join()
    assert failed == [f"{server.address}: too many connections (-c)"] * 2


def test_a_call_does_not_wait_for_ever() -> None:
    """Two calls wait; the one under way never ends."""
    with Scripted([VERSION], [FULL]) as server, memcache_shm.connect(server.address, timeout=0.2) as cache:
        used = threading.Event()
        ended = threading.Event()

        def keep(connection: object) -> None:
            used.set()
            assert ended.wait(20)

        thread = threading.Thread(target=cache._connections.read, args=(keep,))
        thread.start()
        assert used.wait(20)
        with pytest.raises(RemoteError, match=r"no more \(-c, --channels\), and none of this object's came back within 0\.2 s$"):
            cache.get("key")
        ended.set()
        thread.join()


CHILD = """
import os, sys, memcache_shm
with memcache_shm.connect(sys.argv[1]) as cache:
    cache.set("key", b"1", noreply=True)
    pid = os.fork()
    if pid == 0:
        cache.set("key", b"2")
        cache.close()
        sys.exit(0)
    assert os.waitpid(pid, 0)[1] == 0
    assert cache.get("key") == b"2"
"""


@pytest.mark.parametrize("kind", ["", "channel:"])
def test_a_forked_child_closes_what_it_does_not_use(daemon_with: Callable[..., Daemon], kind: str) -> None:
    """So Python has nothing to warn of."""
    daemon = daemon_with("-m", "16", workers=2)
    command = [sys.executable, "-X", "dev", "-c", CHILD, kind + daemon.unix_path]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (0, "")
