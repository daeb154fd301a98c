"""`sync` of a connection that subscribes: what is there of its keys is told, and everything goes on."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from support.client import Client
from support.feeding import Hearer, Told, subscribe
from support.servers import Daemon
from support.waiting import until


@pytest.fixture
def daemon(daemon_with: Callable[..., Daemon]) -> Daemon:
    daemon = daemon_with("-m", "64")
    daemon.flush()
    return daemon


def retold(hearer: Hearer) -> list[Told]:
    """All messages up to the end of what is there."""
    told = []
    while (message := hearer.told()).kind != "synced":
        told.append(message)
    return told


@pytest.mark.parametrize("door", ["tcp", "channel"])
def test_what_is_there_of_its_keys(daemon: Daemon, door: str) -> None:
    with Client(daemon) as client, subscribe(daemon, b"k*", b"one", door=door) as hearer:
        client.set(b"k1", b"1")
        hearer.until_told(b"k1", b"1")
        for key in (b"k2", b"one", b"one1", b"other"):
            client.set(key, b"%b." % key)
        client.ask(b"ms k3 1 T500 F7\r\n3")
        assert {hearer.told().key for _ in range(3)} == {b"k2", b"k3", b"one"}
        assert hearer.ask(b"sync") == b"OK"
        told = {message.key: message for message in retold(hearer)}
        assert {key: message.value for key, message in told.items()} == {b"k1": b"1", b"k2": b"k2.", b"k3": b"3", b"one": b"one."}
        assert {message.kind for message in told.values()} == {"set"}
        assert told[b"k3"].flags == 7
        assert told[b"k3"].exptime > 0
        assert hearer.ask(b"get other") == b"VALUE other 0 6"
        assert hearer.line() == b"other."
        assert hearer.line() == b"END"
        client.ask(b"delete k2")
        assert hearer.next() == ("delete", b"k2", b"")


def test_requests_behind_it_wait(daemon: Daemon) -> None:
    with Client(daemon) as client, subscribe(daemon, b"k") as hearer:
        client.set(b"k", b"value")
        hearer.until_told(b"k", b"value")
        hearer.send(b"sync\r\nmn\r\nunsubscribe\r\nsync\r\n")
        assert hearer.line() == b"OK"
        assert [message[:3] for message in retold(hearer)] == [("set", b"k", b"value")]
        assert [hearer.line() for _ in range(3)] == [b"MN", b"OK 0", b"OK"], "then a copy of everything"
        assert hearer.next() == ("set", b"k", b"value")


def test_many_patterns_and_items_amid_changes(daemon: Daemon) -> None:
    """Each item comes, and none goes back to an older value."""
    patterns = [b"%d:*" % number for number in range(0, 900, 3)]
    with Client(daemon) as client, subscribe(daemon, *patterns) as hearer:
        client.send(b"".join(b"set %d:x 0 0 1 noreply\r\n0\r\n" % number for number in range(900)))
        assert len({hearer.told().key for _ in patterns}) == len(patterns)
        assert hearer.ask(b"sync") == b"OK"
        client.send(b"".join(b"set %d:x 0 0 %d noreply\r\n%d\r\n" % (n % 30, len(str(n)), n) for n in range(1, 3000)))
        assert client.ask(b"mn") == b"MN"
        last = {b"%d:x" % n: 2970 + n if n < 30 else 0 for n in range(0, 900, 3)}
        values: dict[bytes, int] = {}
        told = retold(hearer)
        while told or values != last:
            message = told.pop(0) if told else hearer.told()
            assert message.kind == "set"
            assert int(message.value) >= values.get(message.key, 0)
            values[message.key] = int(message.value)


@pytest.mark.parametrize("count", [3, 900])
def test_few_and_many_patterns_of_several_clients(daemon: Daemon, count: int) -> None:
    """Each is told what is there of its own: keys, and prefixes of several lengths."""
    mine = [b"key%d" % number for number in range(count)] + [b"a*", b"%b*" % (b"p" * 100)]
    others = [b"other%d" % number for number in range(count)] + [b"ab*", b"p*", b"key*"]
    there = [b"key0", b"key%d" % (count - 1), b"a", b"abc", b"p" * 100, b"p" * 150]
    with Client(daemon) as client, subscribe(daemon, *mine) as hearer, subscribe(daemon, *others), subscribe(daemon, b"*") as all_hearer:
        for key in (*there, b"key", b"key%d" % count, b"b", b"p" * 99, b"other0", b"other", b"x"):
            client.set(key, b"1")
        assert {hearer.told().key for _ in there} == set(there)
        assert hearer.ask(b"sync") == b"OK"
        assert sorted(message.key for message in retold(hearer)) == sorted(there)
        assert len({all_hearer.told().key for _ in range(13)}) == 13
        assert all_hearer.ask(b"sync") == b"OK"
        assert len(retold(all_hearer)) == 13


def test_who_does_not_read_is_told_that_it_lost_something_and_asks_again(daemon: Daemon) -> None:
    value = b"x" * 100_000
    with Client(daemon) as client, subscribe(daemon, b"k*") as hearer:
        for number in range(100):
            assert client.set(b"k%d" % number, value) == b"STORED"
            hearer.until_told(b"k%d" % number, value)
        before = client.stats(b"shm")["shm_lost"]
        assert hearer.ask(b"sync") == b"OK"
        for number in range(200):
            assert client.set(b"k%d" % (number % 50), value) == b"STORED"
        until(lambda: client.stats(b"shm")["shm_lost"] != before, "a loss")
        assert "lost" in {message.kind for message in retold(hearer)}
        client.set(b"k0", b"last")
        hearer.until_told(b"k0", b"last")
        assert hearer.ask(b"sync") == b"OK"
        assert {message.key: message.value for message in retold(hearer)} == {b"k%d" % n: value if n else b"last" for n in range(100)}


def test_a_flush_amid_it(daemon: Daemon) -> None:
    with Client(daemon) as client, subscribe(daemon, b"k*") as hearer:
        client.send(b"".join(b"set k%d 0 0 1000 noreply\r\n%b\r\n" % (number, b"x" * 1000) for number in range(5000)))
        assert len({hearer.told().key for _ in range(5000)}) == 5000
        assert hearer.ask(b"sync") == b"OK"
        hearer.told()
        assert client.ask(b"flush_all") == b"OK"
        client.set(b"k7", b"new")
        items = {}
        told = retold(hearer)
        client.set(b"k8", b"end")
        for message in told + hearer.until_told(b"k8", b"end"):
            if message.kind == "flush":
                items.clear()
            elif message.kind == "set":
                items[message.key] = message.value
            else:
                items.pop(message.key, None)
        assert items == {b"k7": b"new", b"k8": b"end"}


def test_a_daemon_that_lets_nobody_list_its_keys(daemon_with: Callable[..., Daemon]) -> None:
    daemon = daemon_with("-m", "64", "-X")
    with Client(daemon) as client, subscribe(daemon, b"k") as hearer:
        assert hearer.ask(b"sync") == b"CLIENT_ERROR sync not allowed"
        client.set(b"k", b"value")
        assert hearer.next() == ("set", b"k", b"value")
