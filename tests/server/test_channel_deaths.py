"""Either side of a channel killed or stopped at bad moments: the other one goes on, and nothing is left."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from support.channels import ChannelSocket
from support.client import Client
from support.isolation import sleeps
from support.raw_channels import descriptors_of
from support.servers import Daemon
from support.waiting import until

from memcache_shm.client.channel import Channel

MIB = 1 << 20
SOON_S = 1.0  # a dead client's channel is gone by then, a dead worker's clients have heard of it
Ready = Callable[[], None]


@pytest.fixture
def own_daemon() -> Iterator[Daemon]:
    """One whose workers may die."""
    with Daemon("-m", "64") as daemon:
        yield daemon


@contextlib.contextmanager
def child(act: Callable[[Ready], None]) -> Iterator[int]:
    """A forked process that acts, once it has said that it is ready; its pid. It must have ended well, or by SIGKILL, at the end."""
    says, tells = os.pipe()
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            os.close(says)
            act(lambda: os.write(tells, b"r") and None)
            status = 0
        finally:
            os._exit(status)
    os.close(tells)
    try:
        assert os.read(says, 1) == b"r"
        yield pid
        _, status = os.waitpid(pid, 0)
        assert status in (0, signal.SIGKILL)
    except BaseException:
        with contextlib.suppress(ProcessLookupError, ChildProcessError):
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
        raise
    finally:
        os.close(says)


def stats_of(client: Client) -> dict[str, int]:
    return {name: int(value) for name, value in client.stats(b"shm").items() if value.isdigit()}


# The client


def idle(channel: Channel, ready: Ready) -> None:
    ready()
    signal.pause()


def asleep_in_a_call(channel: Channel, ready: Ready) -> None:
    ready()
    channel.recv(1)


def amid_a_request(channel: Channel, ready: Ready) -> None:
    channel.sendall(b"set k 0 0 100000\r\n" + b"x" * 50_000)
    ready()
    signal.pause()


def taking_no_replies(channel: Channel, ready: Ready) -> None:
    channel.sendall(b"get big\r\n" * 50)
    ready()
    signal.pause()


def asking_without_end(channel: Channel, ready: Ready) -> None:
    ready()
    while True:
        channel.sendall(b"get big\r\nget k\r\n" * 100)
        channel.recv(1 << 20)


MOMENTS = [idle, asleep_in_a_call, amid_a_request, taking_no_replies, asking_without_end]


@pytest.mark.parametrize("moment", MOMENTS, ids=lambda moment: moment.__name__)
def test_a_killed_client(daemon: Daemon, moment: Callable[[Channel, Ready], None]) -> None:
    with Client(daemon) as other, Client(daemon, "channel") as neighbour:
        assert other.set(b"big", b"x" * 100_000) == b"STORED"
        before = stats_of(other)["shm_channels"]
        with child(lambda ready: moment(Channel(daemon.unix_path, None, request_bytes=4096, reply_bytes=4096), ready)) as pid:
            assert stats_of(other)["shm_channels"] == before + 1
            for client in (other, neighbour):
                assert client.get(b"big") == b"x" * 100_000
            os.kill(pid, signal.SIGKILL)
        until(lambda: stats_of(other)["shm_channels"] == before, "its channel to be gone", SOON_S)
        for client in (other, neighbour):
            assert client.get(b"big") == b"x" * 100_000


def test_a_stopped_client_with_a_full_ring(daemon: Daemon) -> None:
    """It holds nobody up, and gets every byte when it goes on."""

    def act(ready: Ready) -> None:
        with Client(daemon, "narrow", 30.0) as client:
            client.send(b"get big\r\n" * 20)
            ready()
            signal.pause()
            for _ in range(20):
                assert client.line() == b"VALUE big 0 100000"
                assert client.read(100_002) == b"x" * 100_000 + b"\r\n"
                assert client.line() == b"END"

    with Client(daemon) as other:
        assert other.set(b"big", b"x" * 100_000) == b"STORED"
        signal.signal(signal.SIGUSR1, lambda *_: None)
        with child(act) as pid:
            os.kill(pid, signal.SIGSTOP)
            for _ in range(100):
                assert other.get(b"big") == b"x" * 100_000
            os.kill(pid, signal.SIGCONT)
            until(lambda: sleeps(pid), "it to pause")
            os.kill(pid, signal.SIGUSR1)
        signal.signal(signal.SIGUSR1, signal.SIG_DFL)


def test_nothing_is_left_of_hundreds(daemon: Daemon) -> None:
    """Neither descriptors nor mappings, in the worker or in the client."""
    (worker,) = daemon.workers

    def held() -> list[int]:
        maps = [Path(f"/proc/{pid}/maps").read_text().count("memcache_shm channel") for pid in (worker, os.getpid())]
        return [*maps, len(descriptors_of(worker)), len(descriptors_of(os.getpid()))]

    with Client(daemon) as other:
        assert other.ask(b"mn") == b"MN"
        until(lambda: stats_of(other)["shm_channels"] == 0, "the others' to be gone")
        before = held()
        for turn in range(300):
            with daemon.connect("channel" if turn % 2 else "narrow") as channel:
                channel.sendall(b"mn\r\n" if turn % 3 else b"quit\r\n")
                assert channel.recv(10) == (b"MN\r\n" if turn % 3 else b"")
        until(lambda: stats_of(other)["shm_channels"] == 0, "all to be gone")
        assert held() == before


# The worker


@pytest.mark.parametrize("stopped", [False, True], ids=["running", "stopped"])
def test_a_killed_worker(own_daemon: Daemon, stopped: bool) -> None:
    """Those who wait for a reply, for room, or not at all hear of it; a new channel serves."""
    (worker,) = own_daemon.workers
    waiting, sending, asking = (own_daemon.connect("narrow", SOON_S) for _ in range(3))
    waiting.sendall(b"mn\r\n")
    assert waiting.recv(10) == b"MN\r\n"
    if stopped:
        os.kill(worker, signal.SIGSTOP)
        assert sending.send(b"x" * 5000) == 4096
    os.kill(worker, signal.SIGKILL)
    with pytest.raises(ConnectionResetError):
        waiting.recv(10)
    with pytest.raises((ConnectionResetError, BrokenPipeError)):
        sending.sendall(b"x" * MIB)
    asking.settimeout(0)
    with pytest.raises(ConnectionResetError):
        until(lambda: _asked_at_once(asking), "it to hear")
    for channel in (waiting, sending, asking):
        channel.close()
    until(lambda: set(own_daemon.workers) - {worker}, "a worker in its place")
    with Client(own_daemon, "channel") as client:
        assert client.set(b"k", b"v") == b"STORED"


def _asked_at_once(channel: object) -> bool:
    """False: there is nothing yet."""
    assert isinstance(channel, ChannelSocket)
    with contextlib.suppress(BlockingIOError):
        channel.recv(10)
        return True
    return False


def test_replies_of_a_killed_worker_are_read(own_daemon: Daemon) -> None:
    """What it had published when it died, which it does for all of a turn at once."""
    with own_daemon.connect("channel", SOON_S) as channel:
        channel.sendall(b"mn\r\n" * 10)
        got = channel.recv(1)
        os.kill(own_daemon.workers[0], signal.SIGKILL)
        with pytest.raises(ConnectionResetError):
            while True:
                got += channel.recv(7)
        assert got == b"MN\r\n" * 10


@pytest.mark.parametrize("door", ["channel", "narrow"])
def test_a_worker_that_is_told_to_stop_hands_out_what_it_has(door: str) -> None:
    """Requests that were sent before are answered, also those whose replies do not fit into the ring."""
    with Daemon("-m", "64") as daemon, daemon.connect(door) as channel:
        channel.sendall(b"set big 0 0 50000\r\n" + b"x" * 50_000 + b"\r\n")
        assert channel.recv(10) == b"STORED\r\n"
        channel.sendall(b"get big\r\n" * 3)
        (worker,) = daemon.workers
        until(lambda: sleeps(worker), "it to have done what it can")
        daemon.process.send_signal(signal.SIGTERM)
        got = b""
        while piece := channel.recv(65536):
            got += piece
        assert got == (b"VALUE big 0 50000\r\n" + b"x" * 50_000 + b"\r\nEND\r\n") * 3
        assert daemon.wait() == 0


def test_idle_channels_cost_nothing(own_daemon: Daemon) -> None:
    """The worker sleeps: neither its clock nor its count of sleeps moves while 64 clients wait for nothing."""
    (worker,) = own_daemon.workers
    channels = [own_daemon.connect("channel") for _ in range(64)]
    for channel in channels:
        channel.sendall(b"mn\r\n")
        assert channel.recv(10) == b"MN\r\n"

    def moved() -> tuple[int, int]:
        """Clock ticks of CPU time, and sleeps."""
        fields = Path(f"/proc/{worker}/stat").read_text().rpartition(")")[2].split()
        status = dict(line.split(":", 1) for line in Path(f"/proc/{worker}/status").read_text().splitlines())
        return int(fields[11]) + int(fields[12]), int(status["voluntary_ctxt_switches"])

    until(lambda: sleeps(worker), "it to sleep")
    ticks, sleeps_before = moved()
    with Daemon("-m", "2"):
        pass  # as long as that takes
    assert moved()[0] - ticks <= 1
    assert moved()[1] - sleeps_before < len(channels)
    for channel in channels:
        channel.close()
