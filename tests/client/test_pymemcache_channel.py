"""pymemcache's clients over a channel: its own integration tests, with `memcache_shm.channel_sockets` for their module of sockets."""

from __future__ import annotations

import inspect
import itertools
from collections.abc import Callable
from typing import Any

import pytest
from pymemcache.client.base import Client, PooledClient
from pymemcache.client.hash import HashClient
from pymemcache.exceptions import MemcacheServerError
from pymemcache.serde import compressed_serde, pickle_serde
from pymemcache.test import test_integration as theirs
from support.client import Client as PlainClient
from support.servers import Daemon

import memcache_shm

Make = Callable[..., Any]
CLIENTS: dict[str, Make] = {
    "Client": Client,
    "PooledClient": PooledClient,
    "HashClient": lambda path, **options: HashClient([path], **options),
}


@pytest.fixture
def daemon(daemon_with: Callable[..., Daemon]) -> Daemon:
    return daemon_with("-m", "64", workers=3)


@pytest.fixture(params=CLIENTS)
def make(request: pytest.FixtureRequest, daemon: Daemon, monkeypatch: pytest.MonkeyPatch) -> Make:
    """A class of theirs whose server is the daemon's UNIX socket, whatever it is told."""

    def at_daemon(kind: Make) -> Make:
        return lambda server, socket_module=None, **options: kind(daemon.unix_path, socket_module=memcache_shm.channel_sockets, **options)

    monkeypatch.setattr(theirs, "Client", at_daemon(Client))  # some of them take that class themselves
    return at_daemon(CLIENTS[request.param])


@pytest.mark.parametrize("name", [n for n in dir(theirs) if n.startswith("test_") and n != "test_tls"])
@pytest.mark.parametrize("key_prefix", (b"", b"prefix:"))
def test_their_integration_test(name: str, key_prefix: bytes, make: Make, daemon: Daemon) -> None:
    function = getattr(theirs, name)
    known = {
        "client_class": [make],
        "host": [daemon.host],
        "port": [daemon.port],
        "socket_module": [memcache_shm.channel_sockets],
        "key_prefix": [key_prefix],
        "serde": [pickle_serde, compressed_serde],
        "should_fail": [True],
    }
    names = list(inspect.signature(function).parameters)
    for values in itertools.product(*(known[n] for n in names)):
        call = dict(zip(names, values, strict=True))
        if "should_fail" in call:  # compressed_serde makes the value fit
            call["should_fail"] = call["serde"] is pickle_serde
        function(**call)


def test_it_is_a_channel(make: Make, daemon: Daemon) -> None:
    """They would pass over a socket as well."""
    with PlainClient(daemon) as asking:
        before = int(asking.stats(b"shm")["shm_channels_opened"])
        client = make("any")
        assert client.set("key", "value", noreply=False)
        client.close()
        assert int(asking.stats(b"shm")["shm_channels_opened"]) == before + 1


def test_large_values(make: Make) -> None:
    client = make("any")
    for size in (0, 1, 65_535, 65_536, 65_537, 1 << 20):
        assert client.set("large", b"v" * size, noreply=False)
        assert client.get("large") == b"v" * size
    with pytest.raises(MemcacheServerError):
        client.set("large", b"v" * ((1 << 20) + 1), noreply=False)
    assert client.set_many({f"key{n}": b"v" * 3000 for n in range(200)}, noreply=False) == []
    assert len(client.get_many([f"key{n}" for n in range(200)])) == 200
    client.close()


@pytest.mark.parametrize("arguments", [(("localhost", 11211),), ("/no/such/socket",)])
def test_no_channel_there(arguments: tuple[Any, ...]) -> None:
    with pytest.raises(OSError, match=r"UNIX socket|No such file"):
        Client(*arguments, socket_module=memcache_shm.channel_sockets).get("key")
