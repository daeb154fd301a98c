"""Subscribers that are slow, stopped, killed or many: they are told what they have lost, and nobody else is held up."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from contextlib import ExitStack
from pathlib import Path

import pytest
from support.client import Client, allow_descriptors
from support.feeding import Hearer, subscribe
from support.servers import Daemon
from support.waiting import until

SLOW_BYTES = 256 << 10
LEASE_S = 5.0

# Subscribes, says so, and stays until it is killed.
_STAYING = """
import socket, sys, time
sock = socket.create_connection((sys.argv[1], int(sys.argv[2])))
sock.sendall(b"subscribe *\\r\\n")
assert sock.recv(100) == b"OK 1\\r\\n"
print("subscribed", flush=True)
time.sleep(1000)
"""


def figures(client: Client) -> dict[str, int]:
    return {name: int(value) for name, value in client.stats(b"shm").items() if value.isdigit()}


def resident_bytes(pid: int) -> int:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def test_who_does_not_read_is_told_what_was_lost() -> None:
    """It costs the worker no memory to speak of and the writer no time; once it reads, it hears of what comes then."""
    with Daemon("-m", "64") as daemon, Client(daemon) as client, subscribe(daemon, b"*", door="unix") as slow:
        (worker,) = daemon.workers
        client.set(b"warm", b"x" * 100_000)
        slow.until_told(b"warm", b"x" * 100_000)
        before = resident_bytes(worker)
        value, count = b"v" * 10_000, 2000
        for _ in range(count):
            client.send(b"set key 0 0 %d noreply\r\n%b\r\n" % (len(value), value))
            assert client.ask(b"mn") == b"MN"
        until(lambda: figures(client)["shm_lost"] == 1, "a loss")
        assert resident_bytes(worker) - before < 4 << 20
        assert int(client.stats()["read_buf_bytes"]) <= 2 * SLOW_BYTES
        seen = slow.until_lost()
        assert {told.kind for told in seen[:-1]} == {"set"}
        assert len(seen) < count // 2
        assert seen[-1].exptime < seen[-1].cas
        client.set(b"key", b"last")
        assert slow.next() == ("set", b"key", b"last")
        until(lambda: int(client.stats()["read_buf_bytes"]) < SLOW_BYTES // 4, "the memory to come back")


def test_who_reads_loses_nothing_of_a_burst() -> None:
    """Several values come at once, more than may wait for a subscriber: it is sent what waits before more is added."""
    with Daemon("-m", "64") as daemon, Client(daemon) as client, subscribe(daemon, b"k*") as hearer:
        value = b"v" * 100_000
        client.send(b"".join(b"set k%d 0 0 %d noreply\r\n%b\r\n" % (number, len(value), value) for number in range(6)))
        assert sorted(hearer.next() for _ in range(6)) == [("set", b"k%d" % number, value) for number in range(6)]
        assert figures(client)["shm_lost"] == 0


def test_a_message_larger_than_the_buffer_is_not_lost_by_its_size() -> None:
    with Daemon("-m", "64", "-I", "4m") as daemon, Client(daemon) as client, subscribe(daemon, b"k", door="unix") as hearer:
        client.sock.settimeout(30)
        value = b"v" * (3 << 20)
        client.set(b"k", value)
        assert hearer.next() == ("set", b"k", value)
        assert figures(client)["shm_lost"] == 0


def test_at_the_limit_of_the_buffers_messages_are_lost_and_others_served() -> None:
    with Daemon("-m", "64", "-o", "read_buf_mem_limit=8") as daemon, Client(daemon) as client, ExitStack() as stack:
        hearers = [stack.enter_context(subscribe(daemon, b"large", door="unix")) for _ in range(30)]
        value = b"v" * (1 << 20)
        for _ in range(3):
            assert client.set(b"large", value) == b"STORED"
            assert int(client.stats()["read_buf_bytes"]) <= 8 << 20
        until(lambda: figures(client)["shm_lost"] > 0, "a loss")
        assert client.get(b"large") == value
        assert client.set(b"large", b"small") == b"STORED"
        heard = sum(_hears_the_last_or_ends(hearer) for hearer in hearers)
        assert heard >= 1


def _hears_the_last_or_ends(hearer: Hearer) -> bool:
    """False for one of the idlest, who were closed for the sake of the others."""
    try:
        while True:
            told = hearer.told()
            if told.kind == "lost" or told.value == b"small":
                return True
    except (AssertionError, ConnectionResetError):
        assert hearer.is_closed()
        return False


def test_a_killed_subscriber_leaves_nothing() -> None:
    with Daemon("-m", "16") as daemon, Client(daemon) as client:
        command = [sys.executable, "-c", _STAYING, daemon.host, str(daemon.port)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            assert process.stdout.readline() == "subscribed\n"
            client.set(b"k", b"v")
            assert figures(client)["shm_subscribers"] == 1
            process.kill()
        until(lambda: figures(client)["shm_subscribers"] == 0, "the subscriber to be gone")
        assert figures(client)["shm_patterns"] == 0
        assert client.set(b"k", b"w") == b"STORED"
        (worker,) = daemon.workers
        until(lambda: len(os.listdir(f"/proc/{worker}/task")) == 1, "the thread that nobody needs to end")


def test_a_worker_stopped_beyond_the_lease_has_lost() -> None:
    with Daemon("-m", "16", "-o", "debugtime") as daemon, subscribe(daemon, b"k*") as hearer:
        (worker,) = daemon.workers
        os.kill(worker, signal.SIGSTOP)
        try:
            end = time.monotonic() + LEASE_S + 1
            _write_meanwhile(daemon.name, end)
        finally:
            os.kill(worker, signal.SIGCONT)
        hearer.until_lost()
        with Client(daemon) as client:
            client.set(b"k-last", b"x")
        hearer.until_told(b"k-last", b"x")


def _write_meanwhile(name: str, end: float) -> None:
    """An attached process writes on, until that time of the monotonic clock has passed."""
    program = (
        "import sys, time, memcache_shm\n"
        "with memcache_shm.attach(sys.argv[1]) as cache:\n"
        "    while time.monotonic() < float(sys.argv[2]):\n"
        "        cache.set('k1', b'x'); time.sleep(0.05)\n"
        "    cache.set('k1', b'y')\n"
    )
    subprocess.run([sys.executable, "-c", program, name, str(end)], check=True, timeout=60)


def test_a_worker_overtaken_by_the_ring_has_lost() -> None:
    """The smallest feed, and a worker that stands still for a moment."""
    with Daemon("1000", "100", "--feed", "4k") as daemon, subscribe(daemon, b"k*", b"end") as hearer:
        (worker,) = daemon.workers
        os.kill(worker, signal.SIGSTOP)
        try:
            _write_many(daemon.name)
        finally:
            os.kill(worker, signal.SIGCONT)
        lost = hearer.until_lost()[-1]
        assert lost.cas - lost.exptime >= 2 * 1000
        with Client(daemon) as client:
            client.set(b"end", b"x")
        hearer.until_told(b"end", b"x")


def _write_many(name: str) -> None:
    program = (
        "import sys, memcache_shm\nwith memcache_shm.attach(sys.argv[1]) as cache:\n    for n in range(1000): cache.set(f'k{n}', b'x')\n"
    )
    subprocess.run([sys.executable, "-c", program, name], check=True, timeout=60)


def test_a_killed_worker_takes_its_subscribers_along() -> None:
    with Daemon("-m", "16", workers=3) as daemon, ExitStack() as stack:
        hearers = [stack.enter_context(subscribe(daemon, b"k")) for _ in range(9)]
        victim = daemon.workers[0]
        os.kill(victim, signal.SIGKILL)
        until(lambda: len(daemon.workers) == 3 and victim not in daemon.workers, "a successor")
        with Client(daemon) as client:
            until(lambda: 0 < figures(client)["shm_subscribers"] < 9, "the figures without the dead one's")
            alive = figures(client)["shm_subscribers"]
            client.set(b"k", b"v")
            heard = [_hears(hearer, b"v") for hearer in hearers]
            assert heard.count(True) == alive
            with subscribe(daemon, b"k") as another:
                client.set(b"k", b"w")
                assert another.next() == ("set", b"k", b"w")


def _hears(hearer: Hearer, value: bytes) -> bool:
    try:
        line = hearer.line()
    except ConnectionResetError:
        return False
    if not line:
        return False
    assert line.startswith(b"NOTIFY set k ")
    assert hearer.read(len(value) + 2) == value + b"\r\n"
    return True


@pytest.mark.parametrize("workers", [1, 3])
def test_a_table_made_anew_is_a_loss(workers: int) -> None:
    """Somebody removes the segment under the daemon; subscribers hear of the next one's changes."""
    with Daemon("-m", "16", workers=workers) as daemon, ExitStack() as stack:
        hearers = [stack.enter_context(subscribe(daemon, b"k*")) for _ in range(2 * workers)]
        with Client(daemon) as client:
            ids = client.stats(b"shm")
            subprocess.run(["ipcrm", "-m", ids["shm_id"], "-s", ids["sem_id"]], check=True)
            until(lambda: client.stats(b"shm")["shm_id"] != ids["shm_id"], "another table")
            until(lambda: client.set(b"k-other", b"x") == b"STORED", "a worker that has it")
            for hearer in hearers:
                hearer.until_lost()
            client.set(b"k-last", b"y")
            for hearer in hearers:
                hearer.until_told(b"k-last", b"y")
        assert daemon.stop() == 0


def test_three_hundred_subscribers_hear_their_own_last_values() -> None:
    count, rounds = 300, 20
    allow_descriptors(1024)
    with Daemon("-m", "64", "--feed", "4m", workers=2) as daemon, Client(daemon) as client, ExitStack() as stack:
        hearers = [stack.enter_context(subscribe(daemon, b"own%d" % number, b"all")) for number in range(count)]
        for turn in range(rounds):
            client.send(b"".join(b"set own%d 0 0 2 noreply\r\n%2d\r\n" % (number, turn) for number in range(count)))
        assert client.set(b"all", b"end") == b"STORED"
        for number, hearer in enumerate(hearers):
            own = [told.value for told in hearer.until_told(b"all", b"end") if told.key == b"own%d" % number]
            while not own or own[-1] != b"%2d" % (rounds - 1):
                own.append(hearer.told().value)
            assert own == sorted(own)
        assert figures(client)["shm_lost"] == 0


def test_stop_with_subscribers() -> None:
    with Daemon("-m", "16", workers=2) as daemon, subscribe(daemon, b"*") as hearer:
        assert daemon.stop() == 0
        assert hearer.is_closed()
