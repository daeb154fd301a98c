"""A Channel's methods: what a socket's do, with the same errors."""

from __future__ import annotations

import errno
import os
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType

import pytest
from support.channels import ChannelSocket
from support.client import Client
from support.feeding import subscribe
from support.servers import Daemon
from support.waiting import until

import memcache_shm
from memcache_shm.client.channel import Channel

MIB = 1 << 20
VALUE = b"x" * MIB
SOON_S = 0.05


@pytest.fixture
def channel(daemon: Daemon) -> Iterator[Channel]:
    with Channel(daemon.unix_path, 10.0, request_bytes=4096, reply_bytes=4096) as channel:
        yield channel


@pytest.fixture
def stopped(daemon: Daemon) -> Iterator[int]:
    """Its worker, which does nothing until the test lets it, or ends."""
    (worker,) = daemon.workers
    os.kill(worker, signal.SIGSTOP)
    yield worker
    os.kill(worker, signal.SIGCONT)


def read(channel: Channel, size: int) -> bytes:
    got = b""
    while len(got) < size:
        piece = channel.recv(size - len(got))
        assert piece, f"the end after {got[-100:]!r}"
        got += piece
    return got


def ask(channel: Channel, request: bytes) -> bytes:
    channel.sendall(request + b"\r\n")
    got = b""
    while not got.endswith(b"\r\n"):
        got += channel.recv(4096)
    return got


# Waiting


def test_timeouts_are_a_sockets(daemon: Daemon) -> None:
    with Channel(daemon.unix_path) as channel, socket.socket() as sock:
        for seconds in (None, 0, 0.0, 1.5, 10):
            channel.settimeout(seconds)
            sock.settimeout(seconds)
            assert channel.gettimeout() == sock.gettimeout()
        for wrong in (-1, -0.001, float("nan")):
            with pytest.raises(ValueError, match=r"[Tt]imeout|NaN"):
                channel.settimeout(wrong)


def test_a_reply_that_does_not_come(channel: Channel) -> None:
    channel.settimeout(SOON_S)
    with pytest.raises(TimeoutError):
        channel.recv(1)
    channel.settimeout(0)
    with pytest.raises(BlockingIOError):
        channel.recv(1)
    channel.settimeout(10)
    assert ask(channel, b"mn") == b"MN\r\n"


def test_room_that_does_not_come(channel: Channel, stopped: int) -> None:
    channel.settimeout(0)
    assert channel.send(b"get k\r\n" * 1000) == 4096
    with pytest.raises(BlockingIOError):
        channel.send(b"more")
    channel.settimeout(SOON_S)
    with pytest.raises(TimeoutError):
        channel.sendall(b"more")
    os.kill(stopped, signal.SIGCONT)
    channel.settimeout(10)
    channel.sendall((b"get k\r\n" * 1000)[4096:])
    assert read(channel, 5 * 1000) == b"END\r\n" * 1000


def test_a_reply_that_comes_late(channel: Channel, stopped: int) -> None:
    """The waiting client sleeps by then."""
    going_on = threading.Timer(SOON_S, os.kill, (stopped, signal.SIGCONT))
    going_on.start()
    assert ask(channel, b"mn") == b"MN\r\n"
    going_on.join()


def test_signals_while_it_waits(daemon: Daemon, channel: Channel) -> None:
    """A handler runs; the call goes on where it raises nothing, and ends with what it raises."""
    seen: list[int] = []
    with Client(daemon) as other:

        def change(number: int, frame: FrameType | None) -> None:
            seen.append(number)
            assert other.set(b"k", b"%d" % len(seen)) == b"STORED"
            if len(seen) == 3:
                raise KeyboardInterrupt

        before = signal.signal(signal.SIGALRM, change)
        try:
            assert ask(channel, b"subscribe other") == b"OK 1\r\n"
            signal.setitimer(signal.ITIMER_REAL, SOON_S, SOON_S)
            with pytest.raises(KeyboardInterrupt):
                channel.recv(100)
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, before)
        assert len(seen) == 3
        assert other.set(b"other", b"v") == b"STORED"
        assert channel.recv(100).startswith(b"NOTIFY set other ")


# Bytes


def test_recv_into(channel: Channel) -> None:
    buffer = bytearray(b"........")
    channel.sendall(b"mn\r\nmn\r\n")
    assert read(channel, 2) == b"MN"
    assert channel.recv_into(buffer, 2) == 2
    assert buffer == b"\r\n......"
    assert channel.recv_into(memoryview(buffer)[4:]) in range(1, 5)
    assert buffer.startswith(b"\r\n..M")
    with pytest.raises(ValueError, match="nbytes"):
        channel.recv_into(buffer, 9)
    with pytest.raises(BufferError):
        channel.recv_into(b"constant")  # type: ignore[arg-type]


def test_receiving_nothing(channel: Channel) -> None:
    assert channel.recv(0) == b""
    assert channel.recv_into(bytearray()) == 0
    with pytest.raises(ValueError, match="negative"):
        channel.recv(-1)
    channel.sendall(b"")
    assert channel.send(b"") == 0
    assert ask(channel, b"mn") == b"MN\r\n"


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
def test_what_can_be_sent(channel: Channel, kind: Callable[[bytes], bytes]) -> None:
    channel.sendall(kind(b"mn\r\n"))
    assert read(channel, 4) == b"MN\r\n"
    with pytest.raises(TypeError):
        channel.sendall("text")  # type: ignore[arg-type]


def test_long_messages_both_ways_at_once(channel: Channel) -> None:
    """16 MiB each way through rings of 4096 bytes, all of it sent before the first reply is asked for."""
    channel.sendall((b"set k 0 0 %d\r\n" % MIB + VALUE + b"\r\nget k\r\n") * 16)
    assert read(channel, 4) == b"STOR"
    reply = b"ED\r\nVALUE k 0 %d\r\n" % MIB + VALUE + b"\r\nEND\r\n"
    for number in range(16):
        assert read(channel, len(reply)) == reply
        assert read(channel, 4) == b"STOR" if number < 15 else True
    assert ask(channel, b"mn") == b"MN\r\n"


def test_sizes_around_the_rings(channel: Channel) -> None:
    """Messages that end right before, at and behind a ring's end, and at its half."""
    for size in (2040, 2041, 2047, 2048, 2049, 4060, 4090, 4095, 4096, 4097, 8191, 8192, 8193):
        value = os.urandom(size)
        channel.sendall(b"set k 0 0 %d\r\n%b\r\nget k\r\n" % (size, value))
        expected = b"STORED\r\nVALUE k 0 %d\r\n%b\r\nEND\r\n" % (size, value)
        assert read(channel, len(expected)) == expected


def test_many_threads_with_a_channel_each(daemon: Daemon) -> None:
    failures: list[BaseException] = []

    def work(number: int) -> None:
        try:
            with Channel(daemon.unix_path, 20.0, request_bytes=4096, reply_bytes=8192) as channel:
                for turn in range(100):
                    value = b"%d:%d;" % (number, turn) * 300
                    channel.sendall(b"set k%d 0 0 %d\r\n%b\r\nget k%d\r\n" % (number, len(value), value, number))
                    expected = b"STORED\r\nVALUE k%d 0 %d\r\n%b\r\nEND\r\n" % (number, len(value), value)
                    assert read(channel, len(expected)) == expected
        except (OSError, AssertionError) as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures


# Ends


def test_the_servers_end(channel: Channel) -> None:
    channel.sendall(b"mn\r\nquit\r\n")
    assert read(channel, 4) == b"MN\r\n"
    assert channel.recv(100) == b""
    assert channel.recv(100) == b""
    with pytest.raises(BrokenPipeError):
        channel.sendall(b"mn\r\n")


@pytest.mark.parametrize("how", [socket.SHUT_WR, socket.SHUT_RDWR])
def test_no_more_requests(channel: Channel, how: int) -> None:
    """More replies than the ring holds are on their way."""
    channel.sendall(b"get k\r\n" * 2000)
    channel.shutdown(how)
    with pytest.raises(BrokenPipeError):
        channel.send(b"mn\r\n")
    assert read(channel, 5 * 2000) == b"END\r\n" * 2000
    assert channel.recv(100) == b""


def test_closed(channel: Channel) -> None:
    assert os.fstat(channel.fileno())
    channel.close()
    channel.close()
    assert channel.fileno() == -1
    for call in (lambda: channel.recv(1), lambda: channel.send(b"x"), lambda: channel.shutdown(socket.SHUT_WR)):
        with pytest.raises(OSError, match="closed") as caught:
            call()
        assert caught.value.errno == errno.EBADF


@pytest.mark.parametrize("call", [lambda channel: channel.recv(1), lambda channel: channel.sendall(VALUE)], ids=["recv", "sendall"])
def test_closed_by_another_thread(channel: Channel, stopped: int, call: Callable[[Channel], object]) -> None:
    """The call that waits ends, though its descriptors' numbers are somebody else's at once."""
    caught: list[OSError] = []
    waiting = threading.Event()

    def wait() -> None:
        waiting.set()
        try:
            call(channel)
        except OSError as error:
            caught.append(error)

    thread = threading.Thread(target=wait)
    thread.start()
    waiting.wait()
    until(lambda: Path(f"/proc/self/task/{thread.native_id}/stat").read_text().split()[2] == "S", "it to sleep")
    channel.close()
    with socket.socketpair()[0], socket.socketpair()[0]:
        thread.join(10)
    assert not thread.is_alive()
    assert [error.errno for error in caught] == [errno.EBADF]


def test_a_forked_child_lets_go_of_it(daemon: Daemon, channel: Channel) -> None:
    assert ask(channel, b"mn") == b"MN\r\n"
    pid = os.fork()
    if pid == 0:
        try:
            channel.close()
        finally:
            os._exit(0)
    assert os.waitpid(pid, 0) == (pid, 0)
    assert ask(channel, b"mn") == b"MN\r\n"


# Beginnings


def test_where_none_can_be_had(daemon: Daemon, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        Channel(str(tmp_path / "none"))
    with pytest.raises(memcache_shm.IllegalInputError, match="power of two from 4096 to 1048576"):
        Channel(daemon.unix_path, request_bytes=4097)
    with pytest.raises(memcache_shm.IllegalInputError, match="power of two"):
        Channel(daemon.unix_path, reply_bytes=2**21)


def test_once_only(daemon: Daemon) -> None:
    with memcache_shm.channel_sockets.socket() as channel:
        with pytest.raises(OSError, match="not connected"):
            channel.send(b"mn\r\n")
        channel.settimeout(7)
        channel.connect(daemon.unix_path)
        assert channel.gettimeout() == 7
        assert ask(channel, b"mn") == b"MN\r\n"
        with pytest.raises(OSError, match="make another") as caught:
            channel.connect(daemon.unix_path)
        assert caught.value.errno == errno.EISCONN
        assert ask(channel, b"mn") == b"MN\r\n"


def test_subscribing(daemon: Daemon) -> None:
    """News come without a request, to one that sleeps."""
    with subscribe(daemon, b"k*", door="narrow") as hearer, Client(daemon) as other:
        for number in range(50):
            value = b"%d" % number * 500
            assert other.set(b"k%d" % number, value) == b"STORED"
            told = hearer.told()
            assert (told.kind, told.key, told.value) == ("set", b"k%d" % number, value)
    assert isinstance(hearer.sock, ChannelSocket)


def test_a_close_beside_a_forked_child(daemon: Daemon) -> None:
    """A child's leaves the channel to its parent; the parent's ends it, although the child lives and holds it."""
    channel, other = (Channel(daemon.unix_path, 10.0) for _ in range(2))
    until_read, until_written = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            channel.close()
            os.close(until_written)
            os.read(until_read, 1)
        finally:
            os._exit(0)
    os.close(until_read)
    with Client(daemon) as client:
        other.close()
        until(lambda: client.stats(b"shm")["shm_channels"] == "1", "the closed channel to end")
        channel.sendall(b"mn\r\n")
        assert read(channel, 4) == b"MN\r\n"
        channel.close()
        until(lambda: client.stats(b"shm")["shm_channels"] == "0", "the other one to end")
    os.close(until_written)
    os.waitpid(pid, 0)
