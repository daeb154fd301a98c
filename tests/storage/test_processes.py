"""Processes that come and go: their slots, their mappings, spawned children."""

from __future__ import annotations

import multiprocessing
import os
import signal
from multiprocessing.connection import Connection
from pathlib import Path

import pytest
from support.waiting import until

import memcache_shm
from memcache_shm.storage.geometry import Geometry
from memcache_shm.storage.table import Table

FORK = multiprocessing.get_context("fork")
SPAWN = multiprocessing.get_context("spawn")
GEOMETRY = {"elements": 200, "element_size": 50}


def write_and_stay(name: str, connection: Connection) -> None:
    """Become a writer, say so, and live until told to go."""
    cache = memcache_shm.attach(name)
    cache.set(f"writer-{os.getpid()}", b"1")
    connection.send(os.getpid())
    connection.recv()


class Writer:
    """A process that has written, and so has a process slot."""

    def __init__(self, name: str) -> None:
        self.connection, other = FORK.Pipe()
        self.process = FORK.Process(target=write_and_stay, args=(name, other))
        self.process.start()
        assert self.connection.poll(10)
        self.connection.recv()

    def end(self, kill: bool = False) -> None:
        if kill:
            self.process.kill()
        else:
            self.connection.send(None)
        self.process.join()
        assert self.process.exitcode == (-signal.SIGKILL if kill else 0)


def test_every_writer_needs_a_slot_and_gives_it_back(state_dir: Path) -> None:
    """Readers need none. A slot comes back when its process ends, killed or not."""
    table = memcache_shm.open("app", **GEOMETRY)
    slots = Geometry.by_elements(200, 50).plan.process_slots
    writers = [Writer("app") for _ in range(slots)]
    try:
        assert len(table) == slots
        with pytest.raises(memcache_shm.NoSpaceError, match="too many processes"):
            table.set("key", b"value")
        assert table.get(f"writer-{writers[0].process.pid}") == b"1"
        writers.pop().end()
        table.set("key", b"value")
        table.close()
        writers.append(Writer("app"))
        with memcache_shm.attach("app") as again:
            with pytest.raises(memcache_shm.NoSpaceError, match="too many processes"):
                again.set("key", b"value")
            writers.pop().end(kill=True)
            again.set("key", b"other")
            assert again.get("key") == b"other"
    finally:
        for writer in writers:
            writer.end()


def exchange(cache: memcache_shm.Cache, connection: Connection) -> None:
    """In a spawned child: what it reads, and a word of its own."""
    connection.send(cache.get("parent"))
    cache.set("child", b"%d" % os.getpid())


@pytest.mark.parametrize("readonly", [False, True])
def test_spawned_child_attaches_again(state_dir: Path, readonly: bool) -> None:
    with memcache_shm.open("app", **GEOMETRY) as cache:
        cache.set("parent", b"hello")
        here, there = SPAWN.Pipe()
        child = SPAWN.Process(target=exchange, args=(memcache_shm.attach("app", readonly=readonly), there))
        child.start()
        child.join()
        assert here.recv() == b"hello"
        assert child.exitcode == (1 if readonly else 0)
        assert cache.get("child") == (None if readonly else b"%d" % child.pid)


def mappings(table: Table) -> int:
    """How often this process has the segment mapped."""
    lines = (line.split() for line in Path("/proc/self/maps").read_text().splitlines())
    return sum(len(fields) > 5 and fields[5].startswith("/SYSV") and int(fields[4]) == table.shmid for fields in lines)


def test_attaching_and_closing_leaves_no_mapping(state_dir: Path) -> None:
    table = Table.create(Geometry.by_elements(10, 10))
    for number in range(100):
        other = Table.attach(table.shmid, table.semid, table.uuid, readonly=number % 2 == 0)
        if number % 3:
            other.close()
        del other
    assert mappings(table) == 1
    table.destroy()
    table.close()


def test_failed_attach_leaves_no_mapping(state_dir: Path) -> None:
    table = Table.create(Geometry.by_elements(10, 10))
    for _ in range(10):
        with pytest.raises(memcache_shm.TableRemovedError):
            Table.attach(table.shmid, table.semid, "0" * 32)
    assert mappings(table) == 1
    table.destroy()
    table.close()


def test_parent_and_child_write_through_one_object(state_dir: Path) -> None:
    """A forked child claims a slot of its own; the parent's stays the parent's."""
    with memcache_shm.open("app", **GEOMETRY) as cache:
        cache.set("key", b"parent")
        child = FORK.Process(target=cache.set, args=("key", b"child"))
        child.start()
        child.join()
        assert child.exitcode == 0
        assert cache.get("key") == b"child"
        cache.set("key", b"parent again")
        assert cache.get("key") == b"parent again"
        assert cache.stats("shm")[b"locks_taken_over"] == 0


def test_table_removed_behind_our_back(state_dir: Path) -> None:
    """ipcrm, logind: a clear error, and no call that hangs."""
    cache = memcache_shm.open("app", **GEOMETRY)
    other = memcache_shm.attach("app")
    other.set("key", b"1")
    memcache_shm.unlink("app")
    for call in (lambda: cache.get("key"), lambda: other.set("key", b"2"), lambda: other.incr("key", 1), cache.flush_all):
        with pytest.raises(memcache_shm.TableRemovedError):
            call()
    fresh = memcache_shm.open("app", **GEOMETRY)
    other.set("key", b"3")
    assert fresh.get("key") == b"3"
    until(lambda: cache.get("key") == b"3", "the old object to follow")
    for each in (cache, other, fresh):
        each.close()
