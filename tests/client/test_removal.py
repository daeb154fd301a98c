"""Segment or semaphores removed behind our back (ipcrm, logind at a logout): calls say so, and use the successor at once."""

from __future__ import annotations

import contextlib
import json
import os
import pickle
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import sysv_ipc
from support.isolation import ipc_ids
from support.users import Users
from support.waiting import until

import memcache_shm

ROUNDS = 20
HOWS = ["segment", "semaphores", "both"]
CALLS: dict[str, Callable[[memcache_shm.Cache], object]] = {
    "get": lambda cache: cache.get("key"),
    "gets": lambda cache: cache.gets("key"),
    "get_many": lambda cache: cache.get_many(["key", "other"]),
    "gets_many": lambda cache: cache.gets_many(["key"]),
    "in": lambda cache: "key" in cache,
    "len": len,
    "stats": lambda cache: cache.stats(),
    "set": lambda cache: cache.set("key", b"2"),
    "large set": lambda cache: cache.set("key", b"x" * 50_000),
    "set_many": lambda cache: cache.set_many({"key": b"2"}),
    "cas": lambda cache: cache.cas("key", b"2", 1),
    "append": lambda cache: cache.append("key", b"2"),
    "delete": lambda cache: cache.delete("key"),
    "incr": lambda cache: cache.incr("key", 1),
    "touch": lambda cache: cache.touch("key", 10),
    "gat": lambda cache: cache.gat("key", 10),
    "flush_all": lambda cache: cache.flush_all(),
}
READS = ("get", "gets", "get_many", "gets_many", "in", "len", "stats")


@pytest.fixture
def remove(state_dir: Path) -> Callable[[str], None]:
    """A function that removes objects of the table "test" by their ids, as ipcrm does."""

    def remove(how: str) -> None:
        ids = json.loads((state_dir / "test.json").read_text())
        if how != "semaphores":
            sysv_ipc.remove_shared_memory(ids["shmid"])
        if how != "segment":
            sysv_ipc.remove_semaphore(ids["semid"])

    return remove


@pytest.fixture
def reader(cache: memcache_shm.Cache) -> Iterator[memcache_shm.Cache]:
    """The same table, read-only."""
    with memcache_shm.attach("test", readonly=True) as reader:
        yield reader


def _successor(memory: str = "1m", max_item: str = "64k") -> memcache_shm.Cache:
    return memcache_shm.open("test", memory=memory, max_item=max_item)


def _fails(call: Callable[[], object]) -> memcache_shm.TableRemovedError | None:
    try:
        call()
    except memcache_shm.TableRemovedError as error:
        return error
    return None


@pytest.mark.parametrize("how", HOWS)
@pytest.mark.parametrize("name", CALLS)
def test_a_call_says_so_and_goes_on_with_the_successor(
    cache: memcache_shm.Cache, remove: Callable[[str], None], how: str, name: str
) -> None:
    cache.set("key", b"1")
    remove(how)
    error = until(lambda: _fails(lambda: CALLS[name](cache)), "the removal to be noticed", 5.0, 0.001)
    assert "'test'" in str(error)
    assert "open()" in str(error)
    assert "\n" not in str(error)
    with _successor() as anew:
        anew.set("key", b"7")
        CALLS[name](cache)
        assert cache.get("other") is None
        assert cache.set("key", b"8")
        assert anew.get("key") == b"8"


@pytest.mark.parametrize("how", HOWS)
@pytest.mark.parametrize("name", READS)
def test_a_read_only_handle_notices_too(reader: memcache_shm.Cache, remove: Callable[[str], None], how: str, name: str) -> None:
    remove(how)
    until(lambda: _fails(lambda: CALLS[name](reader)), "the removal to be noticed", 5.0, 0.001)
    with _successor() as anew:
        anew.set("key", b"7")
        CALLS[name](reader)
        assert reader.readonly
        assert reader.get("key") == b"7"
        with pytest.raises(memcache_shm.ReadOnlyError):
            reader.set("key", b"8")


@pytest.mark.parametrize("how", HOWS)
def test_the_successor_calls_everybody_over_at_once(
    cache: memcache_shm.Cache, reader: memcache_shm.Cache, remove: Callable[[str], None], how: str
) -> None:
    """The very next call finds it: nobody waits until a handle looks for itself, and no old value is given once there is a new table."""
    for turn in range(ROUNDS):
        cache.set("key", f"old {turn}")
        assert reader.get("key") == f"old {turn}".encode()
        remove(how)
        with _successor() as anew:
            anew.set("key", f"new {turn}")
            assert reader.get("key") == f"new {turn}".encode()
            assert cache.get("key") == f"new {turn}".encode()
            assert cache.delete("key") is True
            assert anew.get("key") is None


@pytest.mark.parametrize("how", HOWS)
def test_what_was_left_of_the_old_one_goes_with_its_last_user(
    cache: memcache_shm.Cache, remove: Callable[[str], None], state_dir: Path, how: str
) -> None:
    old = json.loads((state_dir / "test.json").read_text())
    remove(how)
    with _successor():
        assert old["semid"] not in ipc_ids()["sem"]
        assert cache.get("key") is None
        assert old["shmid"] not in ipc_ids()["shm"]


def test_unlink_after_a_removal_from_outside_tells_those_who_are_attached(
    cache: memcache_shm.Cache, reader: memcache_shm.Cache, remove: Callable[[str], None]
) -> None:
    cache.set("key", b"1")
    for how in HOWS:
        remove(how)
        memcache_shm.unlink("test")
        for handle in (cache, reader):
            with pytest.raises(memcache_shm.TableRemovedError, match=r"'test' was removed .*open\(\)"):
                handle.get("key")
        _successor().close()
        assert cache.set("key", b"1")
        assert reader.get("key") == b"1"


def test_a_successor_of_another_geometry(cache: memcache_shm.Cache, remove: Callable[[str], None]) -> None:
    """Re-attaching works; what is too large for the new table is refused as anywhere."""
    cache.set("key", b"x" * 50_000)
    remove("both")
    with _successor("256k", "1k"):
        with pytest.raises(memcache_shm.TooLargeError, match="1024 bytes"):
            cache.set("key", b"x" * 50_000)
        assert cache.set("key", b"x" * 1000)
        assert len(cache) == 1
        assert cache.attached_table.geometry.memory_bytes == 256 * 1024
        remove("both")
        with memcache_shm.open("test", elements=2, element_size=10):
            assert cache.set_many({"a": b"1", "b": b"x" * 11}) == ["b"]


def test_ignore_exc_makes_it_a_miss(cache: memcache_shm.Cache, remove: Callable[[str], None]) -> None:
    lenient = memcache_shm.attach("test", ignore_exc=True)
    lenient.set("key", b"1")
    remove("both")
    until(lambda: lenient.get("key", "none") == "none", "the removal to be noticed", 5.0, 0.001)
    with _successor() as anew:
        anew.set("key", b"2")
        assert lenient.get("key") == b"2"


@pytest.mark.parametrize("how", HOWS)
def test_a_pickled_handle(cache: memcache_shm.Cache, remove: Callable[[str], None], how: str) -> None:
    data = pickle.dumps(cache)
    remove(how)
    with pytest.raises(memcache_shm.TableRemovedError, match="'test'"):
        pickle.loads(data)
    with _successor() as anew, pickle.loads(data) as again:
        anew.set("key", b"1")
        assert again.get("key") == b"1"


@pytest.mark.parametrize("how", HOWS)
def test_threads_and_forked_children_go_on(
    cache: memcache_shm.Cache, reader: memcache_shm.Cache, remove: Callable[[str], None], how: str
) -> None:
    """Removed again and again under them, with a successor at once or later: all they meet is TableRemovedError, and it ends."""
    threads = {"thread": cache, "another": cache, "reading": reader}
    children = {"child": cache, "child_reading": reader}
    with contextlib.ExitStack() as successors, Users(threads, children) as users:
        users.go_on()
        for at_once in (False, True, False, True):
            remove(how)
            if not at_once:
                users.notice()
            successors.enter_context(_successor())
            users.go_on()
            assert users.go_on() == set()


def test_a_child_forked_after_the_removal(cache: memcache_shm.Cache, remove: Callable[[str], None]) -> None:
    cache.set("key", b"1")
    remove("both")
    with _successor() as anew:
        anew.set("key", b"2")
        pid = os.fork()
        if pid == 0:
            os._exit(0 if cache.get("key") == b"2" and cache.set("child", b"3") else 1)
        assert os.waitpid(pid, 0)[1] == 0
        assert cache.get("child") == b"3"
