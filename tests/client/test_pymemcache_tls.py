"""pymemcache's clients over TLS: its own integration tests, which skip theirs of TLS, run through an encrypted connection."""

from __future__ import annotations

import functools
import inspect
import itertools
import socket
from collections.abc import Callable
from typing import Any

import pytest
from pymemcache.client.base import Client, PooledClient
from pymemcache.client.hash import HashClient
from pymemcache.exceptions import MemcacheServerError
from pymemcache.serde import compressed_serde, pickle_serde
from pymemcache.test import test_integration as theirs
from support.servers import Daemon
from support.tls import Certificate

Make = functools.partial[Any]


def _hash_client(server: tuple[str, int], **options: Any) -> HashClient:
    return HashClient([server], **options)


CLIENTS: dict[str, Callable[..., Any]] = {"Client": Client, "PooledClient": PooledClient, "HashClient": _hash_client}


@pytest.fixture
def daemon(certificate: Certificate, daemon_with: Callable[..., Daemon]) -> Daemon:
    return daemon_with("-m", "64", *certificate.options, workers=2)


@pytest.fixture(params=CLIENTS)
def make(request: pytest.FixtureRequest, certificate: Certificate) -> Make:
    """A class of theirs that speaks TLS."""
    return functools.partial(CLIENTS[request.param], tls_context=certificate.client_context())


@pytest.mark.parametrize("name", [n for n in dir(theirs) if n.startswith("test_") and n != "test_tls"])
@pytest.mark.parametrize("key_prefix", (b"", b"prefix:"))
def test_their_integration_test(name: str, key_prefix: bytes, make: Make, daemon: Daemon, monkeypatch: pytest.MonkeyPatch) -> None:
    function = getattr(theirs, name)
    monkeypatch.setattr(theirs, "Client", functools.partial(Client, **make.keywords))  # some of them take that class themselves
    known = {
        "client_class": [make],
        "host": [daemon.host],
        "port": [daemon.port],
        "socket_module": [socket],
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


def test_their_test_of_tls(make: Make, daemon: Daemon, certificate: Certificate) -> None:
    """`theirs.test_tls` is marked as skipped, its body runs as it is."""
    theirs.test_tls(make.func, daemon.host, daemon.port, socket, certificate.client_context())


def test_large_values(make: Make, daemon: Daemon) -> None:
    client = make((daemon.host, daemon.port))
    for size in (0, 1, 16_383, 16_384, 16_385, 65_536, 1 << 20):
        value = b"v" * size
        assert client.set("large", value, noreply=False)
        assert client.get("large") == value
    with pytest.raises(MemcacheServerError):
        client.set("large", b"v" * ((1 << 20) + 1), noreply=False)
    assert client.set_many({f"key{n}": b"v" * 3000 for n in range(200)}, noreply=False) == []
    assert len(client.get_many([f"key{n}" for n in range(200)])) == 200
    client.close()
