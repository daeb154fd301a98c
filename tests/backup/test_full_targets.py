"""Restores into tables that are full: what there is room for comes in, and what does not is told."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.backups import table_of
from support.checks import is_whole
from support.tables import verb

import memcache_shm
from memcache_shm.client.copying import Copier
from memcache_shm.client.items import Item, pack

KINDS: dict[str, dict[str, Any]] = {"evicting": {}, "refusing": {"evict": False}}


@pytest.fixture(params=KINDS)
def full(state_dir: Path, request: pytest.FixtureRequest) -> Iterator[memcache_shm.Cache]:
    """The table "full", in which nothing more has room and all has proved itself."""
    with memcache_shm.open("full", memory="4m", max_item="64k", **KINDS[request.param]) as cache:
        fill_up(cache)
        yield cache


def fill_up(cache: memcache_shm.Cache, reads: int = 3) -> None:
    """Goes on when the first shard refuses, until every one of them is full."""
    stored = []
    for number in range(5000):
        try:
            cache.set(f"old{number}", b"o" * 1000)
        except memcache_shm.NoSpaceError:
            continue
        stored.append(f"old{number}")
        for _ in range(reads):
            cache.get(f"old{number}")
    assert 3000 < len(cache) <= len(stored)


def by_hand(path: Path, count: int, size: int = 1000) -> None:
    lines = (json.dumps({"key": f"new{number}", "value": "n" * size}) for number in range(count))
    path.write_text("".join(line + "\n" for line in lines))


def test_replacing_all(full: memcache_shm.Cache, here: Path) -> None:
    """The old items give way before the first new one comes."""
    before = len(full)
    by_hand(here / "b", 1500)
    result = verb("restore", "--json", "--replace", str(here / "b"), "full")
    assert (result.returncode, result.stderr) == (0, "")
    said = json.loads(result.stdout)
    assert [said[name] for name in ("items", "removed", "refused", "evicted", "lost")] == [1500, before, 0, 0, 0]
    assert set(table_of(full)) == {b"new%d" % number for number in range(1500)}
    assert is_whole(full)


def test_its_own_backup(full: memcache_shm.Cache, here: Path) -> None:
    """There is no room for old and new value side by side, and none is needed."""
    assert verb("backup", "full", str(here / "b")).returncode == 0
    before = table_of(full)
    result = verb("restore", "--json", str(here / "b"), "full")
    said = json.loads(result.stdout)
    assert said["items"] == len(before)
    assert (said["refused"], result.stderr) == (0, "")
    found = table_of(full)
    assert len(found) == len(before) - said["lost"]
    assert found.items() <= before.items()
    assert result.returncode == (1 if said["lost"] else 0)


@pytest.mark.parametrize("full", ["refusing"], indirect=True)
def test_one_item_in_place_of_an_older_one(full: memcache_shm.Cache) -> None:
    """Also one by one, as from a leader."""
    copier = Copier(full)
    assert copier.put(b"old7", b"x" * 1000, 0, 0, 0)
    assert copier.put_packed(pack(Item(b"old8", b"y" * 1000, 0, 0, 0))) == 1
    assert (copier.refused, full.get("old7"), full.get("old8")) == (0, b"x" * 1000, b"y" * 1000)
    assert not copier.put(b"old9", b"x" * 60_000, 0, 0, 0)
    assert copier.put_packed(pack(Item(b"old10", b"x" * 70_000, 0, 0, 0))) == 0
    assert (copier.refused, full.get("old9"), full.get("old10")) == (2, None, None)
    copier.close()


def test_what_evicts_itself(state_dir: Path, here: Path) -> None:
    """A backup that is larger than the table is told not to be there, all of it."""
    with memcache_shm.open("small", memory="1m", max_item="64k") as small:
        small.set("old", b"x")
        by_hand(here / "b", 3000)
        for options in ((), ("--replace",)):
            result = verb("restore", *options, "--json", str(here / "b"), "small")
            assert result.returncode == 1
            said = json.loads(result.stdout)
            there = sum(key.startswith(b"new") for key in table_of(small))
            assert said["items"] == 3000
            assert said["lost"] == 3000 - there > 1000
        result = verb("restore", str(here / "b"), "small")
        assert (result.returncode, result.stderr) == (1, "")
        assert " of them evicted again for want of room" in result.stdout


def test_the_evicted_are_told_apart(state_dir: Path, here: Path) -> None:
    """Others had to go for the backup's items, which are all there: that is no failure."""
    with memcache_shm.open("app", memory="4m", max_item="64k") as cache:
        fill_up(cache, reads=0)
        by_hand(here / "b", 200)
        result = verb("restore", "--json", str(here / "b"), "app")
        said = json.loads(result.stdout)
        assert said["lost"] == 200 - sum(key.startswith(b"new") for key in table_of(cache))
        assert said["evicted"] >= 150
        assert result.returncode == bool(said["lost"])
