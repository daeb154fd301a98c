"""What the doors of a table cost on this machine: attached, channel, UNIX socket, TCP, measured in turns on a daemon of one's own.

A bare exchange (bytes out, bytes in, prebuilt) shows the door itself; the client object adds what Python takes, which is the same for all
but the attached table. Rounds are many and short, and a figure is the median of its rounds: a machine's noise comes and goes.
"""

from __future__ import annotations

import gc
import itertools
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol, TypeAlias

import memcache_shm
from memcache_shm.client.addresses import written
from memcache_shm.client.wire import Stream, connect
from memcache_shm.errors import RemoteError
from memcache_shm.ops.private_daemon import DOORS as WIRE_DOORS
from memcache_shm.ops.private_daemon import PrivateDaemon

DOORS = ("attached", *WIRE_DOORS)
NAMES = {"attached": "attached", "channel": "channel", "unix": "UNIX socket", "tcp": "TCP"}  # for people
ROUNDS = 7
TIMEOUT_S = 10.0
VALUE_MAX_BYTES = 1 << 20
_KEYS_MOST = 1000
_VALUES_BYTES = 16 << 20  # of all keys together, at most
_OPTIONS = "-m", "128", "-I", "2m"
_BATCH_BYTES = 1 << 15  # of replies to one batch of pipelined gets: half of a channel's ring
_BATCH_MOST = 500
_BATCHES = 16
_WARM_CALLS = 50
_MEASURES = ("get", "set", "pipelined", "client_get", "client_set")

Call: TypeAlias = Callable[[], object]


class Slice(NamedTuple):
    """One turn of a measure: how long each call took, how many operations there were in what time, and what they cost the server."""

    calls_ns: Sequence[int]
    operations: int
    took_ns: int
    cpu_ns: int


class Door(Protocol):
    """A way to the table. Each call is for the next key, and complete when it returns."""

    @property
    def calls(self) -> Mapping[str, Call]:
        """`get` and `set`: bare exchanges, a request and its reply; `client_get` and `client_set`: calls of the client object."""

    def pipelined(self) -> int:
        """Send one batch of gets and take in the replies to the batch before; how many gets that were."""

    def begin(self) -> None:
        """Send the first batch."""

    def end(self) -> None:
        """Take in the replies to the last one."""

    def cpu_ns(self) -> int | None:
        """CPU time so far of who serves it; None: nobody, a call is all there is."""

    def close(self) -> None:
        """Leave."""


class Wire:
    """A door that bytes go through, and a client object on another connection through it."""

    def __init__(self, daemon: PrivateDaemon, door: str, value: bytes) -> None:
        address = daemon.address(door)
        self._daemon = daemon
        self._client = memcache_shm.connect(written(address), timeout=TIMEOUT_S)
        self._stream: Stream = connect(address, TIMEOUT_S)
        keys = _keys(len(value))
        gets = [b"get %b\r\n" % key for key in keys]
        sets = [b"set %b 0 0 %d\r\n%b\r\n" % (key, len(value), value) for key in keys]
        size = len(b"VALUE %b 0 %d\r\n%b\r\nEND\r\n" % (keys[0], len(value), value))  # all keys have one length
        self._check(keys, size, value)
        self.calls: Mapping[str, Call] = {
            "get": map(self._exchange, itertools.cycle(gets), itertools.repeat(size)).__next__,
            "set": map(self._exchange, itertools.cycle(sets), itertools.repeat(len(b"STORED\r\n"))).__next__,
            "client_get": map(self._client.get, itertools.cycle(keys)).__next__,
            "client_set": map(self._client.set, itertools.cycle(keys), itertools.repeat(value)).__next__,
        }
        self._batch = max(1, min(_BATCH_MOST, _BATCH_BYTES // size))
        self._replies_bytes = self._batch * size
        each = itertools.cycle(gets)
        self._batches = itertools.cycle([b"".join(itertools.islice(each, self._batch)) for _ in range(_BATCHES)])

    def begin(self) -> None:
        self._stream.sendall(next(self._batches))

    def pipelined(self) -> int:
        self._stream.sendall(next(self._batches))
        self._take(self._replies_bytes)
        return self._batch

    def end(self) -> None:
        self._take(self._replies_bytes)

    def cpu_ns(self) -> int:
        return self._daemon.cpu_ns()

    def close(self) -> None:
        self._client.close()
        self._stream.close()

    def _exchange(self, request: bytes, reply_bytes: int) -> bytes:
        self._stream.sendall(request)
        return self._take(reply_bytes)

    def _take(self, size: int) -> bytes:
        received = self._stream.recv(size)
        if len(received) == size:
            return received
        pieces = [received]
        left = size - len(received)
        while received and left:
            received = self._stream.recv(left)
            pieces.append(received)
            left -= len(received)
        if left:
            raise RemoteError("the daemon closed the connection amid the measurement")
        return b"".join(pieces)

    def _check(self, keys: Sequence[bytes], size: int, value: bytes) -> None:
        """Only sizes are looked at later: see once that the replies are what they should be."""
        for key in keys:
            reply = self._exchange(b"get %b\r\n" % key, size)
            if reply != b"VALUE %b 0 %d\r\n%b\r\nEND\r\n" % (key, len(value), value):
                raise RemoteError(f"{self._daemon.name}: an unexpected reply, {reply[:60]!r}")


class Attached:
    """The table itself, mapped; there is nothing but the client object."""

    def __init__(self, name: str, value: bytes) -> None:
        self._cache = memcache_shm.attach(name)
        self._keys = itertools.cycle(_keys(len(value)))
        get: Call = map(self._cache.get, self._keys).__next__
        set_: Call = map(self._cache.set, self._keys, itertools.repeat(value)).__next__
        self.calls: Mapping[str, Call] = {"get": get, "set": set_, "client_get": get, "client_set": set_}

    def begin(self) -> None:
        """Nothing is ever on its way."""

    def end(self) -> None:
        """As for `begin`."""

    def pipelined(self) -> int:
        for key in itertools.islice(self._keys, _BATCH_MOST):
            self._cache.get(key)
        return _BATCH_MOST

    def cpu_ns(self) -> None:
        return None

    def close(self) -> None:
        self._cache.close()


@dataclass
class Figures:
    """Of one door; medians of rounds. Times in microseconds; `cpu` is CPU time of the server (attached: of the caller) an operation."""

    get_us: float
    get_p99_us: float
    set_us: float
    set_p99_us: float
    pipelined_a_s: float
    cpu_get_us: float
    cpu_pipelined_us: float
    client_get_us: float
    client_get_p99_us: float
    client_set_us: float
    client_set_p99_us: float


@dataclass
class _Rounds:
    """The slices of one door, by measure."""

    slices: dict[str, list[Slice]] = field(default_factory=lambda: {measure: [] for measure in _MEASURES})

    def figures(self) -> Figures:
        return Figures(
            get_us=self._quantile("get", 50),
            get_p99_us=self._quantile("get", 99),
            set_us=self._quantile("set", 50),
            set_p99_us=self._quantile("set", 99),
            pipelined_a_s=statistics.median(s.operations / s.took_ns * 1e9 for s in self.slices["pipelined"]),
            cpu_get_us=self._cpu_us("get"),
            cpu_pipelined_us=self._cpu_us("pipelined"),
            client_get_us=self._quantile("client_get", 50),
            client_get_p99_us=self._quantile("client_get", 99),
            client_set_us=self._quantile("client_set", 50),
            client_set_p99_us=self._quantile("client_set", 99),
        )

    def _quantile(self, measure: str, percent: int) -> float:
        return statistics.median(sorted(s.calls_ns)[len(s.calls_ns) * percent // 100] for s in self.slices[measure]) / 1000

    def _cpu_us(self, measure: str) -> float:
        return statistics.median(s.cpu_ns / s.operations for s in self.slices[measure]) / 1000


def measure(doors: Sequence[str], workers: int, value_bytes: int, seconds: float, say: Callable[[str], None]) -> dict[str, Figures]:
    """The figures of each of `doors`, in about `seconds` altogether; `say` is told what is done. MemcacheError, OSError."""
    value = b"v" * value_bytes
    say("starting a daemon")
    with PrivateDaemon(_OPTIONS, workers) as daemon, memcache_shm.attach(daemon.name) as cache:
        for key in _keys(value_bytes):
            cache.set(key, value)
        opened: dict[str, Door] = {}
        try:
            for door in doors:
                opened[door] = Attached(daemon.name, value) if door == "attached" else Wire(daemon, door, value)
            return _measure(opened, seconds, say)
        finally:
            for each in opened.values():
                each.close()


def _measure(doors: dict[str, Door], seconds: float, say: Callable[[str], None]) -> dict[str, Figures]:
    rounds = {door: _Rounds() for door in doors}
    slice_ns = int(seconds / ROUNDS / len(doors) / len(_MEASURES) * 1e9)
    clock_ns = _clock_ns()
    gc.collect()
    gc.disable()
    try:
        for number, (name, door) in itertools.product(range(1, ROUNDS + 1), doors.items()):
            say(f"{name}, round {number} of {ROUNDS}")
            for which in _MEASURES:
                found = _pipelined(door, slice_ns) if which == "pipelined" else _calls(door, door.calls[which], slice_ns, clock_ns)
                rounds[name].slices[which].append(found)
    finally:
        gc.enable()
    return {name: each.figures() for name, each in rounds.items()}


def _calls(door: Door, call: Call, slice_ns: int, clock_ns: int) -> Slice:
    clock = time.perf_counter_ns
    for _ in range(_WARM_CALLS):
        call()
    samples: list[int] = []
    cpu_ns = door.cpu_ns()
    first = before = clock()
    while before - first < slice_ns or not samples:
        call()
        after = clock()
        samples.append(max(0, after - before - clock_ns))
        before = clock()
    return Slice(samples, len(samples), before - first, _cpu_since(door, cpu_ns, sum(samples)))


def _pipelined(door: Door, slice_ns: int) -> Slice:
    clock = time.perf_counter_ns
    door.begin()
    door.pipelined()
    operations = 0
    cpu_ns = door.cpu_ns()
    first = now = clock()
    while now - first < slice_ns or not operations:
        operations += door.pipelined()
        now = clock()
    spent_ns = _cpu_since(door, cpu_ns, now - first)
    door.end()
    return Slice((), operations, now - first, spent_ns)


def _cpu_since(door: Door, before_ns: int | None, calls_ns: int) -> int:
    """CPU time of the server since `before_ns`; without one it is the caller's, which never waits."""
    now_ns = door.cpu_ns()
    return calls_ns if now_ns is None or before_ns is None else now_ns - before_ns


def _clock_ns() -> int:
    """What it takes to look at the clock, which is within every sample."""
    readings = [time.perf_counter_ns() for _ in range(1000)]
    return int(statistics.median(after - before for before, after in itertools.pairwise(readings)))


def _keys(value_bytes: int) -> list[bytes]:
    return [b"bench:%06d" % number for number in range(max(1, min(_KEYS_MOST, _VALUES_BYTES // value_bytes)))]
