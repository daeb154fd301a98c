"""Playing one sequence of steps to a server, and finding the shortest one that two servers answer differently."""

from __future__ import annotations

import base64
import contextlib
import itertools
import random
import re
import select
import socket
from collections.abc import Iterator, Sequence
from typing import NamedTuple, Protocol

from differential.meta_commands import BINARY_KEYS
from differential.sequences import BAD_KEYS, CONNECTIONS, KEYS, Step

MAX_BATCH = 12
SHRINK_RUNS = 300
SILENCE_S = 10.0
_PLACE = re.compile(rb"\{cas:([^}]*)\}")
_RETRIEVES = re.compile(rb"\b(?:get|gets|gat|gats|mg) ")
_COUNTS = (b"incr", b"decr", b"ma")
_FIGURE = re.compile(rb"([ctl])(-?\d+)")


class Reference(Protocol):
    """A server under test."""

    def connect(self, door: str = "tcp") -> socket.socket: ...


class Player:
    """Two connections to one server; replies come back with CAS ids replaced by their order of appearance."""

    def __init__(self, server: Reference, door: str = "tcp") -> None:
        self.server = server
        self.door = door
        self.sockets: list[socket.socket | None] = [None] * CONNECTIONS
        self.ids: dict[bytes, int] = {}
        self.last_id: dict[bytes, bytes] = {}
        self.marks = itertools.count(1)

    def play(self, batches: Sequence[Sequence[Step]]) -> list[bytes]:
        """The reply to each batch, from an empty table on. The steps of a batch are sent at once, on the first one's connection."""
        self.ids.clear()
        self.last_id.clear()
        self.exchange(0, b"flush_all\r\n" + b"".join(b"delete %s\r\n" % key for key in KEYS))
        self.exchange(0, b"".join(b"md %s b\r\n" % base64.b64encode(key) for key in BINARY_KEYS))
        replies = []
        for batch in batches:
            commands = b"".join(_PLACE.sub(lambda match: self.last_id.get(match[1], b"0"), step.command) for step in batch)
            replies.append(self.normalise(self.exchange(batch[0].connection, commands)))
        return replies

    def exchange(self, connection: int, commands: bytes) -> bytes:
        """Send, and read what comes before the answer to a mark of our own; a server that closes ends the reply, too."""
        mark = b"mark-%09d" % next(self.marks)
        end = b"STORED\r\nVALUE mark 0 14\r\n%s\r\nEND\r\n" % mark
        sock = self.sockets[connection]
        if sock is None:
            sock = self.sockets[connection] = self.server.connect(self.door)
        got = bytearray()
        try:
            how_it_ended = self.converse(sock, commands + b"set mark 0 0 14\r\n%s\r\nget mark\r\n" % mark, end, got)
        except ConnectionError:
            how_it_ended = b"<closed>"
        if how_it_ended:
            self.drop(connection)
            return bytes(got) + how_it_ended
        return bytes(got[: -len(end)])

    def converse(self, sock: socket.socket, data: bytes, end: bytes, got: bytearray) -> bytes:
        """Send, and read into `got` up to the end; what to say when that does not come."""
        unsent = memoryview(data)
        while unsent or not got.endswith(end):
            readable, writable, _ = select.select([sock], [sock] if unsent else [], [], SILENCE_S)
            chunk = sock.recv(1 << 20) if readable else b""
            if not chunk and not writable:
                return b"<closed>" if readable else b"<silence>"
            if writable:
                unsent = unsent[sock.send(unsent, socket.MSG_DONTWAIT) :]
            got += chunk
        return b""

    def drop(self, connection: int) -> None:
        sock = self.sockets[connection]
        if sock is not None:
            sock.close()
        self.sockets[connection] = None

    def close(self) -> None:
        for connection in range(CONNECTIONS):
            self.drop(connection)

    def normalise(self, reply: bytes) -> bytes:
        return b"".join(self.lines_with_ranks(reply))

    def lines_with_ranks(self, reply: bytes) -> Iterator[bytes]:
        """The reply's lines; data blocks untouched."""
        at = 0
        while at < len(reply):
            end = reply.find(b"\n", at) + 1 or len(reply)
            words = reply[at:end].split()
            if words and words[0] == b"VALUE" and len(words) in (4, 5) and words[3].isdigit():
                data_end = end + int(words[3]) + 2
                if len(words) == 5:
                    self.last_id[words[1]] = words[4]
                    words[4] = b"cas-%d" % self.ids.setdefault(words[4], len(self.ids) + 1)
                yield b" ".join(words) + b"\r\n" + reply[end:data_end]
                at = data_end
            elif words and words[0] in (b"VA", b"HD", b"EX", b"NS", b"NF"):
                data_end = end + int(words[1]) + 2 if words[0] == b"VA" else end
                yield b" ".join(self.figures(words)) + b"\r\n" + reply[end:data_end]
                at = data_end
            else:
                yield reply[at:end]
                at = end

    def figures(self, words: list[bytes]) -> Iterator[bytes]:
        """The words of a meta reply: CAS ids by rank, times without the seconds that pass meanwhile."""
        key = next((word[1:] for word in words[1:] if word[:1] == b"k"), b"")
        for word in words:
            match = _FIGURE.fullmatch(word)
            if match is None or word == b"c0":
                yield word
            elif match[1] == b"c":
                if key:
                    self.last_id[key] = match[2]
                yield b"c-%d" % self.ids.setdefault(match[2], len(self.ids) + 1)
            else:
                yield match[1] + (b"" if match[1] == b"l" else _round(int(match[2])))


class ChannelPlayer(Player):
    """Over a channel, which takes replies in while it sends."""

    def converse(self, sock: socket.socket, data: bytes, end: bytes, got: bytearray) -> bytes:
        with contextlib.suppress(BrokenPipeError):  # the server closed early; what it said before counts
            sock.sendall(data)
        while not got.endswith(end):
            chunk = sock.recv(1 << 20)
            if not chunk:
                return b"<closed>"
            got += chunk
        return b""


def _round(seconds: int) -> bytes:
    """A time left, in hundreds of seconds. memcached tells that of an item that has expired as one below 2^32."""
    return b"-1" if seconds < 0 else b"%d" % ((seconds + 40) // 100 if seconds < 4_000_000_000 else 0)


def batches_of(steps: Sequence[Step], seed: int) -> list[list[Step]]:
    """Cut into pipelines of random length, and wherever memcached's answer would depend on the pipeline."""
    chance = random.Random(seed)
    batches: list[list[Step]] = []
    room = 0
    for step in steps:
        if room == 0 or not goes_with(batches[-1], step):
            batches.append([])
            room = chance.choice([1, 1, 1, 2, 5, MAX_BATCH])
        batches[-1].append(step)
        room -= 1
    return batches


def goes_with(batch: list[Step], step: Step) -> bool:
    """Whether memcached 1.6.18 answers both independently. Not so:

    - a retrieval of a key that is too long: it forgets the replies of the pipeline that it has not sent yet;
    - incr, decr and ma of an item that waits in a reply: it makes a new item of just the right length then, instead of padding the old.
    """
    if any(bad in step.command for bad in BAD_KEYS):
        return False
    return step.verb not in _COUNTS or not any(_RETRIEVES.search(other.command) for other in batch)


def singly(batches: Sequence[Sequence[Step]]) -> list[list[Step]]:
    return [[step] for batch in batches for step in batch]


class Difference(NamedTuple):
    """The first batch that the two answer differently."""

    number: int
    one: bytes
    other: bytes


def first_difference(one: Player, other: Player, batches: Sequence[Sequence[Step]]) -> Difference | None:
    for number, (here, there) in enumerate(zip(one.play(batches), other.play(batches), strict=True)):
        if here != there:
            return Difference(number, here, there)
    return None


def without(batches: list[list[Step]], at: int, width: int) -> list[list[Step]]:
    """The batches without the steps `at` to `at + width`, counted through; empty batches go."""
    numbered = enumerate((number, step) for number, batch in enumerate(batches) for step in batch)
    left = [pair for position, pair in numbered if not at <= position < at + width]
    return [[step for _, step in group] for _, group in itertools.groupby(left, key=lambda pair: pair[0])]


def shrink(one: Player, other: Player, batches: list[list[Step]]) -> list[list[Step]]:
    """Fewer steps that still show a difference, one at a time if that shows it, too."""
    if first_difference(one, other, singly(batches)) is not None:
        batches = singly(batches)
    where = first_difference(one, other, batches)
    batches = batches if where is None else batches[: where.number + 1]
    runs, width = 0, sum(map(len, batches)) // 2
    while width and runs < SHRINK_RUNS:
        at = 0
        while at < sum(map(len, batches)) and runs < SHRINK_RUNS:
            shorter = without(batches, at, width)
            runs += 1
            if shorter and first_difference(one, other, shorter) is not None:
                batches = shorter
            else:
                at += width
        width //= 2
    return batches


def report(one: Player, other: Player, batches: list[list[Step]]) -> str:
    """Both terminal sessions side by side, long data shortened."""
    lines = []
    for batch, here, there in zip(batches, one.play(batches), other.play(batches), strict=True):
        lines += [f"  [{batch[0].connection}] > {short(step.command)}" for step in batch]
        lines += [f"      both  {short(here)}"] if here == there else [f"      one   {short(here)}", f"      other {short(there)}"]
    return "\n".join(lines[-60:])


def short(data: bytes) -> str:
    return repr(data) if len(data) <= 300 else f"{data[:200]!r}...{data[-60:]!r} ({len(data)} bytes)"
