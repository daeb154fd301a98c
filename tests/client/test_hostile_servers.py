"""What answers at a path and is no daemon, or one that has gone mad: a Channel says so, and neither crashes nor hangs."""

from __future__ import annotations

import contextlib
import fcntl
import mmap
import os
import random
import socket
import struct
import tempfile
import threading
from collections.abc import Callable, Iterator

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support import raw_channels as raw
from support.raw_channels import descriptors_of

import memcache_shm
from memcache_shm.client.channel import Channel

SIZE = 4096
SEAL_ALL = 1 | 2 | 4  # against further seals, shrinking, growing
SEAL_WRITE = 8
ADD_SEALS = 1033
ANSWER = b"CHANNEL 4096 4096\r\n"
MAGIC = int.from_bytes(b"shmring1", "little")
Act = Callable[[socket.socket], None]


@contextlib.contextmanager
def server(act: Act) -> Iterator[str]:
    """A socket's path; what connects there is asked for its request, and then `act` answers."""
    failures: list[BaseException] = []
    with tempfile.TemporaryDirectory(prefix="ms") as directory, socket.socket(socket.AF_UNIX) as listener:
        listener.bind(os.path.join(directory, "s"))
        listener.listen()

        def serve() -> None:
            try:
                sock, _ = listener.accept()
                with sock:
                    assert sock.recv(100).startswith(b"channel ")
                    act(sock)
            except BaseException as error:  # noqa: BLE001 - told below
                failures.append(error)

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield os.path.join(directory, "s")
        finally:
            thread.join(10)
        assert not failures, failures


def block(magic: int = MAGIC, request_bytes: int = SIZE, reply_bytes: int = SIZE, length: int | None = None, seals: int = SEAL_ALL) -> int:
    """A descriptor like the one a daemon gives, but for what is said."""
    descriptor = os.memfd_create("block", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    os.ftruncate(descriptor, raw.DATA_AT + 2 * SIZE if length is None else length)
    if length != 0:
        os.pwrite(descriptor, struct.pack("<QQQ", magic, request_bytes, reply_bytes)[: length or 24], 0)
    if seals:
        fcntl.fcntl(descriptor, ADD_SEALS, seals)
    return descriptor


def bell() -> int:
    return os.eventfd(0)


def send(sock: socket.socket, line: bytes, descriptors: list[int]) -> None:
    socket.send_fds(sock, [line], descriptors)
    for descriptor in descriptors:
        os.close(descriptor)


def test_a_block_as_it_should_be() -> None:
    """So that the others are refused for what is said of them."""

    def act(sock: socket.socket) -> None:
        send(sock, ANSWER, [block(), bell()])
        sock.recv(1)

    with server(act) as path, Channel(path, 1.0, request_bytes=SIZE, reply_bytes=SIZE) as channel:
        assert channel.send(b"x" * 5000) == SIZE


def directory() -> int:
    return os.open("/", os.O_RDONLY)


def pipe() -> int:
    one, other = os.pipe()
    os.close(other)
    return one


BLOCKS: dict[str, Callable[[], int]] = {
    "not sealed": lambda: block(seals=0),
    "may shrink": lambda: block(seals=1 | 4),
    "may grow": lambda: block(seals=1 | 2),
    "cannot be written": lambda: block(seals=SEAL_ALL | SEAL_WRITE),
    "empty": lambda: block(length=0),
    "short": lambda: block(length=100),
    "shorter than it says": lambda: block(length=raw.DATA_AT + SIZE),
    "longer than it says": lambda: block(length=raw.DATA_AT + 3 * SIZE),
    "another's": lambda: block(magic=MAGIC + 1),
    "rings of no size": lambda: block(request_bytes=0),
    "rings of an odd size": lambda: block(reply_bytes=5000),
    "rings of half the size": lambda: block(request_bytes=SIZE // 2),
    "rings that are too long": lambda: block(request_bytes=1 << 21, length=raw.DATA_AT + SIZE + (1 << 21)),
    "rings of which one is below nothing": lambda: block(request_bytes=3 * SIZE, reply_bytes=2**64 - SIZE),
    "an eventfd": bell,
    "a directory": directory,
    "a pipe": pipe,
}


@pytest.mark.parametrize("make", BLOCKS.values(), ids=BLOCKS.keys())
def test_wrong_memory(make: Callable[[], int]) -> None:
    before = descriptors_of(os.getpid())
    with server(lambda sock: send(sock, ANSWER, [make(), bell()])) as path, pytest.raises((memcache_shm.RemoteError, OSError), match=path):
        Channel(path, 5.0)
    assert descriptors_of(os.getpid()) <= before


ANSWERS: dict[str, tuple[bytes, int]] = {
    "no descriptor": (ANSWER, 0),
    "one descriptor": (ANSWER, 1),
    "three descriptors": (b"NO" + ANSWER, 3),
    "another word": (b"CHANNELS 4096\r\n", 2),
    "nothing": (b"", 0),
    "a refusal": (b"SERVER_ERROR out of everything\r\n", 0),
    "no line": (b"\xff\0" * 1000, 0),
    "an unknown command": (b"ERROR\r\n", 0),
}


@pytest.mark.parametrize(("line", "count"), ANSWERS.values(), ids=ANSWERS.keys())
def test_wrong_answers(line: bytes, count: int) -> None:
    before = descriptors_of(os.getpid())

    def act(sock: socket.socket) -> None:
        if line:
            send(sock, line, [bell() for _ in range(count)])

    with server(act) as path, pytest.raises((memcache_shm.RemoteError, OSError), match=path) as caught:
        Channel(path, 5.0)
    assert "\n" not in str(caught.value)
    assert descriptors_of(os.getpid()) <= before


def test_no_answer_at_all() -> None:
    with server(lambda sock: sock.recv(1) and None) as path, pytest.raises(TimeoutError):
        Channel(path, 0.05)


def scribbling(at: int, value: int) -> Act:
    """A server that writes one place and waits for the client to go."""

    def act(sock: socket.socket) -> None:
        descriptor = block()
        with mmap.mmap(descriptor, 0) as memory:
            struct.pack_into("<Q", memory, at, value)
            send(sock, ANSWER, [descriptor, bell()])
            sock.recv(1)

    return act


@pytest.mark.parametrize("value", [4097, 2**32, 2**63, 2**64 - 1], ids=hex)
def test_a_tail_that_cannot_be(value: int) -> None:
    with server(scribbling(raw.REPLY_TAIL, value)) as path, Channel(path, 5.0) as channel:
        for _ in range(2):
            with pytest.raises(ConnectionResetError, match="damaged"):
                channel.recv(10)
        with pytest.raises(ConnectionResetError, match="damaged"):
            channel.sendall(b"x" * 5000)


@pytest.mark.parametrize("value", [1, 2**32, 2**63, 2**64 - 4097], ids=hex)
def test_a_head_that_cannot_be(value: int) -> None:
    with server(scribbling(raw.REQUEST_HEAD, value)) as path, Channel(path, 5.0) as channel:
        for _ in range(2):
            with pytest.raises(ConnectionResetError, match="damaged"):
                channel.send(b"x")


def test_bytes_that_were_never_sent() -> None:
    """A tail that can be brings what lies there."""
    with server(scribbling(raw.REPLY_TAIL, 4096)) as path, Channel(path, 5.0) as channel:
        assert channel.recv(5000) == bytes(4096)


def test_it_leaves_amid_everything() -> None:
    with server(lambda sock: send(sock, ANSWER, [block(), bell()])) as path, Channel(path, 5.0) as channel:
        with pytest.raises(ConnectionResetError):
            channel.recv(1)
        with pytest.raises(ConnectionResetError):
            channel.sendall(b"x" * 5000)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 2**32), calls=st.lists(st.sampled_from(["send", "recv", "shut"]), max_size=8))
def test_random_memory(seed: int, calls: list[str]) -> None:
    """While the client calls; whatever comes of it is an OSError or bytes."""
    chance = random.Random(seed)
    end = threading.Event()

    def act(sock: socket.socket) -> None:
        descriptor = block()
        with mmap.mmap(descriptor, 0) as memory:
            send(sock, ANSWER, [descriptor, bell()])
            while not end.is_set():
                at = chance.randrange(24, 640)
                memory[at : at + 8] = chance.choice((bytes(8), chance.randbytes(8), struct.pack("<Q", chance.randrange(5000))))

    with server(act) as path:
        try:
            with Channel(path, 5.0) as channel:
                channel.settimeout(0.01)
                for call in calls:
                    with contextlib.suppress(OSError):
                        if call == "send":
                            channel.send(b"x" * 100)
                        elif call == "recv":
                            assert len(channel.recv(5000)) <= 5000
                        else:
                            channel.shutdown(socket.SHUT_WR)
        finally:
            end.set()
