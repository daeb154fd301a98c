"""A client that hears of changes: subscriptions and copies of the table, over a daemon's socket."""

from __future__ import annotations

import base64
from typing import NamedTuple

from support.client import Client
from support.servers import Server


class Told(NamedTuple):
    """One message. Of a `synced` or `alive` cas is the position; of a `lost` exptime is where it began and cas where it ended."""

    kind: str
    key: bytes = b""
    value: bytes = b""
    flags: int = 0
    exptime: int = 0
    cas: int = 0


class Hearer(Client):
    """Reads messages; what `ask` expects must not be mixed with them."""

    def told(self) -> Told:
        """The next message."""
        line = self.line()
        words = line.split(b" ")
        if words[0] == b"LOST":
            return Told("lost", exptime=int(words[1]), cas=int(words[2]))
        if words[0] in (b"SYNCED", b"ALIVE"):
            return Told(words[0].decode().lower(), cas=int(words[1]))
        assert words[0] == b"NOTIFY", line
        kind, key, flags, exptime, size, cas, *binary = words[1:]
        assert binary in ([], [b"b"]), line
        value = b""
        if kind == b"set":
            value = self.read(int(size) + 2)
            assert value.endswith(b"\r\n")
            value = value[:-2]
        else:
            assert size == b"0", line
        return Told(kind.decode(), base64.b64decode(key) if binary else key, value, int(flags), int(exptime), int(cas))

    def next(self) -> tuple[str, bytes, bytes]:
        """Kind, key and value of the next message."""
        return self.told()[:3]

    def until_told(self, key: bytes, value: bytes, kind: str = "set") -> list[Told]:
        """All messages up to that one."""
        seen = [self.told()]
        while seen[-1][:3] != (kind, key, value):
            seen.append(self.told())
        return seen

    def until_lost(self) -> list[Told]:
        """All messages up to one that says that something was lost."""
        seen = [self.told()]
        while seen[-1].kind != "lost":
            seen.append(self.told())
        return seen


def subscribe(server: Server, *patterns: bytes, door: str = "tcp") -> Hearer:
    """A new connection that has these patterns."""
    hearer = Hearer(server, door)
    assert hearer.ask(b"subscribe " + b" ".join(patterns)) == b"OK %d" % len(set(patterns))
    return hearer


class Copy:
    """What a connection that copies makes of its messages."""

    def __init__(self, server: Server, door: str = "tcp") -> None:
        self.client = Hearer(server, door, timeout_s=20.0)
        self.items: dict[bytes, Told] = {}
        self.kinds: dict[str, int] = {}
        self._fresh: set[bytes] = set()  # told since the last copy began
        assert self.client.ask(b"sync") == b"OK"

    def __enter__(self) -> Copy:
        return self

    def __exit__(self, *error: object) -> None:
        self.client.close()

    def take(self) -> Told:
        """Apply the next message."""
        told = self.client.told()
        self.kinds[told.kind] = self.kinds.get(told.kind, 0) + 1
        if told.kind == "set":
            self.items[told.key] = told
            self._fresh.add(told.key)
        elif told.kind == "touch":
            self.items[told.key] = self.items[told.key]._replace(exptime=told.exptime)
        elif told.kind in ("delete", "expire", "evict"):
            self.items.pop(told.key, None)
        elif told.kind == "flush":
            self.items.clear()
        elif told.kind == "lost":
            self._fresh.clear()
        elif told.kind == "synced":
            for key in self.items.keys() - self._fresh:
                del self.items[key]
        return told

    def take_until(self, kind: str) -> Told:
        """All messages up to the next one of that kind."""
        while (told := self.take()).kind != kind:
            continue
        return told

    def take_until_still(self) -> None:
        """Until the server says that all is told."""
        self.take_until("alive")

    @property
    def values(self) -> dict[bytes, bytes]:
        return {key: told.value for key, told in self.items.items()}


def stored(client: Client) -> dict[bytes, bytes]:
    """What a daemon's table holds, by a dump and gets; for a table at rest."""
    client.send(b"lru_crawler mgdump all\r\n")
    words = []
    while (line := client.line()) != b"EN":
        words.append(line.removeprefix(b"mg "))
    found = {}
    for word in words:
        client.send(b"mg %b v\r\n" % word)
        head = client.line().split()
        key = base64.b64decode(word.removesuffix(b" b")) if word.endswith(b" b") else word
        found[key] = client.read(int(head[1]) + 2)[:-2]
    return found
