"""A mirror of an attached table, over TCP and over a UNIX socket: complete at once, then in step, whatever happens to its source."""

from __future__ import annotations

import gc
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from support.hearing import pairs
from support.scripted import Scripted
from support.segments import Segment
from support.servers import Daemon, Memcached
from support.waiting import until

import memcache_shm
from memcache_shm import Change, Item, Mirror
from memcache_shm.client.mirrored import MirroredItems

Cache = memcache_shm.Cache
FAR_S = 1000
NEAR_S = 20  # that a test may take


class Heard(list[Change]):
    """What a callback was told."""

    def __call__(self, change: Change) -> None:
        self.append(change)


@pytest.fixture(params=["attached", "tcp", "unix"])
def source(request: pytest.FixtureRequest, daemon_with: Callable[..., Daemon]) -> Iterator[tuple[str, Cache]]:
    """A source as users write it, and the table behind it, empty."""
    daemon = daemon_with("-m", "16", workers=2)
    with memcache_shm.attach(daemon.name) as cache:
        cache.flush_all()
        addresses = {"attached": daemon.name, "tcp": f"{daemon.host}:{daemon.port}", "unix": daemon.unix_path}
        yield addresses[request.param], cache


def is_item(mirror: Mirror, cache: Cache, key: str, flags: int, exptime: float) -> bool:
    """Whether a mirrored item is the table's, its expiry within some seconds."""
    value, cas = cache.gets(key)
    item = mirror.item(key)
    return (item.value, item.flags, b"%d" % item.cas) == (value, flags, cas) and abs(item.exptime - exptime) <= NEAR_S


# A mapping


def test_complete_and_then_in_step(source: tuple[str, Cache]) -> None:
    address, cache = source
    for number in range(3000):
        cache.set(f"key{number}", b"%d" % number, flags=number)
    with Mirror(address) as mirror:
        assert dict(mirror.items()) == {b"key%d" % number: b"%d" % number for number in range(3000)}
        assert len(mirror) == 3000
        assert mirror.in_step
        assert is_item(mirror, cache, "key7", 7, 0)
        cache.set("key7", b"new", flags=8, expire=FAR_S)
        until(lambda: mirror["key7"] == b"new", "the new value")
        assert is_item(mirror, cache, "key7", 8, time.time() + FAR_S)
        cache.touch("key7", 2 * FAR_S)
        until(lambda: mirror.item(b"key7").exptime > time.time() + FAR_S + NEAR_S, "the new expiry")
        assert is_item(mirror, cache, "key7", 8, time.time() + 2 * FAR_S)
        cache.delete("key8")
        until(lambda: "key8" not in mirror, "the delete")
        cache.incr("key9", 1)
        until(lambda: mirror["key9"] == b"10", "the number")
        cache.flush_all()
        cache.set("after", b"flush")
        until(lambda: dict(mirror.items()) == {b"after": b"flush"}, "the flush")


def test_it_is_a_mapping(source: tuple[str, Cache]) -> None:
    address, cache = source
    cache.set("a", b"1")
    cache.set("b", b"2", flags=3)
    with Mirror(address) as mirror:
        assert sorted(mirror) == sorted(mirror.keys()) == [b"a", b"b"]
        assert sorted(mirror.items()) == [(b"a", b"1"), (b"b", b"2")]
        assert sorted(mirror.values()) == [b"1", b"2"]
        assert mirror == {b"a": b"1", b"b": b"2"}
        assert (mirror["a"], mirror[b"b"], mirror.get("c"), mirror.get("c", b"3")) == (b"1", b"2", None, b"3")
        assert "a" in mirror
        assert b"c" not in mirror
        assert 1 not in mirror
        assert (b"a", b"1") in mirror.items()
        assert isinstance(mirror.item("b"), Item)
        assert mirror.item("b")[:3] == (b"2", 3, 0)
        for call in (lambda: mirror["c"], lambda: mirror.item(b"c")):
            with pytest.raises(KeyError):
                call()
        with pytest.raises(TypeError):
            mirror["a"] = b"2"  # type: ignore[index]
        assert address in repr(mirror)


def test_iteration_while_it_changes(source: tuple[str, Cache]) -> None:
    """Each one is of the keys of its beginning; nothing is skipped that was there all along."""
    address, cache = source
    stay = {b"stay%d" % number: b"x" for number in range(200)}
    for key, value in stay.items():
        cache.set(key, value)
    over = threading.Event()

    def write() -> None:
        number = 0
        while not over.is_set():
            cache.set(f"k{number % 500}", b"y")
            cache.delete(f"k{(number + 250) % 500}")
            number += 1

    writer = threading.Thread(target=write)
    with Mirror(address) as mirror:
        writer.start()
        try:
            end_s = time.monotonic() + 1
            while time.monotonic() < end_s:
                assert stay.items() <= dict(mirror.items()).items()
                assert stay.keys() <= set(mirror)
                assert len(list(mirror.values())) >= len(stay)
                assert len(mirror) >= len(stay)
        finally:
            over.set()
            writer.join()


def test_expired_items_vanish_without_being_told(source: tuple[str, Cache]) -> None:
    address, cache = source
    heard = Heard()
    cache.set("short", b"x", expire=2)
    cache.set("long", b"x", expire=FAR_S)
    with Mirror(address, heard) as mirror:
        end_s = mirror.item("short").exptime
        assert len(mirror) == 2
        until(lambda: "short" not in mirror, "the end")
        assert time.time() <= end_s + 1
        assert len(mirror) == 1
        assert list(mirror) == list(dict(mirror.items())) == [b"long"]
        assert len(list(mirror.values())) == 1
        until(lambda: heard, "it to be told")
        cache.attached_table.reclaim(0.1)
        cache.set("other", b"x")
        until(lambda: "other" in mirror, "a later change")
        assert pairs(heard) == [("expire", b"short"), ("set", b"other")]


# Telling


def test_callback(source: tuple[str, Cache]) -> None:
    address, cache = source
    cache.set("there", b"1")
    heard = []
    done = threading.Event()

    def hear(change: Change) -> None:
        """What was told is in the mirror by then."""
        assert change.key is not None
        heard.append((change.kind, change.key, mirrors[0].get(change.key)))
        if change.key == b"last":
            done.set()

    mirrors: list[Mirror] = []
    with Mirror(address, hear) as mirror:
        mirrors.append(mirror)
        cache.set("key", b"1")
        until(lambda: "key" in mirror, "the set")
        cache.touch("key", FAR_S)
        until(lambda: mirror.item("key").exptime, "the touch")
        cache.delete("key")
        until(lambda: "key" not in mirror, "the delete")
        cache.set("last", b"2")
        assert done.wait(10)
    assert heard == [("set", b"key", b"1"), ("touch", b"key", b"1"), ("delete", b"key", None), ("set", b"last", b"2")]


def test_callback_for_what_is_there_at_first(source: tuple[str, Cache]) -> None:
    address, cache = source
    for number in range(100):
        cache.set(f"key{number}", b"x")
    heard = Heard()
    with Mirror(address, heard, initial=True):
        assert sorted(pairs(heard)) == sorted(("set", b"key%d" % number) for number in range(100))


def test_a_callback_that_fails(source: tuple[str, Cache], caplog: pytest.LogCaptureFixture) -> None:
    address, cache = source

    def fail(change: Change) -> None:
        raise ZeroDivisionError

    with Mirror(address, fail) as mirror:
        for number in range(3):
            cache.set(f"key{number}", b"x")
        until(lambda: len(mirror) == 3, "the mirror to go on")
        until(lambda: len(caplog.records) == 3, "the failures in the log")
        assert mirror.in_step
    assert {record.levelno for record in caplog.records} == {logging.ERROR}
    assert "on_change failed at set of b'key" in caplog.text
    assert "ZeroDivisionError" in caplog.text


def test_a_callback_that_exits(source: tuple[str, Cache], caplog: pytest.LogCaptureFixture) -> None:
    """It is the mirror's thread that it would end: nothing would be followed any more."""
    address, cache = source
    with Mirror(address, lambda change: sys.exit(3)) as mirror:
        for number in range(3):
            cache.set(f"key{number}", b"x")
            until(lambda number=number: f"key{number}" in mirror, "the mirror to go on")  # type: ignore[misc]
        until(lambda: len(caplog.records) == 3, "the failures in the log")
        assert mirror.in_step


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_thread_that_ends_is_noticed(source: tuple[str, Cache]) -> None:
    class Exits(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            raise SystemExit

    address, cache = source
    log, handler = logging.getLogger("memcache_shm.client.keeping"), Exits()
    log.addHandler(handler)
    try:
        with Mirror(address, lambda change: sys.exit(3)) as mirror:
            cache.set("key", b"x")
            until(lambda: not mirror.in_step, "the end to be seen")
            assert "ended with SystemExit()" in str(mirror.problem)
    finally:
        log.removeHandler(handler)


def test_a_callback_that_closes(source: tuple[str, Cache]) -> None:
    address, cache = source
    mirrors: list[Mirror] = []
    with Mirror(address, lambda change: mirrors[0].close()) as mirror:
        mirrors.append(mirror)
        cache.set("key", b"x")
        until(lambda: not mirror_threads(), "the thread to end")
        with pytest.raises(memcache_shm.ClosedError):
            len(mirror)


# Ending


def mirror_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "memcache_shm-mirror"]


def test_close(source: tuple[str, Cache]) -> None:
    mirror = Mirror(source[0])
    assert len(mirror_threads()) == 1
    mirror.close()
    assert mirror_threads() == []
    mirror.close()
    calls: list[Callable[[], object]] = [
        lambda: mirror["key"], lambda: len(mirror), lambda: list(mirror), lambda: "key" in mirror, lambda: list(mirror.items()),
        lambda: mirror.in_step, lambda: mirror.wait_in_step(1), lambda: mirror.item("key"),
    ]  # fmt: skip
    for call in calls:
        with pytest.raises(memcache_shm.ClosedError, match="make another one"):
            call()


def test_one_that_is_forgotten_ends(source: tuple[str, Cache]) -> None:
    mirror = Mirror(source[0])
    assert mirror_threads()
    del mirror
    gc.collect()
    until(lambda: not mirror_threads(), "the thread to end")


def test_forked_child_has_none(source: tuple[str, Cache]) -> None:
    """A clear error there, and another one works; the parent's goes on."""
    address, cache = source
    cache.set("key", b"1")
    with Mirror(address) as mirror:
        pid = os.fork()
        if pid == 0:
            status = 1
            try:
                try:
                    mirror["key"]
                except memcache_shm.MemcacheError as error:
                    status = 2 if f"process {os.getppid()}; make another one" in str(error) else 3
                mirror.close()
                with Mirror(address) as own:
                    status = 0 if status == 2 and own["key"] == b"1" else 4
            finally:
                os._exit(status)
        assert os.waitpid(pid, 0)[1] == 0
        cache.set("key", b"2")
        until(lambda: mirror["key"] == b"2", "the parent's to go on")


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


def test_clock_that_goes_ahead() -> None:
    """An item that is over by this host's clock only comes back when its source gives it more time."""
    soon = int(time.time()) - 10
    later = soon + FAR_S
    told = b"OK\r\nNOTIFY set a 3 %d 1 1\r\nx\r\nNOTIFY set b 0 %d 1 2\r\nx\r\nSYNCED 9\r\nALIVE 9\r\n" % (soon, soon)
    heard = Heard()
    with Scripted(
        [(b"sync\r\n", told), (b"", b"NOTIFY touch a 3 %d 0 1\r\nNOTIFY expire b 0 0 0 2\r\n" % later), (b"-", Scripted.SILENCE)]
    ) as server:
        with Mirror(server.address, heard) as mirror:
            until(lambda: "a" in mirror, "the touch")
            assert mirror.item("a") == Item(b"x", 3, later, 1)
            assert dict(mirror.items()) == {b"a": b"x"}
            until(lambda: {("set", b"a"), ("touch", b"a")} & {*pairs(heard)}, "it to be told")
        assert {("expire", b"b"), ("expire", b"a")} >= {pair for pair in pairs(heard) if pair[0] == "expire"}


def test_what_is_over_by_the_clock_is_told_once() -> None:
    """It is put aside; then it comes back, or goes for good, or is not among what is copied anew."""
    mirrored = MirroredItems()
    for key in (b"a", b"b", b"c", b"d"):
        assert pairs(mirrored.apply(Change("set", key, b"x", 0, 100, 1))) == [("set", key)]
    assert mirrored.apply(Change("set", b"a", b"x", 0, 100, 1)) == ()
    assert mirrored.apply(Change("synced", None)) == []
    assert (mirrored.count(99), mirrored.count(100)) == (4, 0)
    assert mirrored.expire(99) == []
    assert sorted(pairs(mirrored.expire(100))) == [("expire", key) for key in (b"a", b"b", b"c", b"d")]
    assert mirrored.expire(200) == []
    assert mirrored.items == {}
    assert mirrored.apply(Change("expire", b"a")) == ()
    assert mirrored.apply(Change("touch", b"a", None, 0, 200, 1)) == ()
    assert list(mirrored.apply(Change("touch", b"b", None, 0, 200, 1))) == [Change("set", b"b", b"x", 0, 200, 1)]
    assert mirrored.apply(Change("set", b"c", b"x", 0, 100, 1)) == ()
    assert list(mirrored.apply(Change("set", b"c", b"y", 0, 200, 2))) == [Change("set", b"c", b"y", 0, 200, 2)]
    mirrored.begin()
    assert pairs(mirrored.apply(Change("set", b"b", b"x", 0, 200, 1))) == []
    assert pairs(mirrored.apply(Change("synced", None))) == [("delete", b"c")]
    assert mirrored.items.keys() == {b"b"}
    assert mirrored.apply(Change("touch", b"d", None, 0, 300, 1)) == ()


def test_what_was_over_by_a_clock_that_was_ahead_comes_back() -> None:
    mirrored = MirroredItems()
    for number in range(3):
        mirrored.apply(Change("set", b"%d" % number, b"x", 7, 100 * (1 + number), number))
    mirrored.apply(Change("synced", None))
    assert pairs(mirrored.expire(1000)) == [("expire", b"0"), ("expire", b"1"), ("expire", b"2")]
    assert mirrored.expire(150) == [Change("set", b"1", b"x", 7, 200, 1), Change("set", b"2", b"x", 7, 300, 2)]
    assert mirrored.items.keys() == {b"1", b"2"}
    assert mirrored.count(150) == 2
    assert mirrored.expire(150) == []
    assert pairs(mirrored.expire(200)) == [("expire", b"1")]
    assert pairs(mirrored.expire(300)) == [("expire", b"2")]


def test_a_touch_that_comes_with_its_value_is_told_as_a_touch() -> None:
    mirrored = MirroredItems()
    mirrored.apply(Change("set", b"key", b"x", 7, 100, 1))
    assert list(mirrored.apply(Change("set", b"key", b"x", 7, 200, 1))) == [Change("touch", b"key", None, 7, 200, 1)]
    assert mirrored.items[b"key"] == Item(b"x", 7, 200, 1)
    assert list(mirrored.apply(Change("set", b"key", b"x", 7, 200, 2))) == [Change("set", b"key", b"x", 7, 200, 2)]
    assert pairs(mirrored.expire(200)) == [("expire", b"key")]
    assert list(mirrored.apply(Change("set", b"key", b"x", 7, 300, 2))) == [Change("set", b"key", b"x", 7, 300, 2)]


def test_a_clock_that_is_set_wrong_for_a_moment(cache: Cache, monkeypatch: pytest.MonkeyPatch) -> None:
    cache.set("key", b"value", expire=FAR_S)
    right = time.time
    heard = Heard()
    with Mirror("test", heard) as mirror:
        monkeypatch.setattr(time, "time", lambda: right() + 2 * FAR_S)
        until(lambda: pairs(heard) == [("expire", b"key")], "it to be over")
        monkeypatch.setattr(time, "time", right)
        until(lambda: mirror.get("key") == b"value", "it to be there again")
        assert pairs(heard) == [("expire", b"key"), ("set", b"key")]


def test_what_the_table_has_as_over_is_no_more_in_a_mirror(cache: Cache) -> None:
    """Stored or touched with a time that is over: nobody sweeps this table, and the mirror must not serve the old value."""
    heard = Heard()
    for key in ("stored", "touched"):
        cache.set(key, b"old")
    with Mirror("test", heard) as mirror:
        cache.set("stored", b"new", expire=-1)
        cache.touch("touched", -1)
        until(lambda: not mirror, "both to go")
        assert sorted(pairs(heard)) == [("expire", b"stored"), ("expire", b"touched")]


def test_expiries_that_change_take_no_room() -> None:
    mirrored = MirroredItems()
    for number in range(20_000):
        mirrored.apply(Change("set", b"key%d" % (number % 10), b"x", 0, 1000 + number, number))
    assert len(mirrored._due) < 2000
    assert len(list(mirrored.expire(10**6))) == 10
