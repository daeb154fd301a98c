"""Subscriptions of a cache object over a stream whose connections are lost, or which cannot keep up."""

from __future__ import annotations

import contextlib
import gc
import os
import random
import signal
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.hearing import LIMIT_S, Picture, hear, hear_until, pairs
from support.scripted import VERSION, Scripted
from support.servers import Daemon
from support.waiting import until

import memcache_shm
from memcache_shm import Change, RemoteCache, Subscription
from memcache_shm.client.notices import NoticeReader

BEGIN = (b"subscribe key\r\n", b"OK 1\r\n")


@pytest.fixture(scope="module")
def daemon() -> Iterator[Daemon]:
    with Daemon("-m", "64", "-I", "1m") as daemon:
        yield daemon


@pytest.fixture(params=["tcp", "channel"])
def remote(request: pytest.FixtureRequest, daemon: Daemon) -> Iterator[RemoteCache]:
    """An empty cache behind a daemon that has one worker, which may be killed."""
    with memcache_shm.connect(f"channel:{daemon.unix_path}" if request.param == "channel" else f"{daemon.host}:{daemon.port}") as remote:
        remote.flush_all()
        yield remote


def kill_worker(daemon: Daemon) -> None:
    (worker,) = daemon.workers
    os.kill(worker, signal.SIGKILL)
    until(lambda: daemon.workers not in ([worker], []), "another worker")


def heard_until(sub: Subscription, key: bytes, value: bytes) -> Picture:
    """What the changes come to, up to that one."""
    picture = Picture()
    for change in hear_until(sub, lambda change: change[:3] == ("set", key, value), "the last change"):
        picture.take(change)
    return picture


def test_a_killed_worker(daemon: Daemon, remote: RemoteCache, caplog: pytest.LogCaptureFixture) -> None:
    for number in range(5):
        remote.set(f"key{number}", b"%d" % number)
    remote.set("other", b"x")
    with remote.subscribe("key*") as sub:
        remote.delete("key0")
        assert pairs(hear(sub, 1)) == [("delete", b"key0")]
        for _ in range(2):
            kill_worker(daemon)
            heard = hear(sub, 5)
            assert heard[0] == Change("lost", None)
            assert {change.key: change.value for change in heard[1:]} == {b"key%d" % number: b"%d" % number for number in range(1, 5)}
        remote.set("key1", b"after")
        assert [change[:3] for change in hear(sub, 1)] == [("set", b"key1", b"after")]
    assert "connection lost" in caplog.text
    assert "connecting again" in caplog.text


def test_a_daemon_that_is_started_anew(tmp_path: Path) -> None:
    """Its path leads to another table after a while."""
    path = str(tmp_path / "s")
    with Daemon("-m", "16", "-s", path):
        cache = memcache_shm.connect(f"channel:{path}")
        sub = cache.subscribe("key*")
        cache.set("key1", b"old")
        assert pairs(hear(sub, 1)) == [("set", b"key1")]
    assert sub.get(0.3) is None
    with Daemon("-m", "16", "-s", path), memcache_shm.connect(path) as anew:
        anew.set("key2", b"new")
        picture = heard_until(sub, b"key2", b"new")
        assert picture.lost == 1
        assert picture.values == {b"key2": b"new"}
        cache.set("key3", b"by the old object")
        assert pairs(hear(sub, 1)) == [("set", b"key3")]
    cache.close()
    assert list(sub) == []


def test_who_falls_behind_is_told_what_there_is(remote: RemoteCache) -> None:
    value = b"x" * 100_000
    with remote.subscribe("key*") as sub:
        remote.set("gone", b"x")
        remote.set("key100", b"goes")
        remote.delete("key100")
        for number in range(300):
            remote.set(f"key{number % 100}", value)
        remote.set("other", b"x")
        before = remote.stats("shm")[b"shm_lost"]
        assert before > 0
        remote.set("key0", b"last")
        picture = heard_until(sub, b"key0", b"last")

        def is_complete() -> bool:
            for change in iter(lambda: sub.get(0), None):
                picture.take(change)
            return picture.values == {b"key%d" % n: value if n else b"last" for n in range(100)}

        until(is_complete, "all that is there")
        assert picture.lost
        remote.set("key1", b"more")
        assert [change[:3] for change in hear(sub, 1)] == [("set", b"key1", b"more")]


def test_parent_and_forked_child_both_hear_all(remote: RemoteCache) -> None:
    with remote.subscribe("key*") as sub:
        remote.set("key1", b"before")
        assert pairs(hear(sub, 1)) == [("set", b"key1")]
        pid = os.fork()
        if pid == 0:
            status = 1
            try:
                status = 0 if pairs(hear(sub, 2)) == [("lost", None), ("set", b"key1")] else 2
                remote.set("key2", b"by the child")
                status = status or (0 if pairs(hear(sub, 1)) == [("set", b"key2")] else 3)
                sub.close()
            finally:
                os._exit(status)
        assert pairs(hear(sub, 1)) == [("set", b"key2")]
        assert os.waitpid(pid, 0)[1] == 0
        remote.set("key3", b"after")
        assert pairs(hear(sub, 1)) == [("set", b"key3")]


def test_forked_while_threads_wait(remote: RemoteCache) -> None:
    with remote.subscribe("key*") as sub:
        heard: list[Change] = []
        threads = [threading.Thread(target=lambda: heard.extend(sub)) for _ in range(2)]
        for thread in threads:
            thread.start()
        for _ in range(5):
            pid = os.fork()
            if pid == 0:
                status = 1
                try:
                    status = 0 if hear(sub, 1) == [Change("lost", None)] else 2
                finally:
                    os._exit(status)
            assert os.waitpid(pid, 0)[1] == 0
        remote.set("key", b"value")
        until(lambda: pairs(heard) == [("set", b"key")], "the parent to be told")
        sub.close()
        for thread in threads:
            thread.join(5)
            assert not thread.is_alive()


def test_an_exception_amid_what_came_makes_it_come_anew(remote: RemoteCache, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a signal's handler may raise it at any place."""

    def interrupted(reader: NoticeReader, data: bytes) -> list[Change]:
        monkeypatch.undo()
        raise KeyboardInterrupt

    with remote.subscribe("key*") as sub:
        remote.set("key", b"value")
        until(lambda: remote.stats("shm")[b"shm_notified"] > 0, "the change to be told")
        monkeypatch.setattr(NoticeReader, "feed", interrupted)
        with pytest.raises(KeyboardInterrupt):
            hear(sub, 1)
        assert [change[:3] for change in hear(sub, 2)] == [("lost", None, None), ("set", b"key", b"value")]
        remote.delete("key")
        assert pairs(hear(sub, 1)) == [("delete", b"key")]


def test_no_thread_to_connect_with(daemon: Daemon, remote: RemoteCache, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is told, and tried again."""

    def refuse(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    def refused() -> bool:
        try:
            sub.get(0)
        except RuntimeError:
            return True
        return False

    remote.set("key", b"value")
    with remote.subscribe("key") as sub:
        monkeypatch.setattr(threading.Thread, "start", refuse)
        kill_worker(daemon)
        for _ in range(2):
            until(refused, "a refusal")
        monkeypatch.undo()
        assert pairs(hear(sub, 2)) == [("lost", None), ("set", b"key")]


def test_one_that_is_forgotten_connects_no_more() -> None:
    def is_connecting() -> bool:
        return "memcache_shm-reconnect" in [thread.name for thread in threading.enumerate()]

    def lose_connection() -> None:
        sub = cache.subscribe("key")
        server.wait_for_close()
        until(lambda: sub.get(0) is None and is_connecting(), "a thread that connects")

    with Scripted([VERSION], [BEGIN]) as server, memcache_shm.connect(server.address, timeout=0.2) as cache:
        lose_connection()
        gc.collect()
        until(lambda: not is_connecting(), "its end")


def test_reading_and_writing_through(daemon: Daemon) -> None:
    with memcache_shm.attach(daemon.name, readonly=True, writes=daemon.unix_path) as cache, cache.subscribe("key") as sub:
        cache.set("key", b"value")
        (change,) = hear(sub, 1)
        assert b"%d" % change.cas == cache.gets("key")[1]
        kill_worker(daemon)
        assert pairs(hear(sub, 2)) == [("lost", None), ("set", b"key")]


def test_writers_that_are_faster_and_workers_that_die(daemon: Daemon, remote: RemoteCache) -> None:
    """Whatever was lost on the way, it comes to what the table holds."""
    over = threading.Event()

    def write() -> None:
        with memcache_shm.attach(daemon.name) as cache:
            chance = random.Random(1)
            while not over.is_set():
                key = f"key{chance.randrange(300)}"
                if chance.random() < 0.2:
                    cache.delete(key)
                else:
                    cache.set(key, b"%d" % chance.randrange(10**6) * chance.randrange(300))

    picture = Picture()
    writer = threading.Thread(target=write)
    writer.start()
    try:
        with remote.subscribe() as sub:
            for _ in range(3):
                for change in hear(sub, 300):
                    picture.take(change)
                kill_worker(daemon)
                for change in hear_until(sub, lambda change: change.kind == "lost", "the loss"):
                    picture.take(change)
            over.set()
            writer.join()
            found = remote.get_many([f"key{number}" for number in range(300)])

            def is_complete() -> bool:
                for change in iter(lambda: sub.get(0), None):
                    picture.take(change)
                return picture.values == {key.encode(): value for key, value in found.items()}

            until(is_complete, "all to be told")
    finally:
        over.set()
        writer.join()


def test_a_successor_without_a_feed_and_one_without_lists() -> None:
    """The first is an error until there is a feed again; by the second only a loss is told."""
    off = (b"subscribe key\r\n", b"SERVER_ERROR the feed is off; start the daemon with --feed SIZE\r\n")
    refused = (b"sync\r\n", b"CLIENT_ERROR sync not allowed\r\nNOTIFY delete key 0 0 0 5\r\n")
    talks = [VERSION], [BEGIN], [off], [BEGIN, refused, (b"mn\r\n", b"MN\r\n"), (b"mn\r\n", Scripted.SILENCE)]
    with Scripted(*talks) as server, memcache_shm.connect(server.address) as cache, cache.subscribe("key") as sub:
        with pytest.raises(memcache_shm.FeedOffError, match="--feed SIZE"):
            sub.get(LIMIT_S)
        heard: list[Change] = []
        while len(heard) < 2:
            with contextlib.suppress(memcache_shm.FeedOffError):
                heard += hear(sub, 1)
        assert heard == [Change("lost", None), Change("delete", b"key", cas=5)]
