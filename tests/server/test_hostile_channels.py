"""A client that writes nonsense into its channel's memory, or misuses its descriptors, hurts itself at most."""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import os
import random
import signal
import socket
import threading
from collections.abc import Callable, Iterator

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support import raw_channels as raw
from support.client import Client
from support.raw_channels import RawChannel
from support.servers import Daemon
from support.waiting import until

from memcache_shm.server.loop import die_with_parent

PUNCH_HOLE = 0x01 | 0x02  # <linux/falloc.h>: and keep the size
ROUNDS = 300
PLACES = (raw.REQUEST_TAIL, raw.REQUEST_HEAD, raw.REPLY_TAIL, raw.REPLY_HEAD)
WORDS = (raw.CLIENT_WAITS, raw.SERVER_WAITS, raw.CLIENT_CLOSED, raw.SERVER_CLOSED)
HEADER = (raw.MAGIC, raw.REQUEST_BYTES, raw.REPLY_BYTES)


class Neighbour:
    """Clients who do as they should beside the hostile one, and the worker that serves all of them."""

    def __init__(self, daemon: Daemon) -> None:
        self.daemon = daemon
        self.workers = daemon.workers
        self.by_channel, self.by_socket = Client(daemon, "narrow"), Client(daemon)
        self.count = 0

    def is_served(self) -> bool:
        self.count += 1
        value = b"%d" % self.count * 1000
        assert self.by_channel.set(b"neighbour", value) == b"STORED"
        assert self.by_channel.get(b"neighbour") == self.by_socket.get(b"neighbour") == value
        return self.daemon.workers == self.workers

    def channels(self) -> int:
        return int(self.by_socket.stats(b"shm")["shm_channels"])

    def close(self) -> None:
        self.by_channel.close()
        self.by_socket.close()


@pytest.fixture(scope="module")
def neighbour(daemon_with: Callable[..., Daemon]) -> Iterator[Neighbour]:
    neighbour = Neighbour(daemon_with("-m", "64"))
    yield neighbour
    assert neighbour.is_served()
    neighbour.close()


@pytest.fixture
def hostile(neighbour: Neighbour) -> Iterator[RawChannel]:
    """Its channel is gone in the end, and the others never noticed."""
    with RawChannel(neighbour.daemon) as hostile:
        yield hostile
        assert neighbour.is_served()
    until(lambda: neighbour.channels() == 1, "the hostile one's channel to end", 1.0)


def answers(channel: RawChannel, request: bytes, reply: bytes) -> bool:
    channel.put_request(request)
    channel.ring()
    got = b""

    def has_come() -> bool:
        nonlocal got
        got += channel.take_reply()
        return len(got) >= len(reply)

    until(has_come, f"{reply!r}", every_s=0.001)
    return got == reply


def is_ended(channel: RawChannel) -> bool:
    """The server empties the block, and closes the socket."""
    return until(lambda: channel.word(raw.MAGIC) == 0, "its end", 1.0) and channel.sock.recv(1) == b""


def test_the_layout_is_what_these_tests_think(hostile: RawChannel) -> None:
    assert [hostile.place(at) for at in HEADER] == [int.from_bytes(b"shmring1", "little"), 4096, 4096]
    assert answers(hostile, b"mn\r\n", b"MN\r\n")
    assert [hostile.place(at) for at in PLACES] == [4, 4, 4, 4]


@pytest.mark.parametrize("ahead", [4097, 4098, 65536, 2**32, 2**63, 2**64 - 1], ids=hex)
def test_a_tail_that_cannot_be_ends_it(hostile: RawChannel, ahead: int) -> None:
    """Further ahead than the ring is long, or behind what was read."""
    assert answers(hostile, b"mn\r\n", b"MN\r\n")
    hostile.put_place(raw.REQUEST_TAIL, hostile.place(raw.REQUEST_HEAD) + ahead)
    hostile.ring()
    assert is_ended(hostile)


@pytest.mark.parametrize("ahead", [1, 4096, 2**63, -4097], ids=hex)
def test_a_head_that_cannot_be_ends_it(hostile: RawChannel, ahead: int) -> None:
    """It has read what was never written, or never will have read what it had."""
    assert answers(hostile, b"mn\r\n", b"MN\r\n")
    hostile.put_place(raw.REPLY_HEAD, hostile.place(raw.REPLY_TAIL) + ahead)
    hostile.put_request(b"mn\r\n")
    hostile.ring()
    assert is_ended(hostile)


def test_a_head_that_cannot_be_while_the_server_waits_for_room(hostile: RawChannel) -> None:
    hostile.put_request(b"mn\r\n" * 1000)
    hostile.ring()
    until(lambda: hostile.place(raw.REPLY_TAIL) >= 4000, "replies", every_s=0.001)
    hostile.put_request(b"mn\r\n" * 200)
    hostile.ring()
    until(lambda: hostile.place(raw.REPLY_TAIL) == 4096, "the ring to be full", every_s=0.001)
    hostile.put_place(raw.REPLY_HEAD, 5000)
    hostile.ring()
    assert is_ended(hostile)


@pytest.mark.parametrize("tail", [2**64 - 1, 2**64 - 4096, 2**64 - 4097], ids=hex)
def test_a_first_tail_at_the_end_of_the_range(hostile: RawChannel, tail: int) -> None:
    """Behind 0, by less than a ring or more: no way round."""
    hostile.put_place(raw.REQUEST_TAIL, tail)
    hostile.ring()
    assert is_ended(hostile)


@pytest.mark.parametrize("back", [1, 4096, 4097, 8192, 3 * 4096], ids=str)
def test_a_tail_far_behind(hostile: RawChannel, back: int) -> None:
    """Whole rings behind what was read are no rest of a ring."""
    for _ in range(3):
        assert answers(hostile, b"mn\r\n" * 1024, b"MN\r\n" * 1024)
    hostile.put_place(raw.REQUEST_TAIL, 3 * 4096 - back)
    hostile.ring()
    assert is_ended(hostile)


def test_a_ring_that_is_full_to_the_last_byte(hostile: RawChannel) -> None:
    assert answers(hostile, b"mn\r\n", b"MN\r\n")
    assert answers(hostile, b"mn\r\n" * 1024, b"MN\r\n" * 1024)


def test_a_head_behind_the_beginning(hostile: RawChannel) -> None:
    """The difference counts, across the end of the range as well: a little behind leaves less room, a ring behind none."""
    assert answers(hostile, b"mn\r\n", b"MN\r\n")
    hostile.put_place(raw.REPLY_HEAD, 2**64 - 8)
    hostile.put_request(b"mn\r\n")
    hostile.ring()
    until(lambda: hostile.place(raw.REPLY_TAIL) == 8, "a reply where there is room", every_s=0.001)
    hostile.put_place(raw.REPLY_HEAD, 8 - 4096)
    hostile.put_request(b"mn\r\n")
    hostile.ring()
    until(lambda: hostile.word(raw.SERVER_WAITS) == raw.WAITS_ROOM, "the worker to sleep for room", every_s=0.001)
    assert hostile.place(raw.REPLY_TAIL) == 8
    hostile.put_place(raw.REPLY_HEAD, 8)
    hostile.ring()
    until(lambda: hostile.place(raw.REPLY_TAIL) == 12, "the reply that waited", every_s=0.001)


def test_what_the_server_wrote_is_never_read_back(hostile: RawChannel) -> None:
    """Its own places and what was agreed on are where no client can write."""
    for value in (0, 1, 2**31, 2**64 - 1):
        for at in (*HEADER, raw.REQUEST_HEAD, raw.REPLY_TAIL):
            hostile.put_place(at, value)
        hostile.put_word(raw.SERVER_CLOSED, 1)
        before = hostile.place(raw.REPLY_HEAD)
        hostile.put_request(b"mn\r\n")
        hostile.ring()
        until(lambda before=before: hostile.place(raw.REPLY_TAIL) == before + 4, "its reply")  # type: ignore[misc]
        assert hostile.take_reply() == b"MN\r\n"


@contextlib.contextmanager
def beside(act: Callable[[], None]) -> Iterator[None]:
    """Another process, which does that all the time: a thread would let go of the interpreter's lock every 5 ms."""
    pid = os.fork()
    if pid == 0:
        try:
            die_with_parent(signal.SIGKILL)
            while True:
                act()
        finally:
            os._exit(1)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGKILL)
        _, status = os.waitpid(pid, 0)
    assert os.WIFSIGNALED(status)  # not: failed


def test_wishes_to_be_woken_that_change_all_the_time(neighbour: Neighbour, hostile: RawChannel) -> None:
    chance = random.Random(1)

    def flip() -> None:
        hostile.put_word(raw.CLIENT_WAITS, chance.choice((0, 1, 2, 3, 2**32 - 1)))
        hostile.put_word(raw.SERVER_WAITS, chance.choice((0, 1, 2, 3, 2**32 - 1)))

    with beside(flip):
        for number in range(ROUNDS):
            assert answers(hostile, b"ms k 4\r\n%04d\r\n" % number, b"HD\r\n")
            assert number % 20 or neighbour.is_served()


def test_a_request_that_changes_while_it_is_read(neighbour: Neighbour, hostile: RawChannel) -> None:
    """Whatever the server copied is what it goes by. Each content by itself has replies of one kind, so both in one ring show that it
    changed meanwhile, as it does all the time but for its last request. Neither content ends amid a request, wherever the other's begins.
    """
    contents = [b"mn\r\n" * 1020, b"ms k 6\r\nabcdef\r\n" * 255]
    changing = slice(raw.DATA_AT, raw.DATA_AT + 4080)
    hostile.memory[raw.DATA_AT : raw.DATA_AT + 4096] = contents[0] + b"mg zzzzzzzzz v\r\n"

    def change() -> None:
        for content in contents:
            hostile.memory[changing] = content

    def is_mixed() -> bool:
        hostile.put_place(raw.REQUEST_TAIL, hostile.place(raw.REQUEST_TAIL) + 4096)
        hostile.ring()
        replies = b""

        def is_answered() -> bool:
            nonlocal replies
            replies += hostile.take_reply()
            return replies.endswith(b"EN\r\n")

        until(is_answered, "its last reply", every_s=0.0001)
        return b"MN\r\n" in replies and b"HD\r\n" in replies

    with beside(change):
        for number in range(50):
            until(is_mixed, "a change amid the reading", every_s=0.0)
            assert number % 10 or neighbour.is_served()
    assert answers(hostile, b"mg k s\r\n", b"HD s6\r\n")


# Descriptors


def test_a_bell_that_is_rung_without_end(neighbour: Neighbour, hostile: RawChannel) -> None:
    end = threading.Event()

    def ring() -> None:
        while not end.is_set():
            with contextlib.suppress(BlockingIOError):
                hostile.ring()

    ringing = threading.Thread(target=ring)
    ringing.start()
    try:
        assert all(neighbour.is_served() for _ in range(50))
    finally:
        end.set()
        ringing.join()


def test_a_bell_that_is_full_or_made_to_wait(neighbour: Neighbour, hostile: RawChannel) -> None:
    """The worker never reads it, nor writes there."""
    fcntl.fcntl(hostile.bell_fd, fcntl.F_SETFL, 0)
    assert neighbour.is_served()
    hostile.ring()
    assert os.eventfd_read(hostile.bell_fd) >= 1
    fcntl.fcntl(hostile.bell_fd, fcntl.F_SETFL, os.O_NONBLOCK)
    os.eventfd_write(hostile.bell_fd, 2**64 - 2)
    with pytest.raises(BlockingIOError):
        hostile.ring()
    assert neighbour.is_served()
    os.eventfd_read(hostile.bell_fd)
    assert answers(hostile, b"mn\r\n", b"MN\r\n")


def test_a_bell_that_is_rung_after_the_end(neighbour: Neighbour) -> None:
    """The client still holds it, the worker no longer listens to it."""
    channels = [RawChannel(neighbour.daemon) for _ in range(20)]
    for channel in channels:
        channel.put_place(raw.REQUEST_TAIL, 2**40)
        channel.ring()
        assert is_ended(channel)
    for _ in range(3):
        for channel in channels:
            channel.ring()
        assert neighbour.is_served()
    for channel in channels:
        channel.close()


def test_bytes_on_the_socket_are_nobodys(neighbour: Neighbour, hostile: RawChannel) -> None:
    hostile.sock.sendall(b"flush_all\r\n" * 100)
    assert neighbour.is_served()
    assert answers(hostile, b"mn\r\n", b"MN\r\n")
    hostile.sock.setblocking(False)
    with pytest.raises(BlockingIOError):
        hostile.sock.recv(1)
    with pytest.raises(BlockingIOError):
        while True:
            hostile.sock.send(b"x" * 65536)
    assert neighbour.is_served()
    assert answers(hostile, b"mn\r\n", b"MN\r\n")


@pytest.mark.parametrize("how", [socket.SHUT_WR, socket.SHUT_RDWR])
def test_half_a_socket_is_none(hostile: RawChannel, how: int) -> None:
    hostile.sock.shutdown(how)
    assert is_ended(hostile)


def test_memory_that_is_taken_away(neighbour: Neighbour, hostile: RawChannel) -> None:
    """It cannot be made shorter; with a hole it is full of zeros."""
    assert answers(hostile, b"mn\r\n", b"MN\r\n")
    libc = ctypes.CDLL(None, use_errno=True)
    libc.fallocate.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_long, ctypes.c_long]
    for _ in range(ROUNDS):
        assert libc.fallocate(hostile.memory_fd, PUNCH_HOLE, 0, len(hostile.memory)) == 0
        hostile.ring()
    assert neighbour.is_served()


# Anything

ODD = st.sampled_from([0, 1, 2, 3, 4, 4095, 4096, 4097, 8192, 2**31, 2**32 - 1, 2**32, 2**63, 2**64 - 4096, 2**64 - 1]) | st.integers(
    0, 2**64 - 1
)
REQUESTS = st.sampled_from(
    [b"mn\r\n", b"get k\r\n", b"set k 0 0 3\r\nabc\r\n", b"set k 0 0 9000\r\n", b"channel\r\n", b"watch\r\n", b"quit\r\n"]
)
ACTIONS = st.lists(
    st.tuples(st.just("place"), st.sampled_from((*PLACES, *HEADER)), ODD)
    | st.tuples(st.just("move"), st.sampled_from(PLACES), st.integers(-5000, 5000))
    | st.tuples(st.just("word"), st.sampled_from(WORDS), st.integers(0, 2**32 - 1) | st.integers(0, 3))
    | st.tuples(st.just("request"), st.just(0), REQUESTS | st.binary(max_size=200))
    | st.tuples(st.just("fill"), st.integers(0, raw.DATA_AT + 4096), st.binary(min_size=1, max_size=3000))
    | st.tuples(st.just("take"), st.just(0), st.just(0))
    | st.tuples(st.just("ring"), st.just(0), st.just(0)),
    max_size=30,
)


def act(channel: RawChannel, kind: str, at: int, what: int | bytes) -> None:
    if isinstance(what, bytes):
        if kind == "request":
            channel.put_request(what)
        else:
            channel.memory[at : at + len(what)] = what
    elif kind == "place":
        channel.put_place(at, what)
    elif kind == "move":
        channel.put_place(at, channel.place(at) + what)
    elif kind == "word":
        channel.put_word(at, what)
    elif kind == "take":
        channel.put_place(raw.REPLY_HEAD, channel.place(raw.REPLY_TAIL))
    else:
        with contextlib.suppress(BlockingIOError):
            channel.ring()


@settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(actions=ACTIONS)
def test_anything(neighbour: Neighbour, actions: list[tuple[str, int, int | bytes]]) -> None:
    with RawChannel(neighbour.daemon) as channel:
        for kind, at, what in actions:
            act(channel, kind, at, what)
        channel.ring()
        assert neighbour.is_served()
    until(lambda: neighbour.channels() == 1, "its channel to end", 1.0, 0.001)


def test_random_memory(neighbour: Neighbour) -> None:
    chance = random.Random(3)
    for _ in range(50):
        with RawChannel(neighbour.daemon) as channel:
            for _ in range(3):
                channel.memory[:] = chance.randbytes(len(channel.memory))
                channel.put_place(raw.REQUEST_TAIL, chance.choice((1, 4000, 4096, 4097)))
                channel.ring()
        assert neighbour.is_served()
