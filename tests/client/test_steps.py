"""Several keys in one step."""

from __future__ import annotations

import multiprocessing
import os
import random
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from multiprocessing.connection import Connection
from pathlib import Path

import pytest
from support.checks import is_whole
from support.segments import Segment
from support.waiting import until

import memcache_shm
from memcache_shm.client.copying import Copier
from memcache_shm.client.snapshot import Snapshot
from memcache_shm.client.steps import Steps
from memcache_shm.storage import following

GROUP = [b"member%d" % number for number in range(20)]
FORK = multiprocessing.get_context("fork")


@pytest.fixture
def steps(cache: memcache_shm.Cache) -> Steps:
    return Steps(cache)


@pytest.fixture
def strict(state_dir: Path) -> Iterator[memcache_shm.Cache]:
    """Room for three items, and no eviction."""
    with memcache_shm.open("strict", elements=3, element_size=16, evict=False) as cache:
        yield cache


def test_write_read_delete(steps: Steps, cache: memcache_shm.Cache) -> None:
    steps.write([(b"a", b"1"), (b"b b\r\n\0", b"\0two"), (b"c", b"")])
    assert steps.read([b"c", b"nothing", b"b b\r\n\0", b"a"]) == [b"", None, b"\0two", b"1"]
    assert cache.get("a") == b"1"
    assert steps.delete([b"a", b"nothing", b"c"]) == [True, False, True]
    assert steps.read([b"a", b"b b\r\n\0", b"c"]) == [None, b"\0two", None]
    assert is_whole(cache)


def test_keys_have_their_turn_in_the_order_given(steps: Steps) -> None:
    steps.write([(b"k", b"first"), (b"other", b""), (b"k", b"last")])
    assert steps.read([b"k", b"k"]) == [b"last", b"last"]
    assert steps.delete([b"k", b"k"]) == [True, False]


def test_no_keys(steps: Steps) -> None:
    steps.write([])
    assert steps.read([]) == steps.delete([]) == []


def test_many_keys_and_large_values(state_dir: Path) -> None:
    with memcache_shm.open("many", memory="64m") as cache:
        steps = Steps(cache)
        pairs = [(b"key%d" % number, bytes([number % 256]) * (number % 7 * 1000)) for number in range(10_000)]
        steps.write(pairs)
        assert steps.read([key for key, _ in pairs]) == [value for _, value in pairs]
        assert steps.delete([key for key, _ in pairs]) == [True] * len(pairs)
        assert len(cache) == 0


def test_what_has_expired_or_was_flushed_is_not_there(steps: Steps, cache: memcache_shm.Cache) -> None:
    cache.set("gone", b"x", expire=-1)
    assert steps.read([b"gone"]) == [None]
    cache.set("flushed", b"x")
    cache.flush_all()
    assert steps.read([b"flushed"]) == [None]
    assert steps.delete([b"flushed"]) == [False]


@pytest.mark.parametrize("key", [b"", b"k" * 251])
def test_what_is_no_key(steps: Steps, key: bytes) -> None:
    for call in (lambda: steps.write([(b"a", b""), (key, b"")]), lambda: steps.read([key]), lambda: steps.delete([key])):
        with pytest.raises(memcache_shm.IllegalInputError, match="1 to 250 bytes"):
            call()
    assert steps.read([b"a"]) == [None]


def test_a_value_that_is_too_large_leaves_all_as_it_was(steps: Steps, cache: memcache_shm.Cache) -> None:
    with pytest.raises(memcache_shm.TooLargeError, match=r"b'large'.*65536 bytes"):
        steps.write([(b"a", b"1"), (b"large", bytes(65537))])
    assert len(cache) == 0


def test_a_full_table_that_does_not_evict_names_the_key(strict: memcache_shm.Cache) -> None:
    steps = Steps(strict)
    with pytest.raises(memcache_shm.NoSpaceError, match=r"b'd' cannot be stored.*full"):
        steps.write([(key, b"v") for key in (b"a", b"b", b"c", b"d", b"e")])
    assert steps.read([b"a", b"b", b"c", b"d", b"e"]) == [b"v", b"v", b"v", None, None]
    steps.write([(b"a", b"w")])
    assert is_whole(strict)


def test_a_table_that_evicts_goes_on(state_dir: Path) -> None:
    with memcache_shm.open("few", elements=3, element_size=16) as cache:
        Steps(cache).write([(b"%d" % number, b"v") for number in range(50)])
        assert Steps(cache).read([b"49"]) == [b"v"]
        assert len(cache) == 3
        assert is_whole(cache)


def test_without_the_right_to_write(cache: memcache_shm.Cache) -> None:
    with memcache_shm.attach("test", readonly=True) as reader:
        for call in (lambda: Steps(reader).write([(b"a", b"")]), lambda: Steps(reader).read([b"a"]), lambda: Steps(reader).delete([b"a"])):
            with pytest.raises(memcache_shm.ReadOnlyError, match="readonly=True"):
                call()


def test_a_table_that_follows_another_is_read_only(cache: memcache_shm.Cache) -> None:
    cache.set("a", b"1")
    following.follow(cache.attached_table)
    assert Steps(cache).read([b"a"]) == [b"1"]
    with pytest.raises(memcache_shm.ReadOnlyError, match="follows another"):
        Steps(cache).write([(b"a", b"2")])
    with pytest.raises(memcache_shm.ReadOnlyError, match="follows another"):
        Steps(cache).delete([b"a"])
    copier = Copier(cache, exempt=True)
    assert copier.put(b"a", b"3", 0, 0, 5)
    copier.close()
    assert Steps(cache).read([b"a"]) == [b"3"]


def test_a_table_that_was_made_anew(cache: memcache_shm.Cache, state_dir: Path) -> None:
    steps = Steps(cache)
    steps.write([(b"a", b"1")])
    memcache_shm.unlink("test")
    with pytest.raises(memcache_shm.TableRemovedError):
        steps.read([b"a"])
    with memcache_shm.open("test", memory="1m"):
        assert steps.read([b"a"]) == [None]
        steps.write([(b"a", b"2")])
        assert cache.get("a") == b"2"
    cache.close()
    with pytest.raises(memcache_shm.ClosedError):
        steps.read([b"a"])


# One step


def write_steps(name: str, ended: Connection, seed: int) -> None:
    """The whole group at once, again and again until `ended` has something to say."""
    chance = random.Random(seed)
    with memcache_shm.attach(name) as cache:
        steps = Steps(cache)
        while not ended.poll():
            number = b"%d" % chance.randrange(10**9)
            steps.write([(key, number) for key in chance.sample(GROUP, len(GROUP))])


def write_single(name: str, ended: Connection, seed: int) -> None:
    chance = random.Random(seed)
    with memcache_shm.attach(name) as cache:
        while not ended.poll():
            cache.set(chance.choice(GROUP), b"mark")


@pytest.mark.parametrize("geometry", [{"memory": "4m", "max_item": "1k"}, {"elements": 200_000, "element_size": 16}])
def test_nobody_sees_or_makes_half_a_step(state_dir: Path, geometry: dict[str, int | str]) -> None:
    """Those of the group that no single write has marked always have the same number, in steps and in snapshots."""
    with memcache_shm.open("group", **geometry) as cache:
        assert cache.attached_table.geometry.shards > 1
        steps = Steps(cache)
        steps.write([(key, b"0") for key in GROUP])
        hear, end = FORK.Pipe(duplex=False)
        writers = [
            FORK.Process(target=work, args=("group", hear, seed)) for seed, work in enumerate([write_steps, write_steps, write_single])
        ]
        for writer in writers:
            writer.start()
        seen = set()
        try:
            while len(seen) < 100:
                numbers = set(steps.read(GROUP)) - {b"mark"}
                assert len(numbers) <= 1
                seen |= numbers
                numbers = {item.value for item in Snapshot(cache) if item.key in GROUP} - {b"mark"}
                assert len(numbers) <= 1
        finally:
            end.send(None)
            for writer in writers:
                writer.join()
        assert [writer.exitcode for writer in writers] == [0, 0, 0]
        assert is_whole(cache)


@pytest.fixture
def sharded(state_dir: Path) -> Iterator[memcache_shm.Cache]:
    """A table of several shards with a hundred keys, each of which is in one of them."""
    with memcache_shm.open("sharded", memory="4m", max_item="1k") as cache:
        cache.set_many({f"key{number}": b"v" for number in range(100)})
        yield cache


@contextmanager
def last_shard_taken(segment: Segment) -> Iterator[None]:
    """As if another handle of this process were amid a change there: whoever wants that shard waits for it."""
    slots = range(segment.plan.process_slots)
    slot = next(slot for slot in slots if segment.get(segment.process(slot, "pid")) == os.getpid())
    lock = segment.control(segment.shards - 1, "lock")
    segment.put(lock, segment.get(segment.process(slot, "epoch")) << 12 | slot + 1)
    try:
        yield
    finally:
        segment.put(lock, 0)


def await_waiting(segment: Segment) -> None:
    """Until somebody holds all shards below the last one."""
    until(lambda: segment.get(segment.control(segment.shards - 2, "lock")) != 0, "all other shards to be taken", every_s=0.001)


@pytest.mark.parametrize("what", ["read", "write", "delete"])
def test_a_flush_falls_into_no_step(sharded: memcache_shm.Cache, what: str) -> None:
    """It comes while a step has some of its shards and waits for another."""
    in_first = {item.key for item in Snapshot(sharded, shard=0)}  # the flush needs that shard, and has it
    keys = [key for key in (b"key%d" % number for number in range(100)) if key not in in_first]
    steps = Steps(sharded)
    calls: dict[str, Callable[[], list[bytes | None] | list[bool] | None]] = {
        "read": lambda: steps.read(keys),
        "write": lambda: steps.write([(key, b"w") for key in keys]),
        "delete": lambda: steps.delete(keys),
    }
    with memcache_shm.attach("sharded") as other, Segment(sharded.attached_table) as segment, ThreadPoolExecutor(1) as pool:
        with last_shard_taken(segment):
            outcome = pool.submit(calls[what])
            await_waiting(segment)
            other.flush_all()
        told = outcome.result(10)
    there = {value is not None for value in steps.read(keys)}
    assert there == {what == "write"}
    if told is not None:
        assert set(told) == ({None} if what == "read" else {False})
    assert is_whole(sharded)


def test_a_flush_falls_into_no_snapshot(sharded: memcache_shm.Cache) -> None:
    """One that falls due while a snapshot has some shards and waits for another."""
    sharded.flush_all(100)
    with Segment(sharded.attached_table) as segment, ThreadPoolExecutor(1) as pool:
        shift = segment.header("clock_shift_ns")
        with last_shard_taken(segment):
            outcome = pool.submit(lambda: Snapshot(sharded))
            await_waiting(segment)
            segment.put(shift, segment.get(shift) + 200 * 10**9)
        assert len(outcome.result(10)) == 0
    assert is_whole(sharded)


def test_who_waits_for_a_long_step_is_shown_that_it_goes_on(state_dir: Path) -> None:
    with memcache_shm.open("large", memory="64m") as cache, memcache_shm.attach("large") as other:
        cache.set("large", bytes(1 << 20))
        steps = Steps(cache)
        with Segment(cache.attached_table) as segment, ThreadPoolExecutor(1) as pool:
            locks, progress = ([segment.control(shard, name) for shard in range(segment.shards)] for name in ("lock", "progress"))
            before = sum(map(segment.get, progress))
            outcome = pool.submit(lambda: steps.read([b"large"] * 300))
            until(lambda: any(map(segment.get, locks)), "the step to begin", every_s=0.001)
            other.set("large", b"other")
            assert set(outcome.result(60)) == {bytes(1 << 20)}
            assert sum(map(segment.get, progress)) - before > 250
        assert other.get("large") == b"other"


def test_threads_share_one_object(state_dir: Path) -> None:
    """They wait for each other, as processes do, and the one who waits does not keep the other from its end."""
    with memcache_shm.open("threads", memory="4m", max_item="1k") as cache:
        steps = Steps(cache)
        steps.write([(key, b"0") for key in GROUP])
        torn = []

        def work(number: int) -> None:
            for turn in range(300):
                steps.write([(key, b"%d %d" % (number, turn)) for key in GROUP])
                if len(set(steps.read(GROUP))) != 1:
                    torn.append(turn)

        threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert not torn
