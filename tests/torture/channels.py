"""Killing either side of a channel after every single instruction of what it pushes and pulls, while the other one lives.

    python -m torture.channels              every kill point
    python -m torture.channels --sample 12  some of them

A client is a fork of this process, which made the channel: it is stopped where wanted (tracer.py), killed, and its socket closed.
A worker is a real one: it is taken hold of in its sleep, given requests, and killed.

Whatever the moment: the side that lives gets data, the end or an error within a second, and what was sent comes whole up to some place.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from support.client import Client
from support.isolation import sleeps
from support.servers import Daemon
from support.waiting import until
from torture.stage import own_surroundings
from torture.tracer import Trace, Tracer, code_of

from memcache_shm.client.channel import Channel

RING_BYTES = 4096
SOON_S = 1.0  # the other side never hangs for longer
START_S = 20.0  # a worker may have to be started first
VALUE = b"v" * 3000
CLIENT_CODE = ("/client/channel.", "/storage/rings.")
WORKER_CODE = ("/server/channels.", "/storage/rings.")
MOST_STEPS = 400_000
WORKERS = 2  # of a daemon that are killed: it takes its time to replace any more that die young
NO_WORDS = ctypes.create_string_buffer(8)  # nothing of the memory is compared: the other side changes it, too


def connect(daemon: Daemon) -> Channel:
    channel = Channel(daemon.unix_path, START_S, request_bytes=RING_BYTES, reply_bytes=RING_BYTES)
    channel.settimeout(SOON_S)
    return channel


def read(channel: Channel, size: int) -> bytes:
    got = b""
    while len(got) < size and (piece := channel.recv(size - len(got))):
        got += piece
    return got


def spread(points: Sequence[int], count: int) -> list[int]:
    """At most `count` of them, evenly, the first and the last among them; 0: all."""
    if not count or len(points) <= count:
        return list(points)
    return [points[i * (len(points) - 1) // (count - 1)] for i in range(count)]


# A client


@dataclass(frozen=True)
class Call:
    """What a client is killed in."""

    name: str
    prepare: Callable[[Channel], object]
    call: Callable[[Channel], object]


def store(number: int) -> bytes:
    return b"set k%d 0 0 %d noreply\r\n%b\r\n" % (number, len(VALUE), VALUE)


def leave_a_reply(channel: Channel) -> None:
    """Both came at once, so that the second is there."""
    channel.sendall(b"mn\r\nmn\r\n")
    assert read(channel, 4) == b"MN\r\n"


CALLS = (
    Call("a push", lambda channel: None, lambda channel: channel.sendall(store(0))),
    Call("pushes of more than the ring", lambda channel: None, lambda channel: channel.sendall(b"".join(map(store, range(4))))),
    Call("a pull", leave_a_reply, lambda channel: channel.recv(100)),
    Call("requests whose replies do not fit", lambda channel: None, lambda channel: channel.sendall(b"mn\r\n" * 3000)),
)


class Beside:
    """Another client of the daemon, who sees what came of it."""

    def __init__(self, daemon: Daemon) -> None:
        self.daemon = daemon
        self.client = Client(daemon, timeout_s=SOON_S)
        self.workers = daemon.workers

    def check(self) -> None:
        """AssertionError unless the channel is gone, the worker lives, and what was stored is a beginning of what was sent."""
        until(lambda: self.client.stats(b"shm")["shm_channels"] == "0", "the dead client's channel to be gone", SOON_S, 0.001)
        assert self.daemon.workers == self.workers
        values = [self.client.get(b"k%d" % number) for number in range(4)]
        stored = sum(value is not None for value in values)
        assert values == [VALUE] * stored + [None] * (4 - stored)
        assert self.client.ask(b"flush_all") == b"OK"


def kill_clients(daemon: Daemon, call: Call, count: int = 0) -> int:
    """Kill one at each of `count` points of a call, 0: all; how many points there were."""
    tracer = Tracer("/memcache_shm/", ctypes.addressof(NO_WORDS), len(NO_WORDS))
    beside = Beside(daemon)

    def one(act: Callable[[Callable[[], object]], Trace | bool]) -> Trace | bool:
        until(lambda: all(map(sleeps, daemon.workers)), "the worker to sleep", every_s=0.0)
        with connect(daemon) as channel:
            call.prepare(channel)
            result = act(lambda: call.call(channel))
        beside.check()
        return result

    trace = one(tracer.trace)
    assert isinstance(trace, Trace)
    assert trace.status == 0, f"{call.name}: the call raised an exception"
    trace.plan()
    ranges = code_of(*CLIENT_CODE)
    points = [k for k, rip in enumerate(trace.rips) if any(start <= rip < end for start, end in ranges)]
    chosen = spread(points, count)
    for k in chosen:
        try:
            one(lambda act, k=k: tracer.kill_at(trace, k, act))  # type: ignore[misc]
        except Exception as error:
            raise AssertionError(f"{call.name}: a client was killed at {k} of {len(trace.rips)}: {error}") from error
    return len(chosen)


# A worker


@dataclass(frozen=True)
class Turn:
    """What a worker is killed in: the client's actions, each followed by what the worker does until it sleeps, and all it replies."""

    name: str
    actions: tuple[Callable[[Channel], bytes | None], ...]
    replies: bytes


def sends(data: bytes) -> Callable[[Channel], None]:
    return lambda channel: channel.sendall(data)


LARGE = b"VALUE large 0 6000\r\n" + b"v" * 6000 + b"\r\nEND\r\n"
TURNS = (
    Turn("a pull and a push", (sends(b"mn\r\n" * 3),), b"MN\r\n" * 3),
    Turn("a reply of more than the ring", (sends(b"get large\r\n"), lambda channel: read(channel, RING_BYTES)), LARGE),
    Turn("a request in pieces", (sends(b"get "), sends(b"large\r\n"), lambda channel: read(channel, RING_BYTES)), LARGE),
)


class Victim:
    """A worker in its sleep, and a client that has a channel to it. It may be the one in a dead one's place."""

    def __init__(self, daemon: Daemon) -> None:
        self.channel = connect(daemon)
        (self.pid,) = daemon.workers
        self.channel.sendall(b"mn\r\n")
        assert read(self.channel, 4) == b"MN\r\n"
        until(lambda: sleeps(self.pid), "it to sleep", every_s=0.0)

    def walk(self, tracer: Tracer, turn: Turn, upto: int) -> tuple[list[int], bytes]:
        """Let it do so many instructions of the turn, or all; where they were, and what the client has read by then."""
        rips, got = (ctypes.c_uint64 * MOST_STEPS)(), b""
        done: list[int] = []
        assert tracer.helper.attach(self.pid) > 0
        for action in turn.actions:
            if len(done) == upto:
                break
            got += action(self.channel) or b""
            n = tracer.helper.walk(self.pid, min(upto - len(done), MOST_STEPS), rips)
            assert n >= 0, "the worker ended by itself"
            done += rips[:n]
        return done, got

    def kill(self, tracer: Tracer, turn: Turn, got: bytes) -> None:
        """AssertionError unless its client reads a beginning of the replies, and then hears of its death, at once."""
        assert tracer.helper.destroy(self.pid) == 0
        with self.channel:
            try:
                while piece := self.channel.recv(5000):
                    got += piece
            except ConnectionResetError:
                assert turn.replies.startswith(got), got
                return
        raise AssertionError("its client was told of an end in order")


def kill_workers(turn: Turn, count: int = 0) -> int:
    """Kill one at each of `count` points of a turn, 0: all; how many points there were."""
    tracer = Tracer("/memcache_shm/", ctypes.addressof(NO_WORDS), len(NO_WORDS))
    with a_daemon() as daemon:
        victim = Victim(daemon)
        ranges = code_of(*WORKER_CODE, pid=victim.pid)
        rips, got = victim.walk(tracer, turn, MOST_STEPS)
        victim.kill(tracer, turn, got)
    points = [k for k, rip in enumerate(rips) if any(start <= rip < end for start, end in ranges)]
    assert points, "the worker did nothing with its channel"
    chosen = spread(points, count)
    for first in range(0, len(chosen), WORKERS):
        with a_daemon() as daemon:
            for k in chosen[first : first + WORKERS]:
                try:
                    victim = Victim(daemon)
                    victim.kill(tracer, turn, victim.walk(tracer, turn, k)[1])
                except Exception as error:
                    raise AssertionError(f"{turn.name}: a worker was killed at {k} of {len(rips)}: {error}") from error
    return len(chosen)


@contextlib.contextmanager
def a_daemon() -> Iterator[Daemon]:
    """Of one worker at a time, with a large item."""
    with Daemon("-m", "2") as daemon:
        with Client(daemon) as client:
            assert client.set(b"large", b"v" * 6000) == b"STORED"
        yield daemon


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="torture.channels", description="Kill either side of a channel after every instruction.")
    parser.add_argument("--sample", type=int, default=0, metavar="N", help="N kill points of each instead of all")
    options = parser.parse_args(arguments)
    with Daemon("-m", "16") as daemon:
        for call in CALLS:
            print(f"a client in {call.name}: killed at {kill_clients(daemon, call, options.sample)} points", flush=True)
        for turn in TURNS:
            print(f"a worker in {turn.name}: killed at {kill_workers(turn, options.sample)} points", flush=True)
    return 0


if __name__ == "__main__":
    with own_surroundings():
        sys.exit(main())
