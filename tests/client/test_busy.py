"""A writer that is stopped amid a change: others' writes fail in time and say who it is, reads and other threads go on."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from support.segments import Segment
from support.waiting import until

import memcache_shm
from memcache_shm.storage import following

SLOT_BITS = 12  # of a lock word
WRITER = """
import memcache_shm
cache = memcache_shm.attach("test")
value = b"x" * 60_000
print("writing", flush=True)
while True:
    cache.set("busy", value)
"""


@pytest.fixture
def cache(state_dir: Path) -> Iterator[memcache_shm.Cache]:
    """A table so small that it has one shard: every write needs the same lock."""
    with memcache_shm.open("test", memory="256k", max_item="64k") as cache:
        assert cache.attached_table.geometry.shards == 1
        yield cache


@pytest.fixture
def stopped_owner(cache: memcache_shm.Cache) -> Iterator[int]:
    """The pid of a process that is stopped while it holds the lock."""
    cache.set("probe", b"0")
    with subprocess.Popen([sys.executable, "-c", WRITER], stdout=subprocess.PIPE) as writer:
        try:
            assert writer.stdout is not None
            writer.stdout.readline()
            deadline = time.monotonic() + 30
            while time.monotonic() < deadline:
                os.kill(writer.pid, signal.SIGSTOP)
                os.waitid(os.P_PID, writer.pid, os.WSTOPPED)
                try:
                    cache.set("probe", b"1")
                except memcache_shm.BusyError:
                    break
                os.kill(writer.pid, signal.SIGCONT)
            yield writer.pid
        finally:
            writer.kill()


def _busy(call: Callable[[], object], pid: int) -> float:
    """Make a call that must fail and name `pid`; how long it took, in seconds."""
    started = time.monotonic()
    with pytest.raises(memcache_shm.BusyError, match=f"process {pid} keeps a shard locked.*continue or kill it"):
        call()
    return time.monotonic() - started


def test_stopped_owner(cache: memcache_shm.Cache, stopped_owner: int) -> None:
    """Writes fail within a second, reads go on; nothing is stolen, and all goes on once the owner does."""
    taken_over = cache.stats("shm")[b"locks_taken_over"]
    repairs = cache.stats("shm")[b"repairs"]
    before = {key: cache.get(key) for key in ("probe", "busy")}
    for call in (
        lambda: cache.set("key", b"1"),
        lambda: cache.set("probe", b"x" * 60_000),
        lambda: cache.add("key", b"1"),
        lambda: cache.append("probe", b"1"),
        lambda: cache.delete("probe"),
        lambda: cache.incr("probe", 1),
        lambda: cache.touch("probe", 10),
        lambda: cache.gat("probe", 10),
        lambda: cache.set_many({"a": b"1"}),
        lambda: memcache_shm.attach("test").set("key", b"1"),
    ):
        assert _busy(call, stopped_owner) < 2
    assert {key: cache.get(key) for key in before} == before
    assert cache.get_many(["probe", "key"]).keys() <= {"probe"}
    assert len(cache) >= 1
    assert cache.stats()[b"curr_items"] == len(cache)
    with memcache_shm.attach("test", readonly=True) as reader:
        assert reader.get("probe") == before["probe"]
    os.kill(stopped_owner, signal.SIGCONT)
    assert cache.set("key", b"1") is True
    assert cache.get("key") == b"1"
    assert cache.stats("shm")[b"locks_taken_over"] == taken_over, "a living owner's lock was taken"
    assert cache.stats("shm")[b"repairs"] == repairs


def test_flush_all_meets_a_stopped_owner(cache: memcache_shm.Cache, stopped_owner: int) -> None:
    assert _busy(cache.flush_all, stopped_owner) < 2
    assert _busy(lambda: cache.flush_all(10), stopped_owner) < 2
    assert cache.get("probe") is not None, "what failed has no effect"
    os.kill(stopped_owner, signal.SIGCONT)
    assert cache.flush_all() is True
    assert cache.get("probe") is None


def test_several_threads_and_a_forked_child_wait(cache: memcache_shm.Cache, stopped_owner: int) -> None:
    """Each gets its own answer in time, at the same time."""
    texts: list[str] = []

    def write(number: int) -> None:
        try:
            cache.set(f"key{number}", b"1")
        except memcache_shm.BusyError as error:
            texts.append(str(error))

    started = time.monotonic()
    threads = [threading.Thread(target=write, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    child = os.fork()
    if child == 0:
        write(9)
        os._exit(0 if len(texts) == 1 and str(stopped_owner) in texts[0] else 1)
    for thread in threads:
        thread.join()
    assert os.waitpid(child, 0)[1] == 0
    assert time.monotonic() - started < 3
    assert len(texts) == 4
    assert all(f"process {stopped_owner} " in text for text in texts)


def test_other_threads_run_while_one_waits(cache: memcache_shm.Cache, stopped_owner: int) -> None:
    outcome: list[type[BaseException]] = []

    def write() -> None:
        try:
            cache.set("key", b"1")
        except memcache_shm.BusyError as error:
            outcome.append(type(error))

    waiting = threading.Thread(target=write)
    waiting.start()
    turns = 0
    while waiting.is_alive():
        cache.get("probe")
        turns += 1
    waiting.join()
    assert outcome == [memcache_shm.BusyError]
    assert turns > 1000, "the waiting thread gave up the GIL"


def test_dead_owner(cache: memcache_shm.Cache, stopped_owner: int) -> None:
    os.kill(stopped_owner, signal.SIGKILL)
    os.waitid(os.P_PID, stopped_owner, os.WEXITED | os.WNOWAIT)
    assert cache.set("key", b"1") is True
    assert cache.get("key") == b"1"
    assert cache.get("busy") in (None, b"x" * 60_000)


def test_a_lock_held_through_exec_is_taken_over(cache: memcache_shm.Cache) -> None:
    """exec ends the threads of a program, but not its semaphore's undo: the owner lives, as another program without the table."""
    program = 'import memcache_shm, os; memcache_shm.attach("test").set("probe", b"0"); os.execvp("sleep", ["sleep", "60"])'
    with subprocess.Popen([sys.executable, "-c", program]) as other:
        try:
            until(lambda: Path(f"/proc/{other.pid}/comm").read_text() == "sleep\n", "the exec")
            with Segment(cache.attached_table) as segment:
                slots = range(segment.plan.process_slots)
                number = next(slot for slot in slots if segment.get(segment.process(slot, "pid")) == other.pid)
                segment.put(segment.control(0, "lock"), segment.get(segment.process(number, "epoch")) << SLOT_BITS | number + 1)
            assert cache.set("probe", b"1") is True
            assert cache.stats("shm")[b"locks_taken_over"] == 1
            assert other.poll() is None
        finally:
            other.kill()


def test_a_waiter_that_was_stopped_itself_tries_again(cache: memcache_shm.Cache, stopped_owner: int) -> None:
    """Its time was up while it was stopped, and the owner died meanwhile: there is nobody to be busy."""
    program = 'import memcache_shm; cache = memcache_shm.attach("test"); print(flush=True); cache.set("late", b"1")'
    waits = cache.stats("shm")[b"lock_waits"]
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE) as waiter:
        assert waiter.stdout is not None
        waiter.stdout.readline()
        until(lambda: cache.stats("shm")[b"lock_waits"] > waits, "the wait")
        os.kill(waiter.pid, signal.SIGSTOP)
        os.waitid(os.P_PID, waiter.pid, os.WSTOPPED)
        os.kill(stopped_owner, signal.SIGKILL)
        time.sleep(1.2)  # its limit passes
        os.kill(waiter.pid, signal.SIGCONT)
        assert waiter.wait(10) == 0
    assert cache.get("late") == b"1"


def test_a_table_that_begins_to_follow_while_a_writer_waits(cache: memcache_shm.Cache, stopped_owner: int) -> None:
    """The writer has looked whether it may write, and looks again once it has the lock."""
    table = cache.attached_table
    waits = cache.stats("shm")[b"lock_waits"]
    found: list[BaseException | bool] = []

    def write() -> None:
        try:
            found.append(cache.set("stray", b"v"))
        except memcache_shm.MemcacheError as error:
            found.append(error)

    writer = threading.Thread(target=write)
    writer.start()
    until(lambda: cache.stats("shm")[b"lock_waits"] > waits, "the writer to wait for the lock", every_s=0.001)
    follower = threading.Thread(target=following.follow, args=(table,))
    follower.start()
    until(lambda: table.follows, "the table to follow", every_s=0.001)
    os.kill(stopped_owner, signal.SIGCONT)
    for thread in (writer, follower):
        thread.join()
    assert [type(each) for each in found] == [memcache_shm.ReadOnlyError]
    assert cache.get("stray") is None
