"""Code written for pymemcache runs here: its own integration tests, and the signatures of its methods."""

from __future__ import annotations

import inspect
import itertools
from collections.abc import Callable
from typing import Any

import pytest
from pymemcache.client.base import Client
from pymemcache.serde import compressed_serde, pickle_serde
from pymemcache.test import test_integration as theirs

import memcache_shm
from memcache_shm.client.write_through import WriteThroughCache

METHODS = [
    "set",
    "add",
    "replace",
    "append",
    "prepend",
    "cas",
    "get",
    "get_many",
    "get_multi",
    "gets",
    "gets_many",
    "set_many",
    "set_multi",
    "delete",
    "delete_many",
    "delete_multi",
    "incr",
    "decr",
    "touch",
    "stats",
    "version",
    "flush_all",
    "quit",
    "close",
    "disconnect_all",
]


@pytest.mark.parametrize("kind", [memcache_shm.Cache, memcache_shm.RemoteCache, WriteThroughCache])
@pytest.mark.parametrize("name", METHODS)
def test_signatures_are_the_same(name: str, kind: type) -> None:
    ours, expected = (
        [(p.name, p.default, p.kind.name) for p in inspect.signature(getattr(each, name)).parameters.values()] for each in (kind, Client)
    )
    assert ours == expected


@pytest.fixture(params=["attached", "unix", "channel", "write-through"])
def client_class(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """What takes the place of pymemcache's class in its tests: one table, a cache object for each call."""
    monkeypatch.setattr(theirs, "MemcacheIllegalInputError", memcache_shm.IllegalInputError)
    monkeypatch.setattr(theirs, "MemcacheClientError", memcache_shm.IllegalInputError)
    monkeypatch.setattr(theirs, "MemcacheServerError", memcache_shm.TooLargeError)

    door: str = request.param
    request.getfixturevalue("state_dir" if door == "attached" else "daemon_with")

    def make(server: object, socket_module: object = None, **options: Any) -> Any:
        if door == "attached":
            return memcache_shm.open("theirs", memory="16m", **options)
        daemon = request.getfixturevalue("daemon_with")("-m", "16")
        if door == "write-through":
            return memcache_shm.attach(daemon.name, readonly=True, writes=daemon.unix_path, **options)
        return memcache_shm.connect(daemon.addresses[door], **options)

    monkeypatch.setattr(theirs, "Client", make)
    return make


@pytest.mark.parametrize("name", [n for n in dir(theirs) if n.startswith("test_") and n not in ("test_tls", "test_misc")])
@pytest.mark.parametrize("key_prefix", [b"", b"prefix:"])
def test_their_integration_test(name: str, key_prefix: bytes, client_class: Callable[..., memcache_shm.Cache]) -> None:
    function = getattr(theirs, name)
    known = {
        "client_class": [client_class],
        "host": ["-"],
        "port": [0],
        "socket_module": [None],
        "key_prefix": [key_prefix],
        "serde": [pickle_serde, compressed_serde],
    }
    names = list(inspect.signature(function).parameters)
    if name == "test_get_set_large":
        # compressed_serde makes the value fit, pickle_serde does not
        names.remove("should_fail")
        calls = [dict(zip(names, values, strict=True)) for values in itertools.product(*(known[n] for n in names))]
        calls = [call | {"should_fail": call["serde"] is pickle_serde} for call in calls]
    else:
        calls = [dict(zip(names, values, strict=True)) for values in itertools.product(*(known[n] for n in names))]
    for call in calls:
        function(**call)
