"""What the supervisor says, counts and does about workers that crash, hang or cannot be started, and about a table that is taken away."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import sysv_ipc
from support.client import Client
from support.isolation import is_running
from support.servers import Daemon
from support.supervision import await_line, said, shm_stats
from support.tables import is_there, names, state, verb
from support.waiting import until

import memcache_shm
from memcache_shm.errors import TableRemovedError

MIB = 1 << 20


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV, signal.SIGBUS, signal.SIGABRT], ids=lambda number: number.name)
def test_a_crash_is_one_line_with_worker_pid_and_signal(number: signal.Signals, state_dir: Path) -> None:
    with Daemon("--name", "app", "64", "100", workers=2) as daemon:
        victim = daemon.workers[0]
        os.kill(victim, number)
        line = await_line(daemon, rf"\(pid {victim}\)")
        assert re.fullmatch(rf"memcache-shm: worker [01] \(pid {victim}\) killed by {number.name}(, core dumped)?; starting another", line)
        until(lambda: len(daemon.workers) == 2, "another worker")
        with Client(daemon) as client:
            figures = shm_stats(client)
            assert figures["shm_workers_killed"] == "1"
            assert figures["shm_workers_exited"] == figures["shm_workers_stuck"] == "0"
        assert daemon.stop() == 0
        assert len(daemon.lines) == 2  # the start line and this one


def test_a_worker_that_is_told_to_leave_is_replaced(state_dir: Path) -> None:
    with Daemon("--name", "app", "64", "100", workers=2) as daemon:
        victim = daemon.workers[0]
        os.kill(victim, signal.SIGTERM)
        assert await_line(daemon, rf"\(pid {victim}\)").endswith("ended with exit status 0; starting another")
        with Client(daemon) as client:
            assert shm_stats(client)["shm_workers_exited"] == "1"


def test_a_worker_that_leaves_gets_no_more_connections(state_dir: Path) -> None:
    """Told to leave while a client is slow to take its replies, it stays for a while; whoever comes meanwhile is served by the other."""
    with Daemon("--name", "app", "-m", "16", workers=2) as daemon, Client(daemon) as slow:
        slow.set(b"big", b"x" * MIB)
        slow.send(b"get big\r\n" * 64)
        slow.line()
        for pid in daemon.workers:  # whichever has the client
            os.kill(pid, signal.SIGTERM)
        until(lambda: len(said(daemon, "exit status 0")) == 1 and len(daemon.workers) == 2, "the idle one to be replaced")
        clients = [Client(daemon) for _ in range(4)]
        assert all(client.ask(b"version").startswith(b"VERSION") for client in clients)
        assert len(said(daemon, "exit status 0")) == 1  # the other one is still there
        for client in clients:
            client.close()


def test_a_crash_loop_is_slowed_down(state_dir: Path) -> None:
    """Each worker in turn is killed as soon as it serves: the next ones come later and later, and clients wait in the backlog."""
    with Daemon("--name", "app", "64", "100") as daemon:
        for count in range(1, 6):
            victim = until(lambda: daemon.workers, "a worker")[0]
            with Client(daemon) as client:
                assert client.ask(b"version").startswith(b"VERSION")  # it serves
                os.kill(victim, signal.SIGKILL)
                await_line(daemon, "killed by SIGKILL", count)
        delays = [float(wait) if wait else 0.0 for wait in re.findall(r"starting another(?: in ([\d.]+) s)?", "\n".join(daemon.lines))]
        assert delays == sorted(delays)
        assert delays[0] == 0.0
        assert delays[-1] > 0.0
        with Client(daemon) as client:
            assert client.ask(b"version").startswith(b"VERSION")
        assert daemon.stop() == 0


def test_a_stopped_worker_is_reported_aborted_and_killed(state_dir: Path) -> None:
    with Daemon("--name", "app", "--stuck-s", "2", "64", "100", workers=2) as daemon:
        victim = daemon.workers[0]
        os.kill(victim, signal.SIGSTOP)
        await_line(daemon, rf"worker [01] \(pid {victim}\) shows no sign of life for 2 s")
        clients = [Client(daemon) for _ in range(6)]
        assert all(client.set(b"k", b"v") == b"STORED" for client in clients)  # the other worker gets them all
        await_line(daemon, rf"\(pid {victim}\) is stuck for 4 s; sending SIGABRT")
        await_line(daemon, rf"\(pid {victim}\) is stuck for 6 s; sending SIGKILL")
        await_line(daemon, rf"\(pid {victim}\) killed by SIGKILL; starting another")
        until(lambda: len(daemon.workers) == 2 and victim not in daemon.workers, "another worker")
        assert all(client.get(b"k") == b"v" for client in clients)
        figures = shm_stats(clients[0])
        assert figures["shm_workers_stuck"] == figures["shm_workers_killed"] == "1"
        for client in clients:
            client.close()


def test_a_worker_that_goes_on_in_time_is_let_be(state_dir: Path) -> None:
    with Daemon("--name", "app", "--stuck-s", "2", "64", "100") as daemon, Client(daemon) as client:
        client.set(b"k", b"v")
        victim = daemon.workers[0]
        os.kill(victim, signal.SIGSTOP)
        await_line(daemon, "no sign of life")
        os.kill(victim, signal.SIGCONT)
        await_line(daemon, rf"worker 0 \(pid {victim}\) goes on after [23] s")
        assert client.get(b"k") == b"v"
        with Client(daemon) as other:
            assert other.get(b"k") == b"v"  # it gets new connections again
        assert daemon.workers == [victim]
        assert daemon.stop() == 0


def test_idle_and_busy_workers_are_not_stuck(state_dir: Path) -> None:
    """One sends large replies as fast as they are read, two have nothing to do; for longer than it takes to be aborted."""
    with Daemon("--name", "app", "--stuck-s", "2", "-m", "8", workers=3) as daemon, Client(daemon) as client:
        value = b"x" * 500_000
        assert client.set(b"big", value) == b"STORED"
        end = time.monotonic() + 5.0
        while time.monotonic() < end:
            client.send(b"get big\r\n" * 50)
            for _ in range(50):
                assert client.line() == b"VALUE big 0 500000"
                assert client.read(len(value) + 2)[:-2] == value
                assert client.line() == b"END"
        assert daemon.stop() == 0
        assert len(daemon.lines) == 1


WRITER = """
import memcache_shm
cache = memcache_shm.attach("app")
value = b"x" * 60_000
print("writing", flush=True)
while True:
    cache.set("busy", value)
"""


@contextmanager
def _stopped_owner_of_the_lock(client: Client) -> Iterator[int]:
    """A process that is stopped amid a write to a table of one shard."""
    with subprocess.Popen([sys.executable, "-c", WRITER], stdout=subprocess.PIPE) as writer:
        try:
            assert writer.stdout is not None
            assert writer.stdout.readline() == b"writing\n"

            def is_caught() -> bool:
                os.kill(writer.pid, signal.SIGSTOP)
                os.waitid(os.P_PID, writer.pid, os.WSTOPPED)
                if client.set(b"probe", b"1") != b"STORED":
                    return True
                os.kill(writer.pid, signal.SIGCONT)
                return False

            until(is_caught, "the writer stopped amid a write", 30.0)
            yield writer.pid
        finally:
            writer.kill()


def test_a_worker_that_waits_for_a_lock_is_not_stuck(state_dir: Path) -> None:
    """It serves others meanwhile, and shows that it lives."""
    with (
        Daemon("--name", "app", "--stuck-s", "2", "-m", "256k", "-I", "64k") as daemon,
        Client(daemon) as client,
        _stopped_owner_of_the_lock(client) as owner,
    ):
        end = time.monotonic() + 5.0  # so long that it would have been aborted
        while time.monotonic() < end:
            client.send(b"set k 0 0 1\r\nx\r\n" * 60)
            for _ in range(60):
                assert client.line() == b"SERVER_ERROR shard busy: held by pid %d" % owner
        assert len(daemon.lines) == 1


def test_stuck_0_watches_nobody(state_dir: Path) -> None:
    with Daemon("--name", "app", "--stuck-s", "0", "64", "100", workers=2) as daemon:
        frozen, other = daemon.workers
        os.kill(frozen, signal.SIGSTOP)
        try:
            ids = state(state_dir, "app")
            for count in (1, 2):  # the supervisor goes twice about its business meanwhile
                os.kill(other, signal.SIGSEGV)
                await_line(daemon, "SIGSEGV", count)
                other = until(lambda: [pid for pid in daemon.workers if pid != frozen], "another worker")[0]
            _remove_both(ids["shmid"], ids["semid"])
            await_line(daemon, "removed from outside")
        finally:
            os.kill(frozen, signal.SIGCONT)
        assert daemon.stop() == 0
        assert not said(daemon, "stuck|sign of life")


def test_the_manual_names_figures_that_exist(state_dir: Path) -> None:
    manual = Path(__file__).parents[2] / "docs" / "operations.md"
    section = manual.read_text().partition("## Supervision")[2].partition("\n## ")[0]
    named = set(re.findall(r"`(shm_\w+|listen_\w+|time_\w+)`", section))
    with Daemon("--name", "app", "64", "100") as daemon, Client(daemon) as client:
        assert named <= shm_stats(client).keys() | client.stats().keys()
        assert {name for name in shm_stats(client) if name.startswith(("shm_workers", "shm_start", "shm_tables", "shm_shards_"))} <= named


# A table that is taken away


def _remove_segment(shmid: int, semid: int) -> None:
    sysv_ipc.remove_shared_memory(shmid)


def _remove_semaphores(shmid: int, semid: int) -> None:
    sysv_ipc.remove_semaphore(semid)


def _remove_both(shmid: int, semid: int) -> None:
    _remove_segment(shmid, semid)
    _remove_semaphores(shmid, semid)


@pytest.mark.parametrize("remove", [_remove_segment, _remove_semaphores, _remove_both])
@pytest.mark.parametrize("workers", [1, 3])
def test_a_removed_table_is_made_anew(
    remove: Callable[[int, int], None], workers: int, state_dir: Path, made_here: Callable[[], dict[str, set[int]]]
) -> None:
    with Daemon("--name", "app", "64", "100", workers=workers) as daemon:
        clients = [Client(daemon) for _ in range(2 * workers)]
        for client in clients:
            assert client.set(b"k", b"v") == b"STORED"
        before = state(state_dir, "app")
        serving = set(daemon.workers)
        remove(before["shmid"], before["semid"])
        line = await_line(daemon, "removed from outside")
        after = state(state_dir, "app")
        assert f"segment {before['shmid']}" in line
        assert f"segment {after['shmid']}" in line
        assert is_there(state_dir, "app")
        assert {key: after[key] for key in ("geometry", "mode", "evict", "made_by", "served", "pid")} == {
            key: before[key] for key in ("geometry", "mode", "evict", "made_by", "served", "pid")
        }
        for client in clients:  # no connection is lost
            until(lambda client=client: client.set(b"k", b"w") == b"STORED", "the new table")
        assert all(client.get(b"k") == b"w" for client in clients)
        figures = shm_stats(clients[0])
        assert figures["shm_uuid"] == after["uuid"]
        assert figures["shm_tables_renewed"] == "1"
        assert set(daemon.workers) == serving
        until(lambda: made_here() == {"shm": {after["shmid"]}, "sem": {after["semid"]}}, "the rest of the old one to go")
        for client in clients:
            client.close()
        assert daemon.stop() == 0
        assert names(state_dir) == []


def test_clients_read_at_most_an_error_in_between(state_dir: Path) -> None:
    with Daemon("--name", "app", "64", "100") as daemon, Client(daemon) as client:
        ids = state(state_dir, "app")
        _remove_both(ids["shmid"], ids["semid"])
        replies = set()

        def stored_in_the_new_one() -> bool:
            replies.add(client.set(b"k", b"v"))
            return bool(said(daemon, "removed from outside")) and client.get(b"k") == b"v"

        until(stored_in_the_new_one, "the new table")
        assert replies <= {b"STORED", b"SERVER_ERROR table was removed"}


def test_a_table_removed_again_and_again(state_dir: Path) -> None:
    """Whenever the new one appears it is removed at once, so that workers meet ids that are gone already."""
    with Daemon("--name", "app", "64", "100", workers=2) as daemon, Client(daemon) as client:
        for count in range(1, 4):
            ids = state(state_dir, "app")
            _remove_both(ids["shmid"], ids["semid"])
            await_line(daemon, "removed from outside", count)
        until(lambda: client.set(b"k", b"v") == b"STORED", "the new table")
        with Client(daemon) as other:
            until(lambda: other.get(b"k") == b"v", "the same table in the other worker")
        assert daemon.stop() == 0
        assert len(said(daemon, "removed from outside")) == 3


def test_figures_after_a_reset_and_a_removal(state_dir: Path) -> None:
    """The new table counts from 0; what was taken off at the reset is not taken off again."""
    with Daemon("--name", "app", "64", "100") as daemon, Client(daemon) as client:
        for _ in range(5):
            client.set(b"k", b"v")
        assert client.ask(b"stats reset") == b"RESET"
        client.set(b"k", b"v")
        assert client.stats()["cmd_set"] == "1"
        ids = state(state_dir, "app")
        _remove_both(ids["shmid"], ids["semid"])
        await_line(daemon, "removed from outside")
        until(lambda: client.set(b"k", b"v") == b"STORED", "the new table")
        figures = client.stats()
        assert figures["cmd_set"] == figures["curr_items"] == "1"
        assert figures["total_connections"] == "0"  # the daemon's own figures count from the reset on


def test_attached_programs_find_the_new_table(state_dir: Path) -> None:
    with Daemon("--name", "app", "64", "100") as daemon, Client(daemon) as client, memcache_shm.attach("app") as cache:
        cache.set("k", b"v")
        ids = state(state_dir, "app")
        _remove_both(ids["shmid"], ids["semid"])
        await_line(daemon, "removed from outside")
        until(lambda: client.set(b"k", b"w") == b"STORED", "the new table")

        def found() -> bool:
            try:
                return cache.get("k") == b"w"
            except TableRemovedError:
                return False

        until(found, "the attached program to find it")


def test_a_table_of_a_program_stays_its_own_when_made_anew(state_dir: Path) -> None:
    """`open()` made it, so the daemon's end leaves the successor as well."""
    with memcache_shm.open("app", elements=64, element_size=100), Daemon("--name", "app", "64", "100") as daemon:
        ids = state(state_dir, "app")
        _remove_both(ids["shmid"], ids["semid"])
        await_line(daemon, "removed from outside")
        assert daemon.stop() == 0
    assert is_there(state_dir, "app")
    assert "open" in verb("ls").stdout
    memcache_shm.unlink("app")


def test_keep_and_restart_after_a_removal(state_dir: Path) -> None:
    with Daemon("--name", "app", "--keep", "64", "100") as daemon, Client(daemon) as client:
        ids = state(state_dir, "app")
        _remove_semaphores(ids["shmid"], ids["semid"])
        await_line(daemon, "removed from outside")
        until(lambda: client.set(b"k", b"v") == b"STORED", "the new table")
        workers = daemon.workers
        os.kill(daemon.pid, signal.SIGKILL)
        daemon.wait()
        until(lambda: not any(map(is_running, workers)), "the workers to go")
    with Daemon("--name", "app", "64", "100") as daemon, Client(daemon) as client:
        assert "1 items taken over" in daemon.lines[0]
        assert client.get(b"k") == b"v"
        assert daemon.stop() == 0
    assert names(state_dir) == []
