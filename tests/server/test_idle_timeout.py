"""-o idle_timeout: who says nothing for so long is closed, who speaks now and then is not."""

from __future__ import annotations

import time
from contextlib import ExitStack

from support.client import Client
from support.servers import Daemon
from support.waiting import until


def test_idle_connections_are_closed() -> None:
    with Daemon("-o", "idle_timeout=2", workers=2) as daemon, ExitStack() as stack:
        idle = [stack.enter_context(Client(daemon, door)) for door in ("tcp", "unix") * 3]
        halfway = stack.enter_context(Client(daemon))
        halfway.send(b"set k 0 0 100\r\nabc")
        busy = stack.enter_context(Client(daemon))
        began = time.monotonic()
        until(lambda: busy.stats()["curr_connections"] == "1", "the idle ones closed")
        assert time.monotonic() - began > 1.0, "none is closed before its time, a second's step back"
        assert all(client.is_closed() for client in [*idle, halfway])
        assert busy.stats()["idle_kicks"] == "7"
        busy.ask(b"verbosity 1")
        assert busy.set(b"k", b"v") == b"STORED"


def test_without_it_none_is_counted() -> None:
    with Daemon() as daemon, Client(daemon) as client:
        assert "idle_kicks" not in client.stats()
