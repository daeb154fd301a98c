"""Clients that do not read: what waits for them is bounded, the newest value of each key is among it, and others are served."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from support.pipes import DELETED, PipeDaemon, subscribe_message
from support.supervision import await_line

import memcache_shm

KEYS = 3000
ROUNDS = 30


def resident_kib(pid: int) -> int:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS:"))


def cpu_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def test_notifications_that_nobody_reads(piped: PipeDaemon, cache: memcache_shm.Cache) -> None:
    """Thirty rounds of changes cost no more memory than the first one; when the client reads again it has the last value of each key."""
    names = [b"key%d" % number for number in range(KEYS)]
    with piped.user() as slow, piped.user() as other:
        cache.set_many(dict.fromkeys(names, b"0"))
        for name in names:
            assert slow.subscribe(name) == 1
        cache.set("other", b"0")
        assert other.subscribe(b"other") == 1
        before_kib = 0
        for number in range(1, ROUNDS + 1):
            for name in names:
                cache.set(name, b"%d" % number)
            cache.set("other", b"%d" % number)
            other.notes_until(b"other", b"%d" % number)  # the server has seen all that came before, or will pass it over
            before_kib = before_kib or resident_kib(piped.pipe_server)
        assert resident_kib(piped.pipe_server) - before_kib < 4096
        found: dict[bytes, bytes] = {}
        while len(found) < KEYS or set(found.values()) != {b"%d" % ROUNDS}:
            name, value = slow.note()
            assert int(value) >= int(found.get(name, b"0"))
            found[name] = value
        cache.delete("key7")
        assert slow.note() == (b"key7", DELETED)


def test_keys_that_went_while_nobody_read(piped: PipeDaemon, cache: memcache_shm.Cache) -> None:
    """What waits then is not bounded by the keys, so it has a limit of its own: the session ends there."""
    with piped.user() as slow, piped.user() as other:
        cache.set("other", b"0")
        assert other.subscribe(b"other") == 1
        for number in range(20_000):
            cache.set(f"key{number}", b"1")
            slow.send(subscribe_message(b"key%d" % number))
            answer = slow.answer()
            if not answer:
                break
            assert answer == b"\3\1"
            cache.delete(f"key{number}")
        assert answer == b""
        await_line(piped, f"{slow.pipes.paths[0].decode()}: more than 8192 notifications wait that it does not read; ended")
        cache.set("other", b"1")
        assert other.note() == (b"other", b"1")


def test_answers_that_nobody_reads(piped: PipeDaemon, cache: memcache_shm.Cache) -> None:
    """Such a client is not heard any more, and costs no time, until it reads."""
    message = subscribe_message(b"none")
    sent = 0
    with piped.user() as slow, piped.user() as other:
        refusals = 0  # in a row
        while refusals < 20:
            try:
                slow.send(message)
            except BlockingIOError:
                refusals += 1
                assert other.subscribe(b"none") == 0  # the server has had a turn: it could have made room
            else:
                sent += 1
                refusals = 0
            assert sent < 200_000
        began_s = cpu_s(piped.pipe_server)
        for _ in range(200):
            assert other.subscribe(b"none") == 0
        assert cpu_s(piped.pipe_server) - began_s < 0.5
        for _ in range(sent):
            assert slow.answer() == b"\3\0"
        assert sent > 0
        assert slow.disconnect() == 0


def test_a_session_of_which_nothing_is_read_is_ended_by_its_client(piped: PipeDaemon, cache: memcache_shm.Cache) -> None:
    """Its end is noticed although its requests are not read."""
    with piped.user() as slow, contextlib.suppress(BlockingIOError):
        while True:
            slow.send(subscribe_message(b"none"))
    await_line(piped, f"{slow.pipes.paths[0].decode()}: it.* (no reader any more|without disconnect|amid a message); ended")
