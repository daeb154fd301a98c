"""Writers and readers that check every value they meet: key, counter and CRC are part of it.

A value is `key counter fill crc`. A torn value fails its CRC, a foreign one names another key.
"""

from __future__ import annotations

import os
import random
import signal
import traceback
import zlib
from collections.abc import Callable

import memcache_shm

KEYS = 3000
COUNTERS = 10
CRC_BYTES = 8
FAILED = 3  # exit status of a process that met a wrong value


def make_value(key: str, counter: int, size_bytes: int) -> bytes:
    """About `size_bytes` long; the fill tells the counter, too."""
    body = b"%s %d " % (key.encode(), counter)
    body += bytes([counter & 255]) * max(0, size_bytes - len(body) - CRC_BYTES)
    return body + b"%08x" % zlib.crc32(body)


def check_value(key: str, value: bytes) -> int:
    """The counter of a whole value of this key; AssertionError when it is torn or another key's."""
    assert zlib.crc32(value[:-CRC_BYTES]) == int(value[-CRC_BYTES:], 16), f"torn: {key} has {len(value)} bytes, {value[:40]!r}"
    name, counter, _ = value.split(b" ", 2)
    assert name == key.encode(), f"foreign: {key} has {value[:40]!r}"
    return int(counter)


class Hammer:
    """One process's mixture of operations on the table `name`."""

    def __init__(self, name: str, largest_bytes: int, seed: int) -> None:
        self.cache = memcache_shm.attach(name)
        self.largest_bytes = largest_bytes
        self.chance = random.Random(seed)
        self.counter = 0

    def value(self, key: str) -> bytes:
        self.counter += 1
        return make_value(key, self.counter, min(self.largest_bytes, int(self.chance.lognormvariate(5, 2))))

    def strike(self) -> None:
        """One operation."""
        key, roll = f"k{self.chance.randrange(KEYS)}", self.chance.random()
        if roll < 0.45:
            value = self.cache.get(key)
            if value is not None:
                check_value(key, value)
        elif roll < 0.8:
            self.cache.set(key, self.value(key))
        elif roll < 0.85:
            self.cache.delete(key)
        elif roll < 0.88:
            self.cache.touch(key, 1000)
        elif roll < 0.9:
            self.cache.set(key, self.value(key), expire=-1)
        elif roll < 0.9005:
            self.cache.flush_all()
        elif roll < 0.93:
            number = f"n{self.chance.randrange(COUNTERS)}"
            self.cache.add(number, b"1")
            self.cache.incr(number, 1)
        elif roll < 0.96:
            self.compare_and_set(key)
        else:
            self.cache.add(key, self.value(key))

    def compare_and_set(self, key: str) -> None:
        value, cas = self.cache.gets(key)
        if value is not None:
            check_value(key, value)
            self.cache.cas(key, self.value(key), cas)


def check_all(cache: memcache_shm.Cache) -> int:
    """Every key of the table, then that every key can be written and read; the number of values met."""
    met = 0
    for number in range(KEYS):
        key = f"k{number}"
        value = cache.get(key)
        if value is not None:
            check_value(key, value)
            met += 1
    for number in range(KEYS):
        cache.set(f"k{number}", b"new")
        assert cache.get(f"k{number}") == b"new"
    return met


class Fleet:
    """Child processes, each repeating `work` until it is ended; a wrong value ends it with FAILED."""

    def __init__(self, start: Callable[[int], Callable[[], None]], processes: int) -> None:
        self.start = start
        self.made = 0
        self.pids = [self.spawn() for _ in range(processes)]

    def spawn(self) -> int:
        self.made += 1
        pid = os.fork()
        if pid == 0:
            self.run(self.made)
        return pid

    def run(self, number: int) -> None:
        """In the child, which never comes back from here."""
        try:
            work = self.start(number)
            while True:
                work()
        except Exception:  # noqa: BLE001 - whatever it is, the parent must hear of it and no test code run in the child
            traceback.print_exc()
        finally:
            os._exit(FAILED)

    def kill_one(self, chance: random.Random) -> None:
        """SIGKILL one of them, wherever it is, and put another in its place."""
        place = chance.randrange(len(self.pids))
        assert self.end(self.pids[place]) == -signal.SIGKILL, "ended before it was killed: see its traceback"
        self.pids[place] = self.spawn()

    def end(self, pid: int) -> int:
        """Kill and reap; how it ended."""
        os.kill(pid, signal.SIGKILL)
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])

    def end_all(self) -> list[int]:
        """Kill and reap all; how they ended. A second call has nothing to do."""
        pids, self.pids = self.pids, []
        return [self.end(pid) for pid in pids]
