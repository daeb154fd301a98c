"""-o idle_timeout: who asks for nothing is closed, and counted; who asks or watches stays."""

from __future__ import annotations

import select

from support.client import Client
from support.servers import Daemon, Memcached
from support.waiting import until

IDLE = ("-o", "idle_timeout=1")


def has_ended(client: Client) -> bool:
    return bool(select.select([client.sock], [], [], 0)[0])


def leave_idle(daemon: Daemon, asking: Client) -> None:
    """One client that says something and then nothing more, while another one asks and asks."""
    with Client(daemon) as idle:
        assert idle.ask(b"mn") == b"MN"
        until(lambda: asking.ask(b"mn") == b"MN" and has_ended(idle), "the idle client's end", every_s=0.1)
        assert idle.is_closed()


def test_idle_clients_are_closed_and_counted() -> None:
    with Daemon(*IDLE, workers=2) as daemon, Client(daemon, "unix") as watching, Client(daemon) as asking:
        assert watching.ask(b"watch connevents") == b"OK"
        assert asking.stats()["idle_kicks"] == "0"
        for count in ("1", "2"):  # at the second one's end the watching client has been silent for twice the limit
            leave_idle(daemon, asking)
            assert asking.stats()["idle_kicks"] == count
            assert b" reason=idle_timeout " in next(line for line in iter(watching.raw_line, b"") if b"type=conn_close" in line)
        assert asking.ask(b"stats reset") == b"RESET"
        assert asking.stats()["idle_kicks"] == "0"


def test_silent_and_incomplete_ones_are_idle() -> None:
    with Daemon(*IDLE) as daemon, Client(daemon) as silent, Client(daemon) as cut:
        cut.send(b"set k 0 0 100\r\nx")
        for client in (silent, cut):
            until(lambda client=client: has_ended(client), "its end")  # type: ignore[misc]
            assert client.is_closed()


def test_the_figure_is_there_where_memcached_has_it() -> None:
    with Memcached(*IDLE) as memcached, Daemon(*IDLE) as daemon, Client(memcached) as client, Client(daemon) as other:
        theirs, ours = list(client.stats()), list(other.stats())
        assert theirs[theirs.index("idle_kicks") + 1] == ours[ours.index("idle_kicks") + 1] == "bytes_read"
    with Daemon() as daemon, Client(daemon) as client:
        assert "idle_kicks" not in client.stats()
