"""Filling a table with items as they are elsewhere, and keeping everybody else out of one that follows."""

from __future__ import annotations

import multiprocessing
import random
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from support.waiting import until

import memcache_shm
from memcache_shm.cli.main import main
from memcache_shm.client.copying import Copier
from memcache_shm.storage import following
from memcache_shm.storage.check import check_table

BINARY = bytes(range(250))
FAR = 2_000_000_000  # unix time


@pytest.fixture
def copier(cache: memcache_shm.Cache) -> Iterator[Copier]:
    """Of a table that follows no other."""
    copier = Copier(cache)
    yield copier
    copier.close()


@pytest.fixture
def follower(cache: memcache_shm.Cache) -> Iterator[Copier]:
    """Of a table that follows another, and that has one item."""
    cache.set("old", b"12", flags=3)
    following.follow(cache.attached_table)
    copier = Copier(cache, exempt=True)
    yield copier
    copier.close()


def is_whole(cache: memcache_shm.Cache) -> bool:
    return not check_table(cache.attached_table).findings


# Items as they were


def test_an_item_keeps_its_flags_and_its_cas_id(cache: memcache_shm.Cache, copier: Copier) -> None:
    assert copier.put(b"key", b"value", 2**32 - 1, 0, 2**64 - 1)
    assert cache.gets("key") == (b"value", b"%d" % (2**64 - 1))
    assert copier.put(b"key", b"newer", 0, FAR, 7)
    assert cache.gets("key") == (b"newer", b"7")
    assert cache.cas("key", b"x", 8) is False
    assert cache.cas("key", b"x", 7) is True
    assert is_whole(cache)


def test_without_a_cas_id_it_gets_one_of_the_tables_own(cache: memcache_shm.Cache, copier: Copier) -> None:
    cache.set("before", b"")
    assert copier.put(b"key", b"value", 0, 0, 0)
    cache.set("after", b"")
    assert int(cache.gets("before")[1]) != int(cache.gets("key")[1]) != 0


@pytest.mark.parametrize("key", [b"\0", BINARY, b"a b\r\n", b"k" * 250], ids=["nul", "all", "blanks", "longest"])
def test_keys_of_any_bytes(cache: memcache_shm.Cache, copier: Copier, key: bytes) -> None:
    assert copier.put(key, b"value", 0, 0, 1)
    assert len(cache) == 1
    assert copier.drop(key)
    assert not copier.drop(key)
    assert len(cache) == 0


@pytest.mark.parametrize("key", [b"", b"k" * 251])
def test_what_is_no_key(copier: Copier, key: bytes) -> None:
    for call in (lambda: copier.put(key, b"", 0, 0, 1), lambda: copier.touch(key, 0), lambda: copier.drop(key)):
        with pytest.raises(memcache_shm.IllegalInputError, match="1 to 250"):
            call()


@pytest.mark.parametrize("arguments", [(-1, 0, 0), (2**32, 0, 0), (0, 2**63, 0), (0, 0, -1), (0, 0, 2**64)])
def test_numbers_out_of_range(copier: Copier, arguments: tuple[int, int, int]) -> None:
    with pytest.raises(OverflowError):
        copier.put(b"key", b"", *arguments)


def test_expiry_is_a_point_in_time(cache: memcache_shm.Cache, copier: Copier) -> None:
    copier.put(b"soon", b"v", 0, int(time.time()) + 2, 1)
    copier.put(b"over", b"v", 0, int(time.time()) - 1, 1)
    copier.put(b"long ago", b"v", 0, 1, 1)
    copier.put(b"never", b"v", 0, 0, 1)
    copier.put(b"late", b"v", 0, FAR, 1)
    assert cache.get("soon") == b"v"
    assert cache.get_many(["over", "never", "late"]) == {"never": b"v", "late": b"v"}
    until(lambda: cache.get("soon") is None, "the item to expire", 4)


def test_touch(cache: memcache_shm.Cache, copier: Copier) -> None:
    copier.put(b"key", b"v", 5, 0, 9)
    assert copier.touch(b"key", FAR)
    assert cache.gets("key") == (b"v", b"9")
    assert copier.touch(b"key", int(time.time()) - 1)
    assert cache.get("key") is None
    assert not copier.touch(b"key", FAR)


def test_flush(cache: memcache_shm.Cache, copier: Copier) -> None:
    copier.put(b"key", b"v", 0, 0, 1)
    copier.flush()
    copier.put(b"next", b"v", 0, 0, 2)
    assert cache.get_many(["key", "next"]) == {"next": b"v"}


def test_large_values(cache: memcache_shm.Cache, copier: Copier) -> None:
    value = random.Random(1).randbytes(cache.attached_table.max_value)
    assert copier.put(b"large", value, 1, 0, 2)
    assert cache.gets("large") == (value, b"2")


def test_a_value_too_large_takes_the_older_one_with_it(cache: memcache_shm.Cache, copier: Copier) -> None:
    assert copier.put(b"key", b"v", 0, 0, 1)
    assert not copier.put(b"key", bytes(cache.attached_table.max_value + 1), 0, 0, 2)
    assert cache.get("key") is None
    assert copier.refused == 1


def test_no_room(state_dir: Path) -> None:
    with memcache_shm.open("small", elements=3, element_size=10, evict=False) as cache:
        copier = Copier(cache)
        stored = [copier.put(b"%d" % number, b"v", 0, 0, 1) for number in range(5)]
        assert (stored, copier.refused) == ([True, True, True, False, False], 2)
        assert copier.put(b"0", b"w", 0, 0, 2)
        copier.close()


def test_a_smaller_table_evicts(state_dir: Path) -> None:
    with memcache_shm.open("small", elements=100, element_size=10) as cache:
        copier = Copier(cache)
        assert all(copier.put(b"%d" % number, b"v", 0, 0, 1) for number in range(1000))
        assert (copier.refused, len(cache)) == (0, 100)
        copier.close()


# What is so already


SAME = (b"key", b"value", 3, FAR, 7)


def stored(cache: memcache_shm.Cache) -> int:
    return int(cache.stats()[b"total_items"])


@pytest.mark.parametrize("value", [b"value", b"", bytes(60_000)], ids=["usual", "empty", "large"])
def test_an_item_that_is_there_already_is_not_stored_again(cache: memcache_shm.Cache, copier: Copier, value: bytes) -> None:
    same = (b"key", value, 3, FAR, 7)
    copier.put(*same)
    before = stored(cache)
    with cache.subscribe("*") as changes:
        assert copier.put(*same)
        assert copier.put(*same)
        copier.put(b"other", b"v", 0, 0, 1)
        assert next(changes).key == b"other"
    assert stored(cache) == before + 1
    assert cache.gets("key") == (value, b"7")


@pytest.mark.parametrize(
    "other",
    [(b"key", b"valuf", 3, FAR, 7), (b"key", b"value2", 3, FAR, 7), (*SAME[:2], 4, *SAME[3:]), (*SAME[:3], 0, 7), (*SAME[:3], FAR + 1, 7),
     (*SAME[:4], 8), (*SAME[:4], 0)],
    ids=["value", "length", "flags", "never", "exptime", "cas", "own cas"],
)  # fmt: skip
def test_an_item_with_something_else_is_stored(
    cache: memcache_shm.Cache, copier: Copier, other: tuple[bytes, bytes, int, int, int]
) -> None:
    copier.put(*SAME)
    before = stored(cache)
    assert copier.put(*other)
    assert stored(cache) == before + 1
    assert cache.get("key") == other[1]


def test_in_a_copy_everything_comes_again(cache: memcache_shm.Cache, copier: Copier) -> None:
    copier.put(*SAME)
    copier.put(b"gone", b"v", 0, 0, 8)
    copier.begin_copy()
    copier.put(*SAME)
    assert copier.end_copy() == 1
    assert cache.get_many(["key", "gone"]) == {"key": b"value"}


def test_a_flush_of_nothing_is_not_told(cache: memcache_shm.Cache, copier: Copier) -> None:
    with cache.subscribe("*") as changes:
        copier.flush()
        copier.put(*SAME)
        assert next(changes).kind == "set"
        copier.flush()
        assert next(changes).kind == "flush"


# A whole copy


def test_a_copy_leaves_what_came(cache: memcache_shm.Cache, copier: Copier) -> None:
    cache.set_many({f"old{number}": b"v" for number in range(500)})
    copier.begin_copy()
    for number in range(250, 1000):
        copier.put(b"old%d" % number, b"w", 0, 0, number)
    copier.drop(b"old300")
    assert len(cache) == 999
    assert copier.end_copy() == 250
    assert len(cache) == 749
    assert cache.gets("old999") == (b"w", b"999")
    assert is_whole(cache)


def test_a_copy_that_begins_anew(cache: memcache_shm.Cache, copier: Copier) -> None:
    copier.begin_copy()
    copier.put(b"first", b"v", 0, 0, 1)
    copier.begin_copy()
    copier.put(b"second", b"v", 0, 0, 2)
    assert copier.end_copy() == 1
    assert cache.get_many(["first", "second"]) == {"second": b"v"}
    with pytest.raises(ValueError, match="begin_copy"):
        copier.end_copy()


def test_a_copy_of_nothing(cache: memcache_shm.Cache, copier: Copier) -> None:
    cache.set_many({f"k{number}": b"v" for number in range(1000)})
    copier.begin_copy()
    assert copier.end_copy() == 1000
    assert len(cache) == 0


def test_what_others_write_meanwhile_stays(cache: memcache_shm.Cache, copier: Copier) -> None:
    cache.set("both", b"v")
    copier.begin_copy()
    cache.set("both", b"w")
    cache.set("theirs", b"w")
    assert copier.end_copy() == 0
    assert len(cache) == 2


def test_closed(copier: Copier) -> None:
    copier.close()
    copier.close()
    for call in (lambda: copier.put(b"k", b"", 0, 0, 1), copier.flush, copier.begin_copy):
        with pytest.raises(memcache_shm.ClosedError):
            call()


def test_a_removed_table_is_told(state_dir: Path) -> None:
    cache = memcache_shm.open("gone", memory="1m")
    copier = Copier(cache)
    memcache_shm.unlink("gone")
    for call in (lambda: copier.put(b"k", b"", 0, 0, 1), lambda: copier.drop(b"k"), lambda: copier.touch(b"k", 0), copier.flush):
        with pytest.raises(memcache_shm.TableRemovedError):
            call()
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
        for turn in range(24):
            following.follow(table)
            promoter = fork.Process(target=following.promote_table, args=(table,))
            promoter.start()
            promoter.join(turn * 0.002)
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
