"""`connect`, when connections break, servers fall silent, and workers die."""

from __future__ import annotations

import os
import signal

import pytest
from support.scripted import VERSION, Scripted
from support.servers import Daemon
from support.waiting import until

import memcache_shm
from memcache_shm import RemoteCache, RemoteError

GET = b"get key\r\n"
MISS = (GET, b"END\r\n")
WRITE = b"set key 0 0 1\r\n1\r\n"


def test_a_read_is_asked_again() -> None:
    half = (GET, b"VALUE key 0 10\r\nhello")
    with Scripted([VERSION, MISS, half], [VERSION, half], [VERSION, MISS]) as server, memcache_shm.connect(server.address) as cache:
        assert cache.get("key") is None
        with pytest.raises(RemoteError, match=f"^{server.address}: connection lost"):
            cache.get("key")
        assert cache.get("key") is None


def test_a_change_is_not_sent_again() -> None:
    """It may have been done."""
    stored = (WRITE, b"STORED\r\n")
    with Scripted([VERSION, stored, (WRITE, b"STOR")], [VERSION, stored]) as server, memcache_shm.connect(server.address) as cache:
        assert cache.set("key", b"1")
        with pytest.raises(RemoteError, match="connection lost"):
            cache.set("key", b"1")
        assert cache.set("key", b"1")
    assert server.heard == [b"version\r\n" + WRITE * 2, b"version\r\n" + WRITE]


def test_a_connection_that_ended_meanwhile() -> None:
    """Nothing was sent on it, so a change is safe, too."""
    stored = (WRITE, b"STORED\r\n")
    with Scripted([VERSION, MISS], [VERSION, stored]) as server, memcache_shm.connect(server.address) as cache:
        assert cache.get("key") is None
        server.wait_for_close()
        assert cache.set("key", b"1")


def test_silence_amid_a_reply() -> None:
    silent = (GET, b"VALUE key 0 10\r\nhello"), (b"x", Scripted.SILENCE)
    with (
        Scripted([VERSION, *silent], [VERSION, MISS]) as server,
        memcache_shm.connect(server.address, timeout=0.1) as cache,
    ):
        with pytest.raises(RemoteError, match=r"no answer within 0\.1 s"):
            cache.get("key")
        assert cache.get("key") is None, "on a connection without the rest of that reply"


def test_told_and_lost() -> None:
    """What was sent without a reply may not be there: the next call says so."""
    told = WRITE.replace(b" 1\r\n", b" 1 noreply\r\n", 1)
    with Scripted([VERSION, MISS], [VERSION, (told, b"")], [VERSION, MISS]) as server, memcache_shm.connect(server.address) as cache:
        assert cache.get("key") is None
        server.wait_for_close()
        cache.set("key", b"1", noreply=True)
        server.wait_for_close()
        with pytest.raises(RemoteError, match=r"connection lost.*; what was sent with noreply may be lost"):
            cache.get("key")
        assert cache.get("key") is None


def _value(cache: RemoteCache) -> object:
    """Of "key"; or the error, while the supervisor may still give connections to a worker that is dead."""
    try:
        return cache.get("key")
    except RemoteError as error:
        return error


@pytest.mark.parametrize("door", ["unix", "channel"])
def test_killed_workers(door: str) -> None:
    with Daemon("64", "64", workers=2) as daemon:
        prefix = "channel:" if door == "channel" else ""
        with memcache_shm.connect(prefix + daemon.unix_path) as cache:
            cache.set("key", b"1")
            assert cache.get("key") == b"1"
            for worker in daemon.workers:
                os.kill(worker, signal.SIGKILL)
            until(lambda: _value(cache) == b"1", "another worker to serve")
            cache.set("key", b"2", noreply=True)
            assert cache.get("key") == b"2"
