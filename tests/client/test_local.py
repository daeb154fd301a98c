"""An attached table as its keeper looks at it: keys of any bytes, listed and read without a trace."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from support.client import Client
from support.servers import Daemon

import memcache_shm
from memcache_shm.client.local import LocalTable, attach_local
from memcache_shm.client.tables import open_table


@pytest.fixture
def table(cache: memcache_shm.Cache) -> Iterator[LocalTable]:
    with_keys = attach_local("test")
    yield with_keys
    with_keys.close()


def test_keys_of_any_bytes(table: LocalTable) -> None:
    pairs = {b"a b": b"1", b"\0": b"2", b"\n": b"", b"x" * 250: b"3", bytes(range(250)): b"4", b"\xff": b"5" * 60_000}
    for key, value in pairs.items():
        assert table.set(key, value) is True
    assert {key: table.get(key) for key in pairs} == pairs
    assert dict(zip(pairs, table.values(list(pairs)), strict=True)) == pairs
    assert sorted(table.keys()) == sorted(pairs)
    assert list(table.keys(b"a ")) == [b"a b"]
    assert list(table.keys(b"x" * 251)) == []
    assert table.count() == len(pairs)
    assert table.delete(b"\0") is True
    assert table.delete(b"\0") is False
    assert table.get(b"\0") is None
    assert table.flush_all() is True
    assert list(table.keys()) == []
    assert table.count() == 0


def test_what_is_no_key(table: LocalTable) -> None:
    for key in (b"", b"x" * 251):
        for refused in (table.get, table.delete):
            with pytest.raises(memcache_shm.IllegalInputError):
                refused(key)
    with pytest.raises(TypeError):
        table.get("text")
    with pytest.raises(memcache_shm.TooLargeError):
        table.set(b"key", b"x" * 70_000)


def test_every_key_once(state_dir: Path) -> None:
    """Through many shards, and what does not begin with the prefix between."""
    with memcache_shm.open("big", memory="128m", max_item="1k") as cache:
        assert cache.attached_table.geometry.shards > 1
        for number in range(20_000):
            cache.set(f"{'even' if number % 2 == 0 else 'odd'}:{number}", b"1")
        table = attach_local("big")
        assert sorted(table.keys(b"odd:")) == sorted(b"odd:%d" % number for number in range(1, 20_000, 2))
        assert len(list(table.keys())) == 20_000
        table.close()


def test_looking_leaves_no_trace(daemon_with: Callable[..., Daemon]) -> None:
    daemon = daemon_with("-m", "64")
    daemon.flush()
    with Client(daemon) as client:
        client.set(b"key", b"1")
        before = client.stats()
        table = open_table(daemon.name)
        assert table.get(b"key") == b"1"
        assert table.get(b"none") is None
        assert list(table.values([b"key"])) == [b"1"]
        assert list(table.keys(b"")) == [b"key"]
        table.close()
        after = client.stats()
        assert {name for name in before if name.startswith("get_") and before[name] != after[name]} == set()
        assert client.ask(b"mg key h") == b"HD h0"


def test_removed_while_it_is_listed(cache: memcache_shm.Cache, table: LocalTable) -> None:
    for number in range(100):
        cache.set(f"key:{number}", b"1")
    keys = table.keys()
    assert next(keys).startswith(b"key:")
    memcache_shm.unlink("test")
    with pytest.raises(memcache_shm.TableRemovedError, match="while it was listed"):
        list(keys)
    for call in (table.keys, table.count, lambda: table.get(b"key:1")):
        with pytest.raises(memcache_shm.TableRemovedError):
            call()
    with memcache_shm.open("test", memory="1m") as successor:
        successor["new"] = b"2"
        assert table.get(b"new") == b"2"
        assert list(table.keys()) == [b"new"]


def test_the_table_stays_while_it_is_listed(cache: memcache_shm.Cache) -> None:
    cache["key"] = b"1"
    table = attach_local("test")
    keys = table.keys()
    table.close()
    assert list(keys) == [b"key"]
    with pytest.raises(memcache_shm.ClosedError):
        table.keys()


def test_its_owner_may_write(state_dir: Path) -> None:
    with memcache_shm.open("app", memory="1m") as cache:
        cache["key"] = b"1"
        table = attach_local("app")
        assert not table.readonly
        table.close()
    with pytest.raises(memcache_shm.TableNotFoundError):
        attach_local("none")
