"""Subscribers that come, go, change their minds, read or do not, while values change: the workers live, and nothing is left."""

from __future__ import annotations

import random
import socket
from contextlib import ExitStack

import pytest
from support.client import Client
from support.feeding import Hearer
from support.servers import Daemon
from support.waiting import until

STEPS = 15_000
CROWD = 40
KEYS = 20


def figures(client: Client) -> dict[str, int]:
    return {name: int(value) for name, value in client.stats(b"shm").items() if value.isdigit()}


class Crowd:
    """Connections through both doors, each of which does something now and then."""

    def __init__(self, daemon: Daemon, seed: int) -> None:
        self.daemon = daemon
        self.chance = random.Random(seed)
        self.members: list[Hearer] = []

    def pattern(self) -> bytes:
        key = b"key%d" % self.chance.randrange(KEYS)
        return self.chance.choice([key, key[: self.chance.randrange(len(key))] + b"*"])

    def step(self) -> None:
        what = self.chance.random()
        if len(self.members) < CROWD and what < 0.5:
            self.members.append(Hearer(self.daemon, self.chance.choice(["tcp", "unix"])))
            self.members[-1].sock.setblocking(False)
            return
        if not self.members:
            return
        member = self.chance.choice(self.members)
        if what < 0.08:
            self.members.remove(member)
            member.reset() if what < 0.04 and member.sock.family == socket.AF_INET else member.close()
        elif what < 0.7:
            self.say(member)
        else:
            self.read(member)

    def say(self, member: Hearer) -> None:
        words = [self.pattern() for _ in range(self.chance.randrange(1, 5))]
        line = self.chance.choice(
            [
                b"subscribe " + b" ".join(words),
                b"subscribe " + b" ".join(words),
                b"unsubscribe " + b" ".join(words),
                b"unsubscribe",
                b"get key1 key2",
                b"get key1 " * 300,
                b"watch mutations",
                b"sync",
                b"lru_crawler metadump all",
                b"subscribe a " + b"k" * 300,
            ]
        )
        try:
            member.sock.send(line + b"\r\n")
        except OSError:
            self.members.remove(member)  # its buffers are full, or it was closed for the sake of the others
            member.close()

    def read(self, member: Hearer) -> None:
        try:
            member.sock.recv(1 << self.chance.randrange(22))
        except BlockingIOError:
            return
        except ConnectionResetError:
            self.members.remove(member)
            member.close()


@pytest.mark.parametrize("limit", ["8", "256"], ids=["short of buffers", "enough buffers"])
def test_crowd(limit: str) -> None:
    with Daemon("-m", "64", "-o", f"read_buf_mem_limit={limit}", workers=2) as daemon, Client(daemon, timeout_s=30) as client:
        workers = sorted(daemon.workers)
        crowd = Crowd(daemon, int(limit))
        with ExitStack() as stack:
            stack.callback(lambda: [member.close() for member in crowd.members])
            for number in range(STEPS):
                crowd.step()
                if number % 5 == 0:
                    size = crowd.chance.choice([1, 100, 5000, 100_000, 600_000])
                    assert client.set(b"key%d" % crowd.chance.randrange(KEYS), b"v" * size) == b"STORED"
                if number % 50 == 0:
                    assert client.ask(crowd.chance.choice([b"flush_all", b"mn"])) in (b"OK", b"MN")
        until(lambda: figures(client)["shm_subscribers"] == figures(client)["shm_sync_clients"] == 0, "all to be gone")
        assert figures(client)["shm_patterns"] == 0
        assert figures(client)["shm_notified"] > 1000
        until(lambda: int(client.stats()["curr_connections"]) == 1, "their connections to be closed")
        assert int(client.stats()["read_buf_bytes"]) < 1 << 20
        assert sorted(daemon.workers) == workers
