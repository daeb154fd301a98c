"""What rages in a storm: values that tell whether they are whole, and child processes that write and read them until they are killed.

A value names its key, has a counter and letters up to a length of its own, and a CRC over all of it. Each attacker has a key that nobody
else writes. It notes that key's counter in memory shared with the test after the store is acknowledged, so that it outlives the attacker.
"""

from __future__ import annotations

import mmap
import random
import socket
import time
import zlib
from collections.abc import Callable
from pathlib import Path

import memcache_shm

SHARED = 30  # keys that all write
LARGEST = 3000
WAVES = [
    [f"w{number}" for number in range(first, first + 50)] for first in range(0, 1000, 50)
]  # they come and go: the index splits and merges
TURNS = 500  # in one direction
DOORS = ("tcp", "unix")
SOCKET_TIMEOUT_S = 10.0
RETRY_S = 0.005
WRITE_LIMIT_S = 1.0  # of any write while nobody is stopped


class Ended(ConnectionError):
    """The stream ended, wherever in a reply that was: the other side was killed."""


def make_value(key: str, counter: int, size_bytes: int) -> bytes:
    body = b"%b %d " % (key.encode(), counter) + b"y" * size_bytes
    return body + b" %d" % zlib.crc32(body)


def read_counter(key: str, value: bytes) -> int:
    """The counter of a whole value that was stored under this key; AssertionError when it is torn or foreign."""
    body, _, crc = value.rpartition(b" ")
    assert crc == b"%d" % zlib.crc32(body), f"torn: {key} has {len(value)} bytes, {value[:40]!r}"
    name, counter, _ = body.split(b" ", 2)
    assert name == key.encode(), f"foreign: {key} has {value[:40]!r}"
    return int(counter)


class Board:
    """What outlives a killed process: the acknowledged counter of each attacker's own key, and where the daemon is.

    One process writes a cell, by one aligned store.
    """

    def __init__(self, unix_path: Path) -> None:
        self.unix_path = unix_path
        self.cells = memoryview(mmap.mmap(-1, mmap.PAGESIZE)).cast("Q")
        self.acknowledged = self.cells[1:]

    @property
    def port(self) -> int:
        return self.cells[0]

    @port.setter
    def port(self, port: int) -> None:
        self.cells[0] = port

    def connect(self, door: str) -> socket.socket:
        """A connection to the daemon there is; ConnectionError or FileNotFoundError while there is none."""
        address = self.unix_path if door == "unix" else ("127.0.0.1", self.port)
        sock = socket.socket(socket.AF_UNIX if door == "unix" else socket.AF_INET)
        sock.settimeout(SOCKET_TIMEOUT_S)
        try:
            sock.connect(str(address) if door == "unix" else address)
            if sock.getsockname() == sock.getpeername():
                raise Ended("TCP lets a connection meet itself on a port whose listener is gone")
        except OSError:
            sock.close()
            raise
        return sock

    def check(self, place: int, get: Callable[[str], bytes | None]) -> None:
        """The value of a place's own key is the acknowledged one, or the one that its writer was storing when it was seen last."""
        key, least = own_key(place), self.acknowledged[place]
        value = get(key)
        if value is None:
            assert not least, f"{key} is lost; {least} was acknowledged"
            return
        counter = read_counter(key, value)
        assert least <= counter <= self.acknowledged[place] + 1, f"{key} went back: {counter} is stored, {least} was acknowledged before"


def own_key(place: int) -> str:
    return f"own{place}"


class Attached:
    """The turns of a program that has the table attached."""

    def __init__(self, place: int, seed: int, board: Board, may_wait: bool) -> None:
        self.place = place
        self.board = board
        self.may_wait = may_wait  # somebody is stopped now and then
        self.chance = random.Random(seed)
        self.cache = memcache_shm.attach("app")
        self.turns = 0
        board.check(place, self.cache.get)  # what the one before stored is there

    def turn(self) -> None:
        began = time.monotonic()
        try:
            self.write()
        except memcache_shm.BusyError:
            assert self.may_wait, "a writer was busy for a second"
        took_s = time.monotonic() - began
        assert self.may_wait or took_s < WRITE_LIMIT_S, f"a write took {took_s:.1f} s"
        key = f"k{self.chance.randrange(SHARED)}"
        value = self.cache.get(key)
        if value is not None:
            read_counter(key, value)

    def write(self) -> None:
        """Its own key, one that all write, or many small ones."""
        self.turns += 1
        if self.turns % 3 == 0:
            counter = self.board.acknowledged[self.place] + 1
            self.cache.set(own_key(self.place), make_value(own_key(self.place), counter, self.chance.randrange(LARGEST)))
            self.board.acknowledged[self.place] = counter
        elif self.turns % 3 == 1:
            key = f"k{self.chance.randrange(SHARED)}"
            if self.chance.random() < 0.1:
                self.cache.delete(key)
            else:
                self.cache.set(key, make_value(key, self.turns, self.chance.randrange(LARGEST)))
        elif self.board.acknowledged[0] // TURNS % 2:  # the same way for all
            self.cache.delete_many(self.chance.choice(WAVES))
        else:
            self.cache.set_many(dict.fromkeys(self.chance.choice(WAVES), b"x"))


class Stream:
    """A connection on which every byte of a reply must be the one that belongs there, up to where the stream ends."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self._file = self.sock.makefile("rb")

    def close(self) -> None:
        self._file.close()
        self.sock.close()

    def line(self) -> bytes:
        line = self._file.readline()
        if not line.endswith(b"\r\n"):
            raise Ended(line)
        return line[:-2]

    def read(self, size: int) -> bytes:
        data = self._file.read(size)
        if len(data) < size:
            raise Ended(data)
        return data

    def get(self, key: str) -> bytes | None:
        self.sock.sendall(b"get %b\r\n" % key.encode())
        head = self.line()
        if head == b"END":
            return None
        word, name, flags, size = head.split(b" ")
        assert (word, name, flags) == (b"VALUE", key.encode(), b"0"), head
        value = self.read(int(size) + 2)
        assert value.endswith(b"\r\n"), value
        assert self.line() == b"END"
        return value[:-2]

    def set(self, key: str, value: bytes) -> None:
        self.sock.sendall(b"set %b 0 0 %d\r\n%b\r\n" % (key.encode(), len(value), value))
        reply = self.line()
        assert reply == b"STORED", reply


class Talker:
    """The turns of a client that reads and writes over sockets, with whichever daemon there is."""

    def __init__(self, place: int, seed: int, board: Board, door: str) -> None:
        self.place = place
        self.board = board
        self.door = door
        self.chance = random.Random(seed)
        self.stream: Stream | None = None

    def turn(self) -> None:
        """An error of the connection means that this worker or this daemon was killed; everything else is wrong, no answer in time, too."""
        try:
            if self.stream is None:
                self.stream = Stream(self.board.connect(self.door))
                self.board.check(self.place, self.stream.get)
            else:
                self.talk(self.stream)
        except (ConnectionError, FileNotFoundError):
            if self.stream is not None:
                self.stream.close()
                self.stream = None
            time.sleep(RETRY_S)  # spares the machine while there is no daemon

    def talk(self, stream: Stream) -> None:
        key = f"k{self.chance.randrange(SHARED)}"
        value = stream.get(key)
        if value is not None:
            read_counter(key, value)
        counter = self.board.acknowledged[self.place] + 1
        self.set(stream, own_key(self.place), counter)
        self.board.acknowledged[self.place] = counter
        self.set(stream, key, counter)

    def set(self, stream: Stream, key: str, counter: int) -> None:
        began = time.monotonic()
        stream.set(key, make_value(key, counter, self.chance.randrange(LARGEST)))
        took_s = time.monotonic() - began
        assert took_s < WRITE_LIMIT_S, f"a write over {self.door} took {took_s:.1f} s"
