"""Hearing of changes through an attached cache: what is told, when, and what happens to who is late."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from model.hammering import Fleet
from support.hearing import Picture, drained, hear_until, pairs
from support.segments import Segment
from support.waiting import until

import memcache_shm
from memcache_shm import Change
from memcache_shm.client.feed import AttachedFeed

Cache = memcache_shm.Cache
FAR_S = 1000


class Json:
    """A serde as pymemcache has them."""

    def serialize(self, key: object, value: object) -> tuple[bytes, int]:
        return json.dumps(value).encode(), 7

    def deserialize(self, key: bytes, value: bytes, flags: int) -> object:
        assert isinstance(key, bytes)
        return json.loads(value) if flags == 7 else value


@pytest.fixture
def tiny(state_dir: Path) -> Iterator[Cache]:
    """A table of one shard whose feed holds some hundred changes."""
    with memcache_shm.open("tiny", memory="512k", max_item="64k", feed="2k") as cache:
        assert cache.attached_table.geometry.shards == 1
        yield cache


def lapse(cache: Cache) -> None:
    """As if nobody had renewed the lease for too long."""
    with Segment(cache.attached_table) as segment:
        word = segment.header("feed_lease")
        segment.put(word, segment.get(word) >> 40 << 40)


def test_every_kind(cache: Cache) -> None:
    with cache.subscribe("key") as sub:
        before_s = time.time()
        cache.set("key", b"value", expire=FAR_S, flags=5)
        (change,) = drained(sub)
        assert change[:4] == ("set", b"key", b"value", 5)
        assert before_s + FAR_S <= change.exptime <= time.time() + FAR_S + 1
        assert b"%d" % change.cas == cache.gets("key")[1]
        cache.touch("key", 2 * FAR_S)
        (touched,) = drained(sub)
        assert touched[:4] == ("touch", b"key", None, 5)
        assert before_s + 2 * FAR_S <= touched.exptime <= time.time() + 2 * FAR_S + 1
        assert touched.cas == change.cas
        cache.delete("key")
        assert list(drained(sub)) == [Change("delete", b"key", cas=change.cas)]
        cache.set("key", b"1")
        cache.incr("key", 41)
        assert [change[:3] for change in drained(sub)] == [("set", b"key", b"42")]
        cache.append("key", b"!")
        assert [change[:3] for change in drained(sub)] == [("set", b"key", b"42!")]
        cache.flush_all()
        cache.set("key", b"after")
        assert pairs(drained(sub)) == [("flush", None), ("set", b"key")]


def test_expiry_is_told_when_it_is_noticed(cache: Cache) -> None:
    with cache.subscribe("key") as sub:
        cache.set("key", b"value", expire=1)
        (stored,) = drained(sub)
        until(lambda: "key" not in cache, "the item to expire")
        cache.set("key", b"again")
        assert pairs(drained(sub))[-1] == ("set", b"key")
        cache.set("key", b"value", expire=-1)
        until(lambda: cache.attached_table.reclaim(0.1) is False and pairs(drained(sub))[-1:] == [("expire", b"key")], "the end to be told")
        assert stored.exptime - time.time() < 2


def test_what_is_over_at_once_is_told_although_nobody_sweeps(cache: Cache) -> None:
    for key in ("stored", "touched", "gone"):
        cache.set(key, b"value")
    with cache.subscribe() as sub:
        cas = int(cache.gets("touched")[1] or 0)
        cache.set("stored", b"new", expire=-1)
        cache.touch("touched", -1)
        cache.set("gone", b"new", expire=-1)
        cache.set("gone", b"newer")
        changes = list(drained(sub))
        heard = {key: [change for change in changes if change.key == key] for key in (b"stored", b"touched", b"gone")}
        assert pairs(heard[b"stored"]) == [("expire", b"stored")]
        assert heard[b"touched"] == [Change("expire", b"touched", cas=cas)]
        assert pairs(heard[b"gone"])[-1] == ("set", b"gone")


def test_evictions(state_dir: Path) -> None:
    with memcache_shm.open("few", elements=4, element_size=50) as few, few.subscribe() as sub:
        picture = Picture()
        kinds = set()
        for number in range(50):
            few.set(f"key{number}", b"%d" % number)
            for change in drained(sub):
                kinds.add(change.kind)
                picture.take(change)
        assert kinds == {"set", "evict"}
        assert picture.values == {b"key%d" % n: b"%d" % n for n in range(50) if few.get(f"key{n}") is not None}
        assert len(picture.values) == len(few)


PATTERNS = {
    (): {b"a", b"ab", b"abc", b"b"},
    ("*",): {b"a", b"ab", b"abc", b"b"},
    ("a*",): {b"a", b"ab", b"abc"},
    (b"ab*",): {b"ab", b"abc"},
    ("ab",): {b"ab"},
    ("b", b"abc", "b"): {b"b", b"abc"},
    ("abcd", "x*"): set(),
}


@pytest.mark.parametrize(("patterns", "told"), PATTERNS.items(), ids=map(str, PATTERNS))
def test_patterns(cache: Cache, patterns: tuple[str | bytes, ...], told: set[bytes]) -> None:
    with cache.subscribe(*patterns) as sub:
        for key in ("a", "ab", "abc", "b"):
            cache.set(key, b"1")
        assert {change.key for change in drained(sub)} == told


@pytest.mark.parametrize("pattern", ["", "a b", "a\n*", "x" * 251, "x" * 251 + "*", "ключ", b"nul\0"])
def test_patterns_that_can_match_nothing_are_refused(cache: Cache, pattern: str | bytes) -> None:
    with pytest.raises(memcache_shm.IllegalInputError):
        cache.subscribe(pattern)


@pytest.mark.parametrize("pattern", [["a*"], 1, None])
def test_what_is_no_pattern_at_all(cache: Cache, pattern: object) -> None:
    with pytest.raises(memcache_shm.IllegalInputError, match="patterns are keys or prefixes"):
        cache.subscribe(pattern)  # type: ignore[arg-type]


def test_longest_keys_and_unicode(cache: Cache) -> None:
    wide = memcache_shm.attach("test", allow_unicode_keys=True)
    with cache.subscribe("x" * 250) as exact, cache.subscribe("x" * 249 + "*") as prefix, wide.subscribe("ключ*") as sub:
        cache.set("x" * 250, b"1")
        wide.set("ключ1", b"2")
        assert [pairs(drained(each)) for each in (exact, prefix)] == [[("set", b"x" * 250)]] * 2
        assert pairs(drained(sub)) == [("set", "ключ1".encode())]


def test_key_prefix_and_serde(cache: Cache) -> None:
    mine = memcache_shm.attach("test", key_prefix="mine:", serde=Json())
    with mine.subscribe() as everything, mine.subscribe("a*", "b") as sub:
        cache.set("a1", b"other")
        cache.set("mine:c", b"as it is")
        mine.set("a1", {"n": 1})
        mine.set("b", [2])
        mine.delete("b")
        assert {change.key: change.value for change in drained(sub)} == {b"a1": {"n": 1}, b"b": None}
        assert {change.key for change in drained(everything)} == {b"a1", b"b", b"c"}
        cache.flush_all()
        assert pairs(drained(sub)) == [("flush", None)]


def test_a_serde_that_fails_costs_one_change(cache: Cache) -> None:
    mine = memcache_shm.attach("test", serde=Json())
    with mine.subscribe("key") as sub:
        cache.set("key", b"no json", flags=7)
        with pytest.raises(json.JSONDecodeError):
            sub.get(5)
        mine.set("key", 1)
        change = sub.get(5)
        assert change is not None
        assert change.value == 1


def test_only_the_last_of_many_values_is_sure(roomy: Cache) -> None:
    with roomy.subscribe("key") as sub:
        for number in range(1000):
            roomy.set("key", b"%d" % number)
        values = [change.value for change in drained(sub)]
        assert values[-1] == b"999"
        assert len(values) < 1000


def test_large_and_binary_values(cache: Cache) -> None:
    values = [b"", b"\0\r\n\xff", os.urandom(60_000)]
    with cache.subscribe() as sub:
        for value in values:
            cache.set("key", value)
            assert [change.value for change in drained(sub)] == [value]


def test_listening_is_no_use_and_no_miss(cache: Cache) -> None:
    with cache.subscribe() as sub:
        before = cache.stats()
        cache.set("key", b"value")
        assert pairs(drained(sub)) == [("set", b"key")]
        after = cache.stats()
        assert [after[name] - before[name] for name in (b"get_hits", b"get_misses")] == [0, 0]


def test_a_change_from_another_process_comes_at_once(cache: Cache) -> None:
    code = "import sys, memcache_shm; c = memcache_shm.attach('test'); sys.stdin.readline(); c.set('key', b'value')"
    with cache.subscribe("key") as sub, subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, text=True) as writer:
        assert sub.get(0) is None
        writer.communicate("go\n")
        change = sub.get(20)
        assert change is not None
        assert change[:3] == ("set", b"key", b"value")


def test_timeouts(cache: Cache) -> None:
    with cache.subscribe("key") as sub:
        cache.set("other", b"1")
        began_s = time.monotonic()
        assert sub.get(0.3) is None
        assert 0.3 <= time.monotonic() - began_s < 2
        assert sub.get(0) is None
        assert sub.get(-1) is None


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
    code = "import memcache_shm; s = memcache_shm.attach('test').subscribe('key'); print('waiting', flush=True); s.get()"
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as waiter:
        assert waiter.stdout is not None
        assert waiter.stdout.readline() == "waiting\n"
        began_s = time.monotonic()
        waiter.send_signal(signal.SIGINT)
        _, error = waiter.communicate(timeout=10)
        assert time.monotonic() - began_s < 5
        assert error.rstrip().endswith("KeyboardInterrupt")


# Falling behind


def test_who_is_overtaken_is_told_what_there_is(tiny: Cache) -> None:
    """The ring went round: LOST, then the present state, and no end of what is to come."""
    tiny.set("key9999", b"stays")
    with tiny.subscribe("key*") as sub:
        tiny.set("key0", b"goes")
        tiny.delete("key0")
        for number in range(1, 1000):
            tiny.set(f"key{number}", b"%d" % number)
            tiny.set(f"other{number % 7}", b"x")
        heard = list(drained(sub))
        assert heard[0].kind == "lost"
        assert heard[0].key is None
        assert 0 <= heard[0].first < heard[0].last
        picture = Picture()
        for change in heard:
            picture.take(change)
        assert picture.values == {b"key%d" % n: b"%d" % n for n in range(1, 1000)} | {b"key9999": b"stays"}
        tiny.set("key1", b"new")
        assert pairs(drained(sub)) == [("set", b"key1")]


def test_who_did_not_renew_is_told_so(cache: Cache) -> None:
    with cache.subscribe("key") as sub:
        lapse(cache)
        cache.set("key", b"unheard")
        heard = list(drained(sub))
        assert pairs(heard) == [("lost", None), ("set", b"key")]
        assert heard[1].value == b"unheard"


def test_the_lease_is_renewed_while_it_waits(cache: Cache) -> None:
    """Longer than a lease without a change, and the next one is told as usual."""
    with cache.subscribe("key") as sub:
        assert sub.get(6) is None
        cache.set("key", b"value")
        assert pairs(drained(sub)) == [("set", b"key")]


@pytest.mark.parametrize("copies", [False, True])
def test_losses_amid_the_telling_of_what_there_is_do_not_begin_it_anew(tiny: Cache, copies: bool) -> None:
    """Somebody who misses something before each item comes to all items, but is not told to have them until nothing is missed."""
    keys = {b"key%d" % number for number in range(300)}
    for key in keys:
        tiny.set(key, b"x")
    feed = AttachedFeed(tiny, (), copies)
    heard: list[Change] = []
    for _ in range(3 * len(keys)):
        lapse(tiny)
        heard += [change for change in (feed.poll(), feed.poll()) if change is not None]
    assert {change.kind for change in heard} == {"lost", "set"}
    assert {change.key for change in heard if change.kind == "set"} == keys
    lapse(tiny)
    rest = list(iter(feed.poll, None))
    assert rest[0].kind == "lost"
    assert {change.key for change in rest if change.kind == "set"} == keys
    assert [change.kind for change in rest if change.key is None] == ["lost", "synced"][: 1 + copies]
    assert len(rest) < 1.5 * len(keys)
    feed.close()


@pytest.mark.parametrize("told", [1, 100, 199, 200])
def test_a_loss_anywhere_in_a_copy(cache: Cache, told: int) -> None:
    """All that is there comes after it, before the copy is said to be complete; several shards."""
    for number in range(200):
        cache.set(f"key{number}", b"old")
    feed = AttachedFeed(cache, (), True)
    for _ in range(told):
        change = feed.poll()
        assert change is not None
        assert change.kind == "set"
    lapse(cache)
    for number in range(0, 400, 3):
        cache.set(f"key{number}", b"new")
    heard = list(iter(feed.poll, None))
    kinds = [change.kind for change in heard]
    assert kinds[0] == "lost"
    copy = {change.key: change.value for change in heard[: kinds.index("synced")] if change.kind == "set"}
    assert copy == {b"key%d" % n: b"old" if n % 3 else b"new" for n in range(400) if n < 200 or n % 3 == 0}
    feed.close()


def test_a_stream_that_copies_tells_a_touch_with_its_value(cache: Cache) -> None:
    cache.set("key", b"value", flags=3)
    feed = AttachedFeed(cache, (), True)
    assert [change.kind for change in iter(feed.poll, None)][:2] == ["set", "synced"]
    cache.touch("key", FAR_S)
    change = next(change for change in iter(feed.poll, 0) if change is not None and change.key)
    assert change[:4] == ("set", b"key", b"value", 3)
    assert change.exptime > time.time()
    feed.close()


def test_overtaken_again_and_again_it_comes_to_the_same(tiny: Cache) -> None:
    """Writers are faster than the listener and its copy, then they rest."""
    over = threading.Event()

    def write() -> None:
        chance = random.Random(1)
        while not over.is_set():
            key = f"key{chance.randrange(300)}"
            if chance.random() < 0.2:
                tiny.delete(key)
            else:
                tiny.set(key, b"%d" % chance.randrange(10**6))

    picture = Picture()
    with tiny.subscribe() as sub:
        writer = threading.Thread(target=write)
        writer.start()
        until(lambda: [picture.take(change) for change in [sub.get(1)] if change] and picture.lost > 3, "it to be overtaken", 30.0, 0.0)
        over.set()
        writer.join()
        for change in drained(sub):
            picture.take(change)
        assert picture.values == {b"key%d" % n: tiny.get(f"key{n}") for n in range(300) if f"key{n}" in tiny}


def test_flush_amid_the_telling_of_what_there_is(tiny: Cache) -> None:
    for number in range(500):
        tiny.set(f"key{number}", b"old")
    with tiny.subscribe() as sub:
        lapse(tiny)
        picture = Picture()
        for _ in range(100):
            change = sub.get(5)
            assert change is not None
            picture.take(change)
        assert picture.values
        tiny.flush_all()
        tiny.set("key7", b"new")
        for change in drained(sub):
            picture.take(change)
        assert picture.values == {b"key7": b"new"}


def test_killed_writers(state_dir: Path) -> None:
    """SIGKILL at any moment, and changes are told as they are in the table."""
    with memcache_shm.open("test", memory="1m", max_item="16k", feed="64k") as cache:

        def start(number: int) -> Callable[[], None]:
            own = memcache_shm.attach("test")
            chance = random.Random(number)

            def work() -> None:
                key = f"key{chance.randrange(100)}"
                roll = chance.random()
                if roll < 0.1:
                    own.delete(key)
                else:
                    own.set(key, b"%d " % chance.randrange(10**9) * chance.randrange(300))

            return work

        fleet = Fleet(start, 2)
        chance = random.Random(5)
        picture = Picture()
        try:
            with cache.subscribe() as sub:
                for _ in range(40):
                    until(lambda: [picture.take(change) for _, change in zip(range(200), drained(sub), strict=False)], "changes")
                    fleet.kill_one(chance)
                fleet.end_all()
                found = {key: cache.get(key) for key in (f"key{n}" for n in range(100))}

                def is_complete() -> bool:
                    for change in drained(sub):
                        picture.take(change)
                    return picture.values == {key.encode(): value for key, value in found.items() if value is not None}

                until(is_complete, "what the last one killed has changed")
        finally:
            fleet.end_all()


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
