"""`channel`: who gets one, of which sizes, how many there may be, and what its client holds then."""

from __future__ import annotations

import array
import fcntl
import os
import signal
import socket
import termios
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from support.channels import ChannelSocket
from support.client import Client
from support.isolation import sleeps
from support.raw_channels import RawChannel, ask, descriptors_of
from support.servers import Daemon
from support.tls import Certificate, TlsSocket
from support.waiting import until

import memcache_shm
from memcache_shm.client.channel import Channel

BAD_SIZE = b"CLIENT_ERROR channel: sizes are powers of two from 4096 to 1048576\r\n"
NOT_OVER_THIS = b"CLIENT_ERROR channel: only over a UNIX socket without TLS\r\n"
HAS_ONE = b"CLIENT_ERROR channel: this is one already\r\n"
NOT_ALONE = b"CLIENT_ERROR channel: replies to earlier requests are on their way; read them first\r\n"
TOO_MANY = b"SERVER_ERROR too many channels (--channels)\r\n"
SHORT = b"SERVER_ERROR no descriptor or memory for a channel\r\n"
F_GET_SEALS, F_ADD_SEALS = 1034, 1033  # <linux/fcntl.h>
SEAL_SEAL, SEAL_SHRINK, SEAL_GROW, SEAL_WRITE = 1, 2, 4, 8


@pytest.fixture
def unix(daemon: Daemon) -> Iterator[socket.socket]:
    with daemon.connect("unix") as sock:
        yield sock


def open_channels(daemon: Daemon) -> int:
    with Client(daemon) as client:
        return int(client.stats(b"shm")["shm_channels"])


def serves(sock: socket.socket) -> bool:
    sock.sendall(b"mn\r\n")
    return sock.recv(100) == b"MN\r\n"


@pytest.mark.parametrize(
    ("request_line", "sizes"),
    [
        (b"channel\r\n", (65536, 65536)),
        (b"channel 4096\r\n", (4096, 65536)),
        (b"channel 4096 1048576\n", (4096, 1048576)),
        (b"channel 1048576 8192\r\n", (1048576, 8192)),
    ],
)
def test_sizes(unix: socket.socket, request_line: bytes, sizes: tuple[int, int]) -> None:
    line, descriptors = ask(unix, request_line)
    assert line == b"CHANNEL %d %d\r\n" % sizes
    memory, bell = descriptors
    assert os.fstat(memory).st_size == 4096 + sum(sizes)
    assert Path(f"/proc/self/fd/{bell}").readlink().name == "anon_inode:[eventfd]"
    for descriptor in descriptors:
        os.close(descriptor)


@pytest.mark.parametrize("sizes", [b"4095", b"2048", b"6000", b"2097152", b"4096 12288", b"65536 1", b"18446744073709547520"])
def test_wrong_sizes(unix: socket.socket, sizes: bytes) -> None:
    assert ask(unix, b"channel %b\r\n" % sizes) == (BAD_SIZE, [])
    assert serves(unix)


@pytest.mark.parametrize("words", [b"x", b"-4096", b"4096 4096 4096", b"4096 x", b"18446744073709551616"])
def test_what_is_no_request_for_one(unix: socket.socket, words: bytes) -> None:
    line, descriptors = ask(unix, b"channel %b\r\n" % words)
    assert line.split(b" ")[0].strip() in (b"ERROR", b"CLIENT_ERROR")
    assert descriptors == []
    assert serves(unix)


def test_not_over_tcp(daemon: Daemon) -> None:
    with daemon.connect() as sock:
        assert ask(sock, b"channel\r\n") == (NOT_OVER_THIS, [])
        assert serves(sock)


def test_not_over_tls(certificate: Certificate, daemon_with: Callable[..., Daemon]) -> None:
    daemon = daemon_with("-m", "64", *certificate.options)
    with TlsSocket(daemon.connect(), certificate.client_context()) as sock:
        sock.sendall(b"channel\r\n")
        assert sock.recv(200) == NOT_OVER_THIS


def test_not_twice(daemon: Daemon) -> None:
    with daemon.connect("channel") as sock:
        sock.sendall(b"channel\r\n")
        assert sock.recv(200) == HAS_ONE
        assert serves(sock)


def test_not_with_replies_on_their_way(unix: socket.socket) -> None:
    unix.sendall(b"mn\r\nchannel\r\nmn\r\n")
    with unix.makefile("rb") as replies:
        assert [replies.readline() for _ in range(3)] == [b"MN\r\n", NOT_ALONE, b"MN\r\n"]


def test_not_for_a_subscriber(unix: socket.socket) -> None:
    unix.sendall(b"subscribe k\r\n")
    replies = unix.makefile("rb")
    assert replies.readline() == b"OK 1\r\n"
    unix.sendall(b"channel\r\n")
    assert replies.readline() == NOT_ALONE


def test_what_came_with_the_request_is_answered_through_the_rings(daemon: Daemon) -> None:
    """A client should send it alone; nothing is lost when it does not."""
    with daemon.connect("unix") as sock:
        line, (memory, bell) = ask(sock, b"channel 4096 4096\r\nmn\r\n")
        assert line == b"CHANNEL 4096 4096\r\n"
        until(lambda: os.pread(memory, 4, 4096 + 4096) == b"MN\r\n", "the reply in the ring")
        os.close(memory)
        os.close(bell)


def test_a_full_socket_gets_none_and_is_served_on(daemon: Daemon) -> None:
    """Its client has not read its replies, so that the answer with the descriptors finds no room; it is a usual connection then."""

    def come(sock: socket.socket) -> int:
        """Replies that lie in the socket."""
        unread = array.array("i", [0])
        fcntl.ioctl(sock.fileno(), termios.FIONREAD, unread)
        return unread[0] // len(b"MN\r\n")

    def is_done(sock: socket.socket) -> bool:
        """Whether the worker has done with the requests what it can for now."""
        unread = array.array("i", [0])
        fcntl.ioctl(sock.fileno(), termios.TIOCOUTQ, unread)
        return unread[0] == 0 and all(map(sleeps, daemon.workers))

    def ask_unheard(sock: socket.socket, count: int) -> int:
        """How many replies came, one by one, before one did not."""
        for number in range(count):
            sock.sendall(b"mn\r\n")
            until(lambda number=number: come(sock) > number or is_done(sock), "a reply or a wait", 10.0, 0.0001)  # type: ignore[misc]
            if come(sock) == number:
                return number
        return count

    with daemon.connect("unix") as first:
        taken = ask_unheard(first, 10_000)
    with daemon.connect("unix") as sock:
        assert ask_unheard(sock, taken) == taken
        sock.sendall(b"channel\r\n")
        until(lambda: is_done(sock), "the answer to find no room")
        with sock.makefile("rb") as replies:
            assert [replies.readline() for _ in range(taken)] == [b"MN\r\n"] * taken
            assert replies.readline() == SHORT
        assert serves(sock)
    until(lambda: open_channels(daemon) == 0, "no channel to be left")


def test_a_guest_gets_one_when_it_has_logged_in(tmp_path: Path) -> None:
    users = tmp_path / "users"
    users.write_text("me:secret\n")
    with Daemon("-m", "2", "-Y", str(users)) as daemon, daemon.connect("unix") as sock:
        assert ask(sock, b"channel\r\n") == (b"CLIENT_ERROR unauthenticated\r\n", [])
        assert ask(sock, b"set auth 0 0 9\r\nme secret\r\n") == (b"STORED\r\n", [])
        line, descriptors = ask(sock, b"channel\r\n")
        assert line.startswith(b"CHANNEL")
        assert len(descriptors) == 2
        for connect in (Channel, lambda path: memcache_shm.connect(f"channel:{path}")):
            with pytest.raises(memcache_shm.RemoteError, match=f"^channel:{daemon.unix_path}: the server wants a login .*name the table"):
                connect(daemon.unix_path)
        for descriptor in descriptors:
            os.close(descriptor)


def test_the_memory_is_sealed(daemon: Daemon) -> None:
    with RawChannel(daemon) as raw:
        assert fcntl.fcntl(raw.memory_fd, F_GET_SEALS) == SEAL_SEAL | SEAL_SHRINK | SEAL_GROW
        for size in (0, 4096, 1 << 20):
            with pytest.raises(PermissionError):
                os.ftruncate(raw.memory_fd, size)
        with pytest.raises(PermissionError):
            fcntl.fcntl(raw.memory_fd, F_ADD_SEALS, SEAL_WRITE)


def test_what_a_client_holds_is_not_for_its_children(daemon: Daemon) -> None:
    before = descriptors_of(os.getpid())
    with daemon.connect("channel"):
        made = descriptors_of(os.getpid()) - before
        assert len(made) == 2, "the socket and the bell; the memory is mapped"
        assert not any(os.get_inheritable(fd) for fd in made)


def test_figures(daemon: Daemon) -> None:
    with Client(daemon) as client:
        before = int(client.stats(b"shm")["shm_channels_opened"])
        with ExitStack() as stack:
            for _ in range(3):
                stack.enter_context(daemon.connect("channel"))
            stats = client.stats(b"shm")
            assert (int(stats["shm_channels"]), int(stats["shm_channels_opened"])) == (3, before + 3)
        until(lambda: client.stats(b"shm")["shm_channels"] == "0", "the closed ones to be counted")
        assert int(client.stats(b"shm")["shm_channels_opened"]) == before + 3


@pytest.fixture(scope="module")
def three() -> Iterator[Daemon]:
    """A daemon that has three channels at most, over all its workers."""
    with Daemon("-m", "2", "--channels", "3", workers=2) as daemon:
        yield daemon


def test_no_more_than_allowed(three: Daemon) -> None:
    with ExitStack() as stack:
        channels = [stack.enter_context(ChannelSocket(three.unix_path, "channel", 5)) for _ in range(3)]
        with pytest.raises(memcache_shm.RemoteError, match="too many channels"):
            Channel(three.unix_path)
        with three.connect("unix") as sock:
            assert ask(sock, b"channel\r\n") == (TOO_MANY, [])
            assert serves(sock)
            channels[1].close()
            until(lambda: open_channels(three) == 2, "its place to be given back")
            line, descriptors = ask(sock, b"channel\r\n")
            assert line.startswith(b"CHANNEL")
            for descriptor in descriptors:
                os.close(descriptor)
    until(lambda: open_channels(three) == 0, "all to be given back")


def test_a_killed_workers_are_given_back(three: Daemon) -> None:
    with ExitStack() as stack:
        for _ in range(3):
            stack.enter_context(ChannelSocket(three.unix_path, "channel", 5))
        before = three.workers
        for pid in before:
            os.kill(pid, signal.SIGKILL)
        until(lambda: len(set(three.workers) - set(before)) == 2, "workers in their place")
        until(lambda: open_channels(three) == 0, "the dead ones' channels to be taken from the count")
        for _ in range(3):
            stack.enter_context(ChannelSocket(three.unix_path, "channel", 5))


def test_none_allowed() -> None:
    with Daemon("-m", "2", "--channels", "0") as daemon, daemon.connect("unix") as sock:
        assert ask(sock, b"channel\r\n") == (TOO_MANY, [])
        assert serves(sock)
