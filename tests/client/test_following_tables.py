"""Keeping everybody else out of a table that follows another, until it is promoted."""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from support.checks import is_whole
from support.waiting import until

import memcache_shm
from memcache_shm.cli.main import main
from memcache_shm.client.copying import Copier
from memcache_shm.storage import following

FAR = 2_000_000_000  # unix time


@pytest.fixture
def follower(cache: memcache_shm.Cache) -> Iterator[Copier]:
    """Of a table that follows another, and that has one item."""
    cache.set("old", b"12", flags=3)
    following.follow(cache.attached_table)
    copier = Copier(cache, exempt=True)
    yield copier
    copier.close()


# Who may change a table that follows


CHANGES: dict[str, Callable[[memcache_shm.Cache], object]] = {
    "set": lambda cache: cache.set("key", b"v"),
    "set over": lambda cache: cache.set("old", b"v"),
    "add": lambda cache: cache.add("key", b"v"),
    "replace": lambda cache: cache.replace("old", b"v"),
    "append": lambda cache: cache.append("old", b"v"),
    "prepend": lambda cache: cache.prepend("old", b"v"),
    "cas": lambda cache: cache.cas("old", b"v", cache.gets("old")[1]),
    "delete": lambda cache: cache.delete("old"),
    "delete missing": lambda cache: cache.delete("key"),
    "incr": lambda cache: cache.incr("old", 1),
    "decr": lambda cache: cache.decr("old", 1),
    "touch": lambda cache: cache.touch("old", 0),
    "gat": lambda cache: cache.gat("old", 0),
    "gats": lambda cache: cache.gats("old", 0),
    "flush_all": lambda cache: cache.flush_all(),
    "flush_all later": lambda cache: cache.flush_all(100),
    "set large": lambda cache: cache.set("key", bytes(60_000)),
}


@pytest.mark.parametrize("name", CHANGES)
def test_a_change_is_refused(cache: memcache_shm.Cache, follower: Copier, name: str) -> None:
    id_before = cache.gets("old")[1]
    with pytest.raises(memcache_shm.ReadOnlyError, match=r"table 'test' follows another: .*promote test"):
        CHANGES[name](cache)
    assert cache.gets("old") == (b"12", id_before)
    assert len(cache) == 1


def test_who_keeps_it_in_step_may_change_it(cache: memcache_shm.Cache, follower: Copier) -> None:
    follower.begin_copy()
    assert follower.put(b"key", b"v", 0, 0, 11)
    assert follower.end_copy() == 1
    assert follower.touch(b"key", FAR)
    assert cache.gets("key") == (b"v", b"11")
    follower.flush()
    assert len(cache) == 0


def test_an_item_expires_all_the_same(cache: memcache_shm.Cache, follower: Copier) -> None:
    follower.put(b"soon", b"v", 0, int(time.time()) + 1, 1)
    until(lambda: cache.get("soon") is None, "the item to expire", 3)
    until(lambda: not cache.attached_table.reclaim(0.01) and len(cache) == 1, "its space to come back", 3)


def test_a_plain_copier_is_kept_out(cache: memcache_shm.Cache, follower: Copier) -> None:
    other = Copier(cache)
    with pytest.raises(memcache_shm.ReadOnlyError, match="follows another"):
        other.put(b"key", b"v", 0, 0, 1)
    other.close()


def test_an_exempt_copier_changes_only_what_follows(cache: memcache_shm.Cache) -> None:
    copier = Copier(cache, exempt=True)
    with pytest.raises(memcache_shm.ReadOnlyError, match="follows no other"):
        copier.put(b"key", b"v", 0, 0, 1)
    copier.close()


# Promotion


def test_promotion(cache: memcache_shm.Cache, follower: Copier, capsys: pytest.CaptureFixture[str]) -> None:
    ids = [10**15 + number for number in range(1000)]
    for number, cas in enumerate(ids):
        follower.put(b"k%d" % number, b"v", 0, 0, cas)
    assert main(["promote", "test"]) == 0
    line = capsys.readouterr().out
    assert line.startswith("test is independent with 1001 items, never in step")
    assert line.endswith(f"above {max(ids)}\n")
    for number in range(200):
        assert cache.set(f"n{number}", b"v")
    new = [int(cache.gets(f"n{number}")[1]) for number in range(200)]
    assert min(new) > max(ids)
    assert len(set(new)) == 200
    assert cache.gets("k7") == (b"v", b"%d" % ids[7])
    assert is_whole(cache)
    with pytest.raises(memcache_shm.ReadOnlyError, match="follows no other"):
        follower.put(b"key", b"late", 0, 0, 1)
    with pytest.raises(memcache_shm.ReadOnlyError):
        follower.flush()


def test_an_id_that_a_client_chose_does_not_use_the_numbers_up(cache: memcache_shm.Cache, follower: Copier) -> None:
    follower.put(b"key", b"v", 0, 0, 2**64 - 1)
    follower.put(b"other", b"v", 0, 0, 12345)
    following.promote_table(cache.attached_table)
    cache.set("new", b"v")
    assert 12345 < int(cache.gets("new")[1]) < 2**32
    assert is_whole(cache)


def test_a_promotion_that_is_killed(state_dir: Path) -> None:
    """At any moment of it: the table follows as before, or is independent, and is whole."""
    fork = multiprocessing.get_context("fork")
    outcomes = set()
    with memcache_shm.open("app", memory="32m") as cache:
        table = cache.attached_table
        following.follow(table)
        copier = Copier(cache, exempt=True)
        for number in range(100_000):
            copier.put(b"k%d" % number, b"v", 0, 0, 10**9 + number)
        for limit_s in (*(turn * 0.002 for turn in range(24)), None):
            following.follow(table)
            promoter = fork.Process(target=following.promote_table, args=(table,))
            promoter.start()
            promoter.join(limit_s)
            promoter.kill()
            promoter.join()
            outcomes.add(table.follows)
            assert copier.put(b"new", b"v", 0, 0, 5) if table.follows else cache.set("new", b"v")
            assert table.follows or int(cache.gets("new")[1]) > 10**9 + 99_999
            assert len(cache) == 100_001
        assert is_whole(cache)
        copier.close()
    assert outcomes == {True, False}


def test_promotion_of_what_does_not_follow(cache: memcache_shm.Cache, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["promote", "test"]) == 1
    assert "table 'test' follows no other" in capsys.readouterr().err
    with pytest.raises(memcache_shm.MemcacheError, match="follows no other"):
        following.promote_table(cache.attached_table)
    assert main(["promote", "missing"]) == 1
    assert "'memcache-shm ls' shows what there is" in capsys.readouterr().err
    assert main(["promote"]) == 2


def test_reading_rights_do_not_do(cache: memcache_shm.Cache) -> None:
    with memcache_shm.attach("test", readonly=True) as reader:
        for call in (following.follow, following.promote_table, following.note_copy):
            with pytest.raises(memcache_shm.ReadOnlyError, match="readonly"):
                call(reader.attached_table)


def test_figures(cache: memcache_shm.Cache, follower: Copier) -> None:
    table = cache.attached_table
    known = {"following": 1, "follow_connected": 0, "follow_lag_ms": -1, "follow_copies": 0, "follow_refused": 0, "follow_position": 0}
    assert following.figures(table) == known
    following.note_connected(table, True)
    following.note_copy(table)
    following.note_in_step(table, 99, 2)
    found = cache.stats("shm")
    assert 0 <= found.pop(b"follow_lag_ms") < 1000
    names = [b"following", b"follow_connected", b"follow_copies", b"follow_refused", b"follow_position"]
    assert [found[name] for name in names] == [1, 1, 1, 2, 99]
    following.promote_table(table)
    assert following.figures(table) | {"follow_lag_ms": -1, "following": 0, "follow_connected": 0} == following.figures(table)


def test_ls_tells_who_follows(cache: memcache_shm.Cache, follower: Copier, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["ls"]) == 0
    assert "open, follows" in capsys.readouterr().out
