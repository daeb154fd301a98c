"""What a daemon does for clients of sockets beyond commands, it does over channels: streams, news, backups, an end to the idle."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from support.client import Client
from support.feeding import Copy, subscribe
from support.servers import Daemon
from support.waiting import until

DOORS = ("channel", "narrow")
COUNT = 3000


@pytest.fixture
def daemon(daemon_with: Callable[..., Daemon]) -> Iterator[Daemon]:
    """Three workers that must all be alive at the end, and an empty table."""
    daemon = daemon_with("-m", "64", workers=3)
    daemon.flush()
    with daemon.unharmed():
        yield daemon


@pytest.fixture(params=DOORS)
def client(request: pytest.FixtureRequest, daemon: Daemon) -> Iterator[Client]:
    with Client(daemon, request.param) as client:
        yield client


def fill(daemon: Daemon) -> set[bytes]:
    keys = {b"key%d" % number for number in range(COUNT)}
    with Client(daemon) as client:
        client.send(b"".join(b"set %b 0 0 1 noreply\r\nx\r\n" % key for key in keys))
        assert client.ask(b"mn") == b"MN"
    return keys


def test_a_dump(daemon: Daemon, client: Client) -> None:
    """Longer than any ring; requests behind it are answered behind it."""
    keys = fill(daemon)
    client.send(b"lru_crawler metadump all\r\nmn\r\n")
    lines = list(iter(client.line, b"END"))
    assert {line.split(b" ")[0].removeprefix(b"key=") for line in lines} == keys
    assert client.line() == b"MN"


def test_a_dump_whose_reader_leaves(daemon: Daemon) -> None:
    fill(daemon)
    with Client(daemon) as other:
        for door in DOORS:
            with Client(daemon, door) as client:
                client.send(b"lru_crawler metadump all\r\n")
                assert client.line().startswith(b"key=")
        until(lambda: other.stats(b"shm")["shm_channels"] == "0", "their channels to be gone", 1.0)


def test_watching(daemon: Daemon, client: Client) -> None:
    assert client.ask(b"watch mutations") == b"OK"
    with Client(daemon) as other:
        for number in range(200):
            assert other.set(b"k%d" % number, b"v") == b"STORED"
    for number in range(200):
        assert b" key=k%d " % number in client.line() + b" "


@pytest.mark.parametrize("door", DOORS)
def test_a_watcher_that_leaves(daemon: Daemon, door: str) -> None:
    with Client(daemon) as other:
        for leave in (Client.close, Client.shut):
            client = Client(daemon, door)
            assert client.ask(b"watch") == b"OK"
            leave(client)
            until(lambda: other.stats(b"shm")["shm_channels"] == "0", "its channel to be gone", 1.0)
            client.close()


@pytest.mark.parametrize("door", DOORS)
def test_news_between_replies(daemon: Daemon, door: str) -> None:
    """A subscriber that asks as well, while another client changes what it hears of."""
    with subscribe(daemon, b"news", door=door) as hearer, Client(daemon, door) as other:

        def change() -> None:
            for number in range(300):
                assert other.set(b"news", b"%d" % number) == b"STORED"

        changing = threading.Thread(target=change)
        changing.start()
        assert hearer.until_told(b"news", b"299")[-1].kind == "set"
        changing.join()
        assert hearer.ask(b"mn") == b"MN"


@pytest.mark.parametrize("door", DOORS)
def test_a_copy(daemon: Daemon, door: str) -> None:
    """`sync`, which feeds mirrors and followers."""
    keys = fill(daemon)
    with Copy(daemon, door) as copy:
        while copy.take().kind != "synced":
            continue
        assert copy.items.keys() == keys


def test_a_backup(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with Daemon("-m", "16", "--backup-dir", str(tmp_path)) as daemon, Client(daemon, "channel") as client:
        client.send(b"set k 0 0 1\r\nx\r\nbackup one\r\nget k\r\n")
        assert [client.line() for _ in range(5)] == [b"STORED", b"OK 1 30", b"VALUE k 0 1", b"x", b"END"]
    assert (tmp_path / "one").stat().st_size > 30


def test_the_idle_are_closed_and_counted() -> None:
    """Also one that does not take its replies: those that it has not taken by then go with its rings. One that watches stays."""
    taken = b""
    with (
        Daemon("-m", "2", "-o", "idle_timeout=1") as daemon,
        Client(daemon, "channel") as watching,
        Client(daemon) as asking,
        Client(daemon, "channel") as idle,
        Client(daemon, "narrow") as full,
    ):
        assert watching.ask(b"watch connevents") == b"OK"
        assert idle.ask(b"mn") == b"MN"
        full.send(b"mn\r\n" * 3000)
        until(lambda: asking.stats()["idle_kicks"] == "2", "both to be closed", every_s=0.1)
        assert idle.is_closed()
        until(lambda: asking.stats(b"shm")["shm_channels"] == "1", "their channels to be gone", 1.0)
        with suppress(ConnectionResetError):
            while piece := full.sock.recv(4096):
                taken += piece
        assert (b"MN\r\n" * 3000).startswith(taken)
        assert len(taken) < 4 * 3000
        assert b" reason=idle_timeout " in watching.line()
