"""Several clients at one key, over all doors, with one and with three workers."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest
from support.client import Client
from support.servers import Daemon

import memcache_shm

DOORS = ("tcp", "unix", "channel", "narrow")
THREADS = len(DOORS)
ROUNDS = 250


@pytest.fixture(params=[1, 3], ids=["1 worker", "3 workers"])
def daemon(request: pytest.FixtureRequest, daemon_with: Callable[..., Daemon]) -> Daemon:
    daemon = daemon_with("-m", "64", workers=request.param)
    daemon.flush()
    return daemon


def together(daemon: Daemon, act: Callable[[Client, int], None]) -> None:
    """Let every thread act with a connection of its own; the first failure is raised here."""
    failures: list[BaseException] = []
    gate = threading.Barrier(THREADS)

    def run(number: int) -> None:
        try:
            with Client(daemon, DOORS[number]) as client:
                gate.wait(10)
                act(client, number)
        except (OSError, AssertionError, ValueError) as error:
            failures.append(error)

    threads = [threading.Thread(target=run, args=(number,)) for number in range(THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise failures[0]


def test_incr_loses_nothing(daemon: Daemon) -> None:
    def act(client: Client, number: int) -> None:
        for _ in range(ROUNDS):
            assert client.ask(b"incr n 1").isdigit()

    with Client(daemon) as client:
        client.set(b"n", b"0")
        together(daemon, act)
        assert client.get(b"n") == b"%d" % (THREADS * ROUNDS)


def test_cas_lets_one_win(daemon: Daemon) -> None:
    def act(client: Client, number: int) -> None:
        done = 0
        while done < ROUNDS:
            value, cas = client.gets(b"n")
            assert value is not None
            new = b"%d" % (int(value) + 1)
            reply = client.ask(b"cas n 0 0 %d %b\r\n%b" % (len(new), cas, new))
            assert reply in (b"STORED", b"EXISTS")
            done += reply == b"STORED"

    with Client(daemon) as client:
        client.set(b"n", b"0")
        together(daemon, act)
        assert client.get(b"n") == b"%d" % (THREADS * ROUNDS)


def test_add_lets_one_win(daemon: Daemon) -> None:
    won: list[tuple[int, int]] = []

    def act(client: Client, number: int) -> None:
        for turn in range(ROUNDS):
            reply = client.ask(b"add k%d 0 0 1\r\n%d" % (turn, number))
            assert reply in (b"STORED", b"NOT_STORED")
            if reply == b"STORED":
                won.append((turn, number))

    together(daemon, act)
    assert sorted(turn for turn, _ in won) == list(range(ROUNDS))
    with Client(daemon) as client:
        assert all(client.get(b"k%d" % turn) == b"%d" % number for turn, number in won)


def test_append_loses_nothing(daemon: Daemon) -> None:
    def act(client: Client, number: int) -> None:
        for _ in range(ROUNDS):
            assert client.ask(b"append k 0 0 1\r\n%d" % number) == b"STORED"

    with Client(daemon) as client:
        client.set(b"k", b"")
        together(daemon, act)
        value = client.get(b"k")
        assert value is not None
        assert sorted(value) == sorted(b"".join(b"%d" % number * ROUNDS for number in range(THREADS)))


def test_readers_see_whole_values(daemon: Daemon) -> None:
    """Two write values of one letter and changing length, two read: never a mixture."""

    def act(client: Client, number: int) -> None:
        for turn in range(ROUNDS):
            if number < 2:
                assert client.set(b"k", b"AB"[number : number + 1] * (1 + turn * 97 % 5000)) == b"STORED"
            else:
                value = client.get(b"k")
                assert value is None or len(set(value)) == 1

    together(daemon, act)


def test_the_last_of_two_stores_wins_whenever_they_began(daemon: Daemon) -> None:
    with Client(daemon) as slow, Client(daemon, "unix") as fast:
        slow.send(b"set k 0 0 4\r\nsl")
        assert fast.set(b"k", b"fast") == b"STORED"
        assert fast.get(b"k") == b"fast"
        assert slow.ask(b"ow") == b"STORED"
        assert fast.get(b"k") == b"slow"


def test_clients_and_an_attached_program(daemon: Daemon) -> None:
    """A program on the host counts in the same table, without the daemon."""

    def act(client: Client, number: int) -> None:
        for _ in range(ROUNDS):
            if number == 0:
                assert cache.incr("n", 1) is not None
            else:
                assert client.ask(b"incr n 1").isdigit()

    with memcache_shm.attach(daemon.name) as cache, Client(daemon) as client:
        client.set(b"n", b"0")
        together(daemon, act)
        assert cache.get("n") == b"%d" % (THREADS * ROUNDS)
        assert client.get(b"n") == b"%d" % (THREADS * ROUNDS)
