"""A mirror whose source is not there, fails, is replaced, or changes faster than the mirror follows: equal in the end."""

from __future__ import annotations

import logging
import signal
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import pytest
from support.hearing import pairs
from support.mirrors import Heard, mirror_threads
from support.scripted import Scripted
from support.segments import Segment
from support.servers import Daemon, Memcached
from support.waiting import until

import memcache_shm
from memcache_shm import Item, Mirror

Cache = memcache_shm.Cache


# No source, or none any more


def test_no_such_source(state_dir: Path, memcached_with: Callable[..., Memcached]) -> None:
    server = memcached_with()
    cases = {
        "nothing": (memcache_shm.TableNotFoundError, "no table 'nothing'"),
        "127.0.0.1:1": (memcache_shm.RemoteError, "refused"),
        "/nowhere/at/all": (memcache_shm.RemoteError, "No such file"),
        f"{server.host}:{server.port}": (memcache_shm.RemoteError, "does not know 'sync'"),
        "[a:b": (memcache_shm.IllegalInputError, "no address"),
    }
    for address, (kind, text) in cases.items():
        with pytest.raises(kind, match=text):
            Mirror(address)
    assert mirror_threads() == []


def test_feed_off(daemon_with: Callable[..., Daemon]) -> None:
    daemon = daemon_with("-m", "64", "--feed", "0")
    for address in (daemon.name, f"{daemon.host}:{daemon.port}", daemon.unix_path):
        with pytest.raises(memcache_shm.FeedOffError, match="--feed"):
            Mirror(address)


def test_a_copy_that_does_not_end() -> None:
    with Scripted([(b"sync\r\n", b"OK\r\nNOTIFY set key 0 0 1 1\r\nx\r\n"), (b"-", Scripted.SILENCE)]) as server:
        began_s = time.monotonic()
        with pytest.raises(TimeoutError, match=r"not complete within 0.5 s; give it a longer timeout"):
            Mirror(server.address, timeout=0.5)
        assert time.monotonic() - began_s < 3


def test_broken_off_amid_a_notice() -> None:
    """The copy begins anew at the next connection; what does not come again is gone, what is the same is not told again."""
    first = b"OK\r\nNOTIFY set a 0 0 1 1\r\nx\r\nNOTIFY set b 0 0 1 2\r\nx\r\nSYNCED 9\r\n"
    first += b"NOTIFY set c 0 0 1 3\r\nx\r\nNOTIFY set d 0 0 9 4\r\nha"
    again = b"OK\r\nNOTIFY set c 0 0 1 3\r\nx\r\nNOTIFY set b 0 0 1 5\r\ny\r\n"
    complete = b"OK\r\nNOTIFY set c 0 0 1 3\r\nx\r\nNOTIFY set b 7 0 1 5\r\ny\r\nSYNCED 12\r\n"
    heard = Heard()
    with Scripted([(b"sync\r\n", first)], [(b"sync\r\n", again)], [(b"sync\r\n", complete), (b"-", Scripted.SILENCE)]) as server:
        with Mirror(server.address, heard) as mirror:
            until(lambda: mirror.in_step and "a" not in mirror, "the copy after the second break", 20.0)
            assert dict(mirror.items()) == {b"c": b"x", b"b": b"y"}
            assert mirror.item("b") == Item(b"y", 7, 0, 5)
        assert pairs(heard) == [("set", b"c"), ("set", b"b"), ("set", b"b"), ("delete", b"a")]


@pytest.mark.parametrize("form", ["./s", "channel:./s"])
def test_a_relative_path_lasts(form: str, tmp_path: Path, state_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It leads to the same socket when the daemon comes again after the process has gone to another directory."""
    (tmp_path / "daemon").mkdir()
    options = ("--name", "app", "-m", "2", "-s", str(tmp_path / "daemon" / "s"))
    monkeypatch.chdir(tmp_path / "daemon")
    with ExitStack() as stack:
        with Daemon(*options):
            mirror = stack.enter_context(Mirror(form))
            monkeypatch.chdir(tmp_path)
        until(lambda: not mirror.in_step, "the mirror to miss its source")
        with Daemon(*options):
            assert mirror.wait_in_step(10)
            assert mirror.source == form


def test_the_daemon_restarts(tmp_path: Path, state_dir: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Killed, and its table is served again; ended, and the next one is empty."""
    path = str(tmp_path / "s")
    heard = Heard()
    options = ("--name", "app", "-m", "16", "-s", path)
    with Daemon(*options) as daemon, memcache_shm.attach("app") as cache:
        for number in range(10):
            cache.set(f"key{number}", b"%d" % number)
        mirror = Mirror(path, heard)
        workers = daemon.workers
        daemon.stop(signal.SIGKILL)
        until(lambda: not mirror.in_step, "the end to be noticed", 20.0)
        assert len(mirror) == 10
        assert isinstance(mirror.problem, memcache_shm.RemoteError)
        assert workers
        cache.set("key1", b"meanwhile")
        cache.delete("key2")
    with Daemon(*options):
        assert mirror.wait_in_step(20)
        assert mirror.problem is None
        assert dict(mirror.items()) == {b"key%d" % n: b"%d" % n for n in range(10) if n != 2} | {b"key1": b"meanwhile"}
        assert sorted(pairs(heard)) == [("delete", b"key2"), ("set", b"key1")]
    until(lambda: not mirror.in_step, "the end to be noticed", 20.0)
    with Daemon(*options), memcache_shm.attach("app") as cache:
        cache.set("new", b"x")
        until(lambda: mirror.in_step and dict(mirror.items()) == {b"new": b"x"}, "the copy of the new table", 20.0)
    assert ("delete", b"key9") in pairs(heard)
    mirror.close()
    assert [record.levelno for record in caplog.records].count(logging.ERROR) == 0


def test_the_table_is_removed_and_made_anew(state_dir: Path) -> None:
    heard = Heard()
    with memcache_shm.open("test", memory="1m") as cache:
        cache.set("old", b"x")
        cache.set("same", b"x")
        mirror = Mirror("test", heard)
        memcache_shm.unlink("test")
        until(lambda: not mirror.in_step, "the end to be noticed")
        assert mirror["old"] == b"x"
    with memcache_shm.open("test", memory="2m") as anew:
        anew.set("same", b"y")
        until(lambda: mirror.in_step and dict(mirror.items()) == {b"same": b"y"}, "the new table")
        anew.set("new", b"x")
        until(lambda: "new" in mirror, "a change of the new one")
    mirror.close()
    assert {("set", b"same"), ("delete", b"old"), ("set", b"new")} <= {*pairs(heard)}


def test_replaced_at_once(state_dir: Path) -> None:
    with memcache_shm.open("test", memory="1m") as cache:
        cache.set("old", b"x")
        with Mirror("test") as mirror:
            for turn in range(5):
                memcache_shm.unlink("test")
                with memcache_shm.open("test", memory="1m") as anew:
                    anew.set(f"new{turn}", b"x")
                    until(lambda turn=turn: mirror.in_step and list(mirror) == [b"new%d" % turn], "the new table")  # type: ignore[misc]


# Falling behind


def test_lost(source: tuple[str, Cache]) -> None:
    """As if the lease had run out: what was missed is found by reading all anew, and told as far as it is other than before."""
    address, cache = source
    heard = Heard()
    for number in range(50):
        cache.set(f"key{number}", b"%d" % number)
    with Mirror(address, heard) as mirror, Segment(cache.attached_table) as segment:
        with Segment(cache.attached_table) as segment:
            word = segment.header("feed_lease")
            segment.put(word, segment.get(word) >> 40 << 40)
        cache.delete("key1")
        cache.set("key2", b"new")
        cache.set("more", b"x")
        wanted = {b"key%d" % n: b"%d" % n for n in range(50) if n != 1} | {b"key2": b"new", b"more": b"x"}
        until(lambda: dict(mirror.items()) == wanted and mirror.in_step, "it to be in step again", 20.0)
        until(lambda: ("delete", b"key1") in pairs(heard), "the difference to be told")
        assert sorted(set(pairs(heard)) - {("lost", None)}) == [("delete", b"key1"), ("set", b"key2"), ("set", b"more")]


def test_flush_during_the_copy(source: tuple[str, Cache]) -> None:
    address, cache = source
    for number in range(20_000):
        cache.set(f"key{number}", b"x")
    timer = threading.Timer(0.01, cache.flush_all)
    timer.start()
    with Mirror(address, timeout=30) as mirror:
        timer.join()
        cache.set("after", b"x")
        until(lambda: dict(mirror.items()) == {b"after": b"x"}, "all that went to be gone", 20.0)


def test_overtaken_by_a_writer(state_dir: Path) -> None:
    """With a feed that holds some hundred changes: lost now and then, equal at rest."""
    with memcache_shm.open("tiny", memory="512k", max_item="64k", feed="2k") as cache, Mirror("tiny", heard := Heard()) as mirror:
        for _ in range(5):
            for number in range(5000):
                cache.set(f"key{number % 400}", b"%d" % number)
                if number % 3 == 0:
                    cache.delete(f"key{number * 7 % 400}")
            wanted = {b"key%d" % n: cache.get(f"key{n}") for n in range(400) if f"key{n}" in cache}
            until(lambda wanted=wanted: dict(mirror.items()) == wanted and mirror.in_step, "it to be in step", 20.0)  # type: ignore[misc]
        assert ("lost", None) in pairs(heard)
