"""Hearing of a flush when the table's clock was put back before it."""

from __future__ import annotations

from support.client import Client
from support.feeding import subscribe
from support.servers import Daemon
from support.waiting import until

import memcache_shm


def test_a_flush_after_the_clock_was_put_back() -> None:
    """Its deadline is earlier than the last one's: whoever listens is told that something was lost, and copies anew."""
    with (
        Daemon("-m", "8", "-o", "debugtime") as daemon,
        Client(daemon) as client,
        subscribe(daemon, b"*") as hearer,
        memcache_shm.Mirror(daemon.name) as mirror,
    ):
        client.ask(b"debugtime 100")
        assert client.ask(b"flush_all") == b"OK"
        assert hearer.told().kind == "flush"
        client.ask(b"debugtime -100")
        client.set(b"k", b"x")
        assert hearer.next() == ("set", b"k", b"x")
        until(lambda: mirror.get(b"k") == b"x", "the mirror to have it")
        assert client.ask(b"flush_all") == b"OK"
        assert client.ask(b"get k") == b"END"
        assert hearer.told().kind in ("lost", "flush")
        until(lambda: b"k" not in mirror, "the mirror to lose it")


def test_a_flush_that_is_heard_of_after_the_clock_was_put_back() -> None:
    """The listener comes late: by its time the first flush lies ahead, and the second one still has to be told."""
    with (
        Daemon("-m", "8", "-o", "debugtime") as daemon,
        Client(daemon) as client,
        memcache_shm.attach(daemon.name) as cache,
        cache.subscribe() as changes,
    ):
        client.ask(b"debugtime 100")
        assert client.ask(b"flush_all") == b"OK"
        client.ask(b"debugtime -100")
        client.set(b"k", b"x")
        for change in changes:
            if change.kind == "set":
                break
        assert client.ask(b"flush_all") == b"OK"
        told = changes.get(timeout=10)
        assert told is not None
        assert told.kind in ("lost", "flush")
