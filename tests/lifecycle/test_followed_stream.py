"""What a follower makes of its leader's words, told one by one."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from support.client import Client
from support.following import await_copies, figures, has_companion
from support.leader import FakeLeader, Stream
from support.servers import Daemon
from support.supervision import await_line, said
from support.tables import state
from support.waiting import until

import memcache_shm


@pytest.fixture
def leader() -> Iterator[FakeLeader]:
    with FakeLeader() as leader:
        yield leader


@pytest.fixture
def copy(leader: FakeLeader, state_dir: Path) -> Iterator[Daemon]:
    with Daemon("--name", "copy", "-m", "16", "-v", "--follow", leader.where) as daemon:
        yield daemon


@pytest.fixture
def cache(copy: Daemon) -> Iterator[memcache_shm.Cache]:
    with memcache_shm.attach("copy") as cache:
        yield cache


def copied(leader: FakeLeader, copy: Daemon, *keys: bytes) -> Stream:
    """A stream whose first copy has these keys, complete."""
    stream = leader.stream()
    for number, key in enumerate(keys, 1):
        stream.set(key, b"v", number)
    stream.send(b"SYNCED 7")
    await_copies(copy, 1)
    return stream


def test_a_copy_is_complete_when_the_leader_says_so(leader: FakeLeader, copy: Daemon, cache: memcache_shm.Cache) -> None:
    stream = leader.stream()
    stream.set(b"a", b"1", 5)
    until(lambda: cache.get("a") == b"1", "the first item")
    found = figures(copy)
    assert (found["follow_connected"], found["follow_copies"], found["follow_lag_ms"], found["follow_position"]) == (1, 0, -1, 0)
    stream.send(b"SYNCED 12")
    await_copies(copy, 1)
    until(lambda: figures(copy)["follow_position"] == 12, "the position")
    assert await_line(copy, "in step with").endswith("1 items, 0 others removed")
    stream.send(b"ALIVE 13")
    until(lambda: figures(copy)["follow_position"] == 13, "the position")
    assert figures(copy)["follow_lag_ms"] < 5000


def test_changes(leader: FakeLeader, copy: Daemon, cache: memcache_shm.Cache) -> None:
    stream = copied(leader, copy, b"deleted", b"expired", b"evicted", b"touched", b"stays")
    stream.send(b"NOTIFY delete deleted 0 0 0 1", b"NOTIFY expire expired 0 0 0 2", b"NOTIFY evict evicted 0 0 0 3")
    stream.send(b"NOTIFY touch touched 0 1 0 4", b"NOTIFY touch missing 0 0 0 9", b"NOTIFY delete missing 0 0 0 9")
    stream.set(b"stays", b"newer", 10, flags=3)
    until(lambda: cache.gets("stays") == (b"newer", b"10"), "the changes")
    assert cache.get_many(["deleted", "expired", "evicted", "touched", "stays"]) == {"stays": b"newer"}
    stream.send(b"NOTIFY flush * 0 0 0 0")
    stream.set(b"after", b"v", 11)
    until(lambda: cache.get("after") == b"v", "what came after the flush")
    assert cache.get("stays") is None


def test_a_touch_of_what_is_not_here_is_counted(leader: FakeLeader, copy: Daemon) -> None:
    """Its value does not come with it."""
    stream = copied(leader, copy, b"here")
    stream.send(b"NOTIFY touch here 0 0 0 1", b"NOTIFY touch missing 0 0 0 9", b"NOTIFY touch other 0 0 0 9", b"ALIVE 11")
    until(lambda: figures(copy)["follow_position"] == 11, "the position")
    assert figures(copy)["follow_refused"] == 2
    await_line(copy, f"2 items that {leader.where} touched are missing here")


def test_what_was_copied_once_is_served_until_the_next_copy_is_complete(
    leader: FakeLeader, copy: Daemon, cache: memcache_shm.Cache
) -> None:
    copied(leader, copy, b"a", b"b").close()
    await_line(copy, "connection lost; trying again and again")
    stream = leader.stream()
    stream.set(b"b", b"newer", 3)
    until(lambda: cache.get("b") == b"newer", "the item")
    assert cache.get("a") == b"v"
    stream.send(b"SYNCED 9")
    until(lambda: cache.get("a") is None, "what the leader has no longer to go")
    await_line(copy, "in step with .* again after")
    assert figures(copy)["follow_copies"] == 2


def test_falling_behind(leader: FakeLeader, copy: Daemon, cache: memcache_shm.Cache) -> None:
    stream = copied(leader, copy, b"a", b"b")
    stream.send(b"LOST 7 900")
    stream.set(b"c", b"v", 3)
    until(lambda: cache.get("c") == b"v", "the item")
    assert len(cache) == 3
    stream.send(b"SYNCED 901")
    until(lambda: len(cache) == 1, "the others to go")
    assert await_line(copy, "fell behind").endswith("(its feed's positions 7 to 900)")
    assert figures(copy)["follow_copies"] == 2


def test_words_that_make_no_sense(leader: FakeLeader, copy: Daemon, cache: memcache_shm.Cache) -> None:
    stream = copied(leader, copy, b"a")
    stream.send(b"NOTIFY set b 0 0 x 1")
    stream = leader.stream()
    assert cache.get("a") == b"v"
    stream.set(b"a", b"w", 2)
    until(lambda: cache.get("a") == b"w", "the next copy")
    assert len(said(copy, "trying again and again")) == 1


def test_why_it_does_not_follow_now(state_dir: Path) -> None:
    """Each reason is told once, as long as it lasts."""
    with FakeLeader() as leader, Daemon("--name", "copy", "-m", "16", "--follow", leader.where) as daemon:
        copied(leader, daemon, b"a").close()
        await_line(daemon, f"cannot follow {leader.where}: connection lost")
        leader.stream()
        leader.stop()
        await_line(daemon, f"cannot follow {leader.where}: Connection refused")
        until(lambda: figures(daemon)["follow_lag_ms"] > 2000, "some tries more")
        assert len(said(daemon, "cannot follow")) == 2


def test_its_own_table_by_another_way(leader: FakeLeader, copy: Daemon, state_dir: Path) -> None:
    stream = leader.stream()
    leader.uuid = state(state_dir, "copy")["uuid"]
    stream.close()
    line = await_line(copy, "serves this very table, which cannot follow itself; name another")
    assert f"--follow {leader.where}: " in line
    until(lambda: not has_companion(copy), "the follower's process to end")
    with Client(copy) as client:
        assert client.set(b"key", b"v").startswith(b"SERVER_ERROR this table follows another")
    assert copy.stop() == 0
