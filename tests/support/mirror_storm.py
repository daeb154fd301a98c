"""Four writers by four doors for tests of copies: what they write makes every kind of change, and any may be killed at any moment."""

from __future__ import annotations

import random
import socket
import time
from collections.abc import Callable

import memcache_shm
from support.servers import Daemon

KEYS = 400
LARGEST = 6000
CONNECT_S = 10.0
RETRY_S = 0.005
NO_EXPIRY = -1


class Writer:
    """One process's turns. `where` tells how to connect, as the daemon stays while its workers die."""

    def __init__(self, seed: int) -> None:
        self.chance = random.Random(seed)

    def key(self) -> str:
        return f"k{self.chance.randrange(KEYS)}"

    def value(self) -> bytes:
        return b"%d " % self.chance.randrange(10**9) * self.chance.randrange(LARGEST // 10)

    def expire_s(self) -> int:
        """Mostly never, or long after the test, or amid it."""
        return self.chance.choice([0, 0, 0, 1000, 2000, 50_000, 1, 2])

    def turn(self) -> None:
        raise NotImplementedError


class AttachedWriter(Writer):
    def __init__(self, seed: int, name: str) -> None:
        super().__init__(seed)
        self.cache = memcache_shm.attach(name)

    def turn(self) -> None:
        key, roll = self.key(), self.chance.random()
        if roll < 0.6:
            self.cache.set(key, self.value(), expire=self.expire_s(), flags=self.chance.randrange(100))
        elif roll < 0.7:
            self.cache.touch(key, self.expire_s())
        elif roll < 0.85:
            self.cache.delete(key)
        elif roll < 0.999:
            self.cache.append(key, b"+")
        else:
            self.cache.flush_all()


class SocketWriter(Writer):
    """Sends requests and reads the replies; a connection that breaks is made anew."""

    def __init__(self, seed: int, connect: Callable[[], socket.socket]) -> None:
        super().__init__(seed)
        self.connect = connect
        self.sock: socket.socket | None = None

    def turn(self) -> None:
        try:
            if self.sock is None:
                self.sock = self.connect()
                self.file = self.sock.makefile("rb")
            request, replies = self.request()
            self.sock.sendall(request)
            for _ in range(replies):
                line = self.file.readline()
                if not line.endswith(b"\n"):
                    raise ConnectionError("the worker was killed")
                # A lock may not come in time where the machine gives its owner no time.
                assert not line.startswith((b"ERROR", b"CLIENT_ERROR bad", b"ERR ")) or line == b"ERR BUSY\r\n", (request[:60], line)
        except ConnectionError:
            if self.sock is not None:
                self.file.close()
                self.sock.close()
            self.sock = None
            time.sleep(RETRY_S)  # spares the machine while the worker is made anew

    def request(self) -> tuple[bytes, int]:
        """A request and the lines of its reply."""
        raise NotImplementedError


class Classic(SocketWriter):
    def request(self) -> tuple[bytes, int]:
        key, value, roll = self.key().encode(), self.value(), self.chance.random()
        if roll < 0.6:
            return b"set %b %d %d %d\r\n%b\r\n" % (key, self.chance.randrange(100), self.expire_s(), len(value), value), 1
        if roll < 0.7:
            return b"touch %b %d\r\n" % (key, self.expire_s()), 1
        if roll < 0.8:
            return b"set %b 0 0 1\r\n1\r\nincr %b 41\r\n" % (key, key), 2
        return b"delete %b\r\n" % key, 1


class Meta(SocketWriter):
    def request(self) -> tuple[bytes, int]:
        key, value, roll = self.key().encode(), self.value(), self.chance.random()
        if roll < 0.5:
            return b"ms %b %d T%d F%d\r\n%b\r\n" % (key, len(value), self.expire_s(), self.chance.randrange(100), value), 1
        if roll < 0.6:
            return b"ms %b 3 E%d\r\nabc\r\n" % (key, self.chance.randrange(1, 2**60)), 1
        if roll < 0.7:
            return b"mg %b s T%d\r\n" % (key, self.expire_s()), 1
        if roll < 0.8:
            return b"ma %b N1000 J5 D2\r\n" % key, 1
        if roll < 0.9:
            return b"md %b I T%d\r\n" % (key, self.expire_s()), 1
        return b"md %b\r\n" % key, 1


class Simple(SocketWriter):
    def request(self) -> tuple[bytes, int]:
        key, value = self.key().encode(), self.value() or b"x"
        if self.chance.random() < 0.8:
            return b"SET %b %d\r\n%b" % (key, len(value), value), 1
        return b"DELETE %b\r\n" % key, 1


Row = tuple[bytes, int, int, int]  # value, flags, exptime (0: never), cas


def table_rows(daemon: Daemon) -> dict[bytes, Row]:
    """What a table at rest holds, as memcached's own commands tell it; exptime rounded down."""
    with daemon.connect("tcp", CONNECT_S) as sock, sock.makefile("rb") as file:
        sock.sendall(b"lru_crawler metadump all\r\n")
        exptimes = {}
        while (line := file.readline()) != b"END\r\n":
            words = dict(word.split(b"=", 1) for word in line.split())
            exptimes[words[b"key"]] = int(words[b"exp"])
        rows = {}
        for key, exptime in exptimes.items():
            sock.sendall(b"mg %b v f c\r\n" % key)
            head = file.readline().split()
            if head[0] == b"EN":  # expired just now
                continue
            value = file.read(int(head[1]) + 2)[:-2]
            rows[key] = value, int(head[2][1:]), max(exptime, 0), int(head[3][1:])
        return rows


def mirror_rows(mirror: memcache_shm.Mirror) -> dict[bytes, Row]:
    return {key: tuple(item) for key, item in mirror.snapshot()}


def difference(rows: dict[bytes, Row], mirrored: dict[bytes, Row]) -> list[str]:
    """Where a mirror is other than the table: nowhere, is hoped. Its exptime is rounded up, the table's down."""
    found = [f"{key!r} is not mirrored" for key in rows.keys() - mirrored.keys()]
    found += [f"{key!r} is not in the table" for key in mirrored.keys() - rows.keys()]
    for key in rows.keys() & mirrored.keys():
        value, flags, exptime, cas = rows[key]
        other = mirrored[key]
        if (value, flags, cas) != (other[0], other[1], other[3]) or bool(exptime) != bool(other[2]) or not 0 <= other[2] - exptime <= 1:
            found.append(f"{key!r} is {rows[key]!r:.100} in the table and {other!r:.100} in the mirror")
    return found
