"""Subscriptions that are closed, whose table goes away or cannot be listened to, and those of several threads and processes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from support.hearing import drained, hear_until, pairs
from support.waiting import until

import memcache_shm
from memcache_shm import Change

Cache = memcache_shm.Cache


# Ending


def ends(call: Callable[[], object], end: Callable[[], object]) -> object:
    """What `call` comes to in a thread when `end` is called while it waits."""
    outcome: list[object] = []

    def run() -> None:
        try:
            outcome.append(call())
        except memcache_shm.MemcacheError as error:
            outcome.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join(0.15)  # it is waiting by then, or is about to: both must end
    assert thread.is_alive()
    end()
    thread.join(5)
    assert not thread.is_alive()
    return outcome[0]


@pytest.mark.parametrize("what", ["subscription", "cache"])
def test_closing_ends_who_waits(cache: Cache, what: str) -> None:
    for call in (lambda sub: list(sub), lambda sub: sub.get()):
        own = memcache_shm.attach("test")
        sub = own.subscribe("key")
        outcome = ends(lambda call=call, sub=sub: call(sub), sub.close if what == "subscription" else own.close)  # type: ignore[misc]
        assert outcome == [] or isinstance(outcome, memcache_shm.ClosedError)
        assert list(sub) == []
        with pytest.raises(memcache_shm.ClosedError):
            sub.get(0)
        sub.close()
        sub.close()
        own.close()


def test_closing_under_many_readers_and_a_writer(cache: Cache) -> None:
    """Nobody reads what is unmapped or freed, whatever they are amid."""
    for _ in range(30):
        own = memcache_shm.attach("test")
        sub = own.subscribe()
        threads = [threading.Thread(target=lambda sub=sub: [None for _ in sub]) for _ in range(3)]  # type: ignore[misc]
        for thread in threads:
            thread.start()
        for number in range(200):
            cache.set(f"key{number % 10}", b"x" * 40_000)
        own.close()
        sub.close()
        for thread in threads:
            thread.join(5)
            assert not thread.is_alive()


def test_a_signal_handler_closes_amid_a_look_for_the_next_table(state_dir: Path) -> None:
    """It runs in the thread that has the lock then."""
    code = """if True:
        import memcache_shm, signal, time
        from memcache_shm.storage import registry
        found, ended = registry.attach, []
        def attach(*words, **options):
            signal.raise_signal(signal.SIGUSR1)
            return found(*words, **options)
        signal.signal(signal.SIGUSR1, lambda number, frame: (sub.close(), ended.append(number)))
        cache = memcache_shm.open("going", memory="1m")
        sub = cache.subscribe()
        memcache_shm.unlink("going")
        registry.attach = attach
        try:
            sub.get(0)
        except memcache_shm.TableRemovedError:
            print(list(sub), len(ended))
    """
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=20, check=False)
    assert (result.stdout, result.stderr) == ("[] 1\n", "")


def test_control_c(cache: Cache) -> None:
    code = (
        "import memcache_shm, signal; signal.signal(signal.SIGINT, signal.default_int_handler)\n"  # a job in the background ignores it
        "s = memcache_shm.attach('test').subscribe('key'); print('waiting', flush=True); s.get()"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as waiter:
        assert waiter.stdout is not None
        assert waiter.stdout.readline() == "waiting\n"
        began_s = time.monotonic()
        waiter.send_signal(signal.SIGINT)
        _, error = waiter.communicate(timeout=10)
        assert time.monotonic() - began_s < 5
        assert error.rstrip().endswith("KeyboardInterrupt")


# Threads, processes


def test_threads_share_what_comes(roomy: Cache) -> None:
    heard: list[list[Change]] = [[], [], []]
    with roomy.subscribe("key*") as sub:
        threads = [threading.Thread(target=lambda mine=mine: mine.extend(sub)) for mine in heard]  # type: ignore[misc]
        for thread in threads:
            thread.start()
        for number in range(500):
            roomy.set(f"key{number}", b"x")
        until(lambda: sum(map(len, heard)) == 500, "all to be told")
        sub.close()
        for thread in threads:
            thread.join()
    assert sorted(change.key or b"" for mine in heard for change in mine) == sorted(b"key%d" % number for number in range(500))


def test_parent_and_forked_child_both_hear_all(cache: Cache) -> None:
    with cache.subscribe("key*") as sub:
        cache.set("key1", b"before")
        pid = os.fork()
        if pid == 0:
            status = 1
            try:
                heard = [sub.get(10), sub.get(10)]
                status = 0 if {*pairs(heard)} == {("set", b"key1"), ("set", b"key2")} else 2
            finally:
                os._exit(status)
        cache.set("key2", b"after")
        assert {*pairs(drained(sub))} == {("set", b"key1"), ("set", b"key2")}
        assert os.waitpid(pid, 0)[1] == 0
        assert sub.get(0) is None


def test_forked_while_another_thread_reads(cache: Cache) -> None:
    """Whatever the thread was amid, the child goes on, and hears what comes."""
    over = threading.Event()

    def write() -> None:
        while not over.is_set():
            cache.set("busy", b"x" * 60_000)

    with cache.subscribe() as sub:
        threads = [threading.Thread(target=write), threading.Thread(target=lambda: [None for _ in sub])]
        for thread in threads:
            thread.start()
        pids = []
        for _ in range(20):
            pid = os.fork()
            if pid == 0:
                status = 1
                try:
                    own = memcache_shm.attach("test")
                    own.set(f"child{os.getpid()}", b"1")
                    mine = f"child{os.getpid()}".encode()
                    status = 0 if any(change.key == mine for change in iter(lambda: sub.get(20), None)) else 2
                finally:
                    os._exit(status)
            pids.append(pid)
        assert [os.waitpid(pid, 0)[1] for pid in pids] == [0] * len(pids)
        over.set()
        sub.close()
        for thread in threads:
            thread.join()


# What cannot be listened to, and what goes away


def test_read_only_tells_the_way_through_a_daemon(cache: Cache) -> None:
    reader = memcache_shm.attach("test", readonly=True)
    for call in (lambda: reader.subscribe("key"), lambda: reader.wait_for("key")):
        with pytest.raises(memcache_shm.ReadOnlyError, match=r"Mirror\('HOST:PORT'\)"):
            call()


def test_feed_off(state_dir: Path) -> None:
    with memcache_shm.open("off", memory="1m", feed=0) as cache:
        for call in (lambda: cache.subscribe("key"), lambda: cache.wait_for("key")):
            with pytest.raises(memcache_shm.FeedOffError, match=r"'off'.*feed=.*--feed"):
                call()


def test_a_removed_table_and_its_successor(cache: Cache) -> None:
    sub = cache.subscribe("key*")
    memcache_shm.unlink("test")
    for _ in range(2):
        with pytest.raises(memcache_shm.TableRemovedError, match="'test' was removed"):
            sub.get(5)
    with memcache_shm.open("test", memory="1m", max_item="64k") as anew:
        anew.set("key1", b"there")
        assert pairs(drained(sub)) == [("lost", None), ("set", b"key1")]
        anew.set("key2", b"too")
        assert pairs(drained(sub)) == [("set", b"key2")]
        cache.set("key3", b"by the old handle")
        assert pairs(drained(sub)) == [("set", b"key3")]
    sub.close()


def test_replaced_while_it_waits(cache: Cache) -> None:
    """The name leads to another table at once: no error, but what is there now."""
    for turn in range(5):
        with cache.subscribe("key") as sub:
            memcache_shm.unlink("test")
            with memcache_shm.open("test", memory="1m", max_item="64k") as anew:
                anew.set("key", b"%d" % turn)
                heard = hear_until(sub, lambda change: change.kind == "set", "the new table's item")
                assert [change[:3] for change in heard] == [("lost", None, None), ("set", b"key", b"%d" % turn)]


def test_a_successor_without_a_feed(cache: Cache) -> None:
    with cache.subscribe("key") as sub:
        memcache_shm.unlink("test")
        with memcache_shm.open("test", memory="1m", feed=0):
            for _ in range(2):
                with pytest.raises(memcache_shm.FeedOffError):
                    sub.get(1)
