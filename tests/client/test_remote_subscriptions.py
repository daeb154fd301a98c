"""Subscriptions of a cache object over a stream, beside those of an attached one. (Lost connections: test_lost_connections.py.)"""

from __future__ import annotations

import asyncio
import contextlib
import json
import threading
from collections.abc import Callable
from typing import Any

import pytest
from support.hearing import LIMIT_S, hear, pairs
from support.scripted import VERSION, Scripted
from support.servers import Daemon, Memcached
from support.waiting import until

import memcache_shm
from memcache_shm import Change

Cache = memcache_shm.Cache
by_each_door = pytest.mark.parametrize("opened", ["attached", "tcp", "channel", "write-through"], indirect=True)


class Json:
    """A serde as pymemcache has them."""

    def serialize(self, key: object, value: object) -> tuple[bytes, int]:
        return json.dumps(value).encode(), 7

    def deserialize(self, key: object, value: bytes, flags: int) -> object:
        return json.loads(value) if flags == 7 else value


@by_each_door
def test_every_kind(opened: Callable[..., Cache]) -> None:
    cache = opened()
    with cache.subscribe("key") as sub:
        cache.set("key", b"value", expire=1000, flags=5)
        (stored,) = hear(sub, 1)
        assert stored[:4] == ("set", b"key", b"value", 5)
        assert b"%d" % stored.cas == cache.gets("key")[1]
        cache.touch("key", 2000)
        (touched,) = hear(sub, 1)
        assert touched == stored._replace(kind="touch", value=None, exptime=touched.exptime)
        assert 990 <= touched.exptime - stored.exptime <= 1010
        cache.delete("key")
        assert hear(sub, 1) == [Change("delete", b"key", cas=stored.cas)]
        cache.set("other", b"1")
        cache.flush_all()
        cache.set("key", b"after")
        assert pairs(hear(sub, 2)) == [("flush", None), ("set", b"key")]
        assert sub.get(0) is None
        assert sub.get(0.05) is None


@by_each_door
def test_patterns_prefix_and_serde(opened: Callable[..., Cache]) -> None:
    cache, mine = opened(), opened(key_prefix="mine:", serde=Json())
    with mine.subscribe("a*", "b") as sub, mine.subscribe() as everything:
        cache.set("a1", b"other")
        cache.set("mine:c", b"as it is")
        mine.set("a1", {"n": 1})
        mine.set("b", [2])
        assert {change.key: change.value for change in hear(sub, 2)} == {b"a1": {"n": 1}, b"b": [2]}
        assert {change.key: change.value for change in hear(everything, 3)} == {b"a1": {"n": 1}, b"b": [2], b"c": b"as it is"}
        cache.set("mine:b", b"no json", flags=7)
        with pytest.raises(json.JSONDecodeError):
            sub.get(LIMIT_S)
        mine.delete("b")
        assert pairs(hear(sub, 1)) == [("delete", b"b")]


@by_each_door
def test_what_is_no_pattern(opened: Callable[..., Cache]) -> None:
    cache = opened(key_prefix="p")
    for pattern in ("a b", "x" * 250, b"nul\0", "ключ", ["a*"], None):
        with pytest.raises(memcache_shm.IllegalInputError):
            cache.subscribe(pattern)  # type: ignore[arg-type]
    with pytest.raises(memcache_shm.IllegalInputError):
        cache.wait_for("a b", 0)
    with opened(allow_unicode_keys=True).subscribe("ключ*") as sub:
        opened(allow_unicode_keys=True).set("ключ1", b"1")
        assert pairs(hear(sub, 1)) == [("set", "ключ1".encode())]


@by_each_door
@pytest.mark.parametrize("what", ["subscription", "cache"])
def test_closing_ends_who_waits(opened: Callable[..., Cache], what: str) -> None:
    own = opened()
    sub = own.subscribe("key")
    heard: list[object] = []
    threads = [threading.Thread(target=lambda: heard.extend(sub)) for _ in range(3)]
    for thread in threads:
        thread.start()
    threads[0].join(0.15)  # they are waiting by then, or about to
    assert all(thread.is_alive() for thread in threads)
    (sub if what == "subscription" else own).close()
    for thread in threads:
        thread.join(5)
        assert not thread.is_alive()
    assert heard == list(sub) == []
    with pytest.raises(memcache_shm.ClosedError):
        sub.get(0)
    sub.close()


@by_each_door
def test_threads_share_what_comes(opened: Callable[..., Cache]) -> None:
    cache = opened()
    heard: list[list[Change]] = [[], [], []]
    with cache.subscribe("key*") as sub:
        threads = [threading.Thread(target=lambda mine=mine: mine.extend(sub)) for mine in heard]  # type: ignore[misc]
        for thread in threads:
            thread.start()
        for number in range(40):  # fewer than the feed holds
            cache.set(f"key{number}", b"x")
        until(lambda: sum(map(len, heard)) == 40, "all to be told")
        sub.close()
        for thread in threads:
            thread.join()
    assert sorted(change.key or b"" for mine in heard for change in mine) == sorted(b"key%d" % number for number in range(40))


@by_each_door
def test_cancelled_waits_lose_nothing(opened: Callable[..., Cache]) -> None:
    cache = opened()

    async def work() -> None:
        heard: list[Change] = []
        with cache.subscribe("key*") as sub:
            over = threading.Event()

            def write() -> None:
                for number in range(500):
                    cache.set(f"key{number}", b"x")
                    over.wait(0.0005)  # so that there are waits between the changes
                    until(lambda: len(heard) > number - 30, "the others to be told", every_s=0.0005)  # noqa: B023  # called at once

            writer = threading.Thread(target=write)
            writer.start()
            while len(heard) < 500:
                with contextlib.suppress(asyncio.TimeoutError):
                    heard.append(await asyncio.wait_for(anext(sub), 0.0005))
            writer.join()
            task = asyncio.ensure_future(anext(sub))
            await asyncio.sleep(0)
            sub.close()
            with pytest.raises(StopAsyncIteration):
                await task
        assert {change.key for change in heard} == {b"key%d" % number for number in range(500)}

    asyncio.run(asyncio.wait_for(work(), LIMIT_S))


@pytest.mark.parametrize("call", [lambda cache: cache.subscribe("key"), lambda cache: cache.wait_for("no")], ids=["subscribe", "wait_for"])
def test_refusals(call: Callable[[Any], object], daemon_with: Callable[..., Daemon], memcached_with: Callable[..., Memcached]) -> None:
    off = daemon_with("-m", "64", "--feed", "0")
    with memcache_shm.connect(off.unix_path) as cache, pytest.raises(memcache_shm.FeedOffError, match=f"^{off.unix_path}: .*--feed SIZE$"):
        call(cache)
    barred = daemon_with("-m", "64", "-W")
    with memcache_shm.connect(barred.unix_path) as cache, pytest.raises(memcache_shm.RemoteError, match="subscribe commands not allowed"):
        call(cache)
    memcached = memcached_with()
    where = f"{memcached.host}:{memcached.port}"
    with memcache_shm.connect(where) as cache, pytest.raises(memcache_shm.RemoteError, match=f"^{where}: .* does not know 'subscribe'"):
        call(cache)


def test_a_login_is_wanted_and_nobody_is_there() -> None:
    miss = (b"get no\r\n", b"END\r\n")
    login = (b"subscribe no\r\n", b"CLIENT_ERROR unauthenticated\r\n")
    with (
        Scripted([VERSION, miss], [login]) as server,
        memcache_shm.connect(server.address) as cache,
        pytest.raises(memcache_shm.RemoteError, match="wants a login"),
    ):
        cache.wait_for("no")
    with Scripted([VERSION]) as server:
        cache = memcache_shm.connect(server.address)
        address = server.address
    with pytest.raises(memcache_shm.RemoteError, match=f"^{address}: Connection refused$"):
        cache.subscribe("key")
    cache.close()
    with pytest.raises(memcache_shm.ClosedError):
        cache.subscribe("key")
