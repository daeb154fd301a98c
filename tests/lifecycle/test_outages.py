"""The kernel refuses descriptors, processes or memory for a while: the daemon serves on, says so once, and recovers by itself."""

from __future__ import annotations

import contextlib
import os
import resource
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import sysv_ipc
from support.client import Client
from support.feeding import subscribe
from support.segments import Segment
from support.servers import Daemon, Server
from support.supervision import await_line, said, shm_stats
from support.tables import names, state
from support.waiting import until

import memcache_shm

# Descriptors


@contextmanager
def _no_more_descriptors(pid: int) -> Iterator[None]:
    """The process can open nothing; what it has open stays."""
    taken = {int(path.name) for path in Path(f"/proc/{pid}/fd").iterdir()}
    lowest_free = next(number for number in range(len(taken) + 1) if number not in taken)
    limits = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (lowest_free, limits[1]))
    try:
        yield
    finally:
        resource.prlimit(pid, resource.RLIMIT_NOFILE, limits)


def test_accepting_pauses_and_goes_on(state_dir: Path) -> None:
    with Daemon("--name", "app", "64", "100", workers=2) as daemon, Client(daemon) as before:
        assert before.set(b"k", b"v") == b"STORED"
        with _no_more_descriptors(daemon.pid):
            waiting = [Client(daemon) for _ in range(5)]
            for client in waiting:
                client.send(b"get k\r\n")
            await_line(daemon, "accepting pauses: Too many open files")
            until(lambda: int(before.stats()["listen_disabled_num"]) > 3, "further tries")
            assert before.get(b"k") == b"v"
        assert all(client.line() == b"VALUE k 0 1" for client in waiting)
        await_line(daemon, r"accepting goes on after \d+\.\d s")
        assert len(said(daemon, "accepting")) == 2
        for client in waiting:
            client.close()
        assert daemon.stop() == 0


def test_a_worker_is_replaced_when_descriptors_are_back(state_dir: Path) -> None:
    with Daemon("--name", "app", "64", "100", workers=2) as daemon:
        clients = [Client(daemon) for _ in range(2)]
        for client in clients:
            client.set(b"k", b"v")
        with _no_more_descriptors(daemon.pid):
            os.kill(daemon.workers[0], signal.SIGKILL)
            await_line(daemon, "cannot start a worker: Too many open files")
            other = next(client for client in clients if not _is_at_its_end(client))
            until(lambda: int(shm_stats(other)["shm_start_failures"]) >= 3, "further tries")
            assert other.get(b"k") == b"v"
            assert len(daemon.workers) == 1
        until(lambda: len(daemon.workers) == 2, "a worker in its place")
        await_line(daemon, r"all workers are started again after \d+\.\d s")
        assert len(said(daemon, "cannot start")) == 1
        for client in clients:
            client.close()
        assert daemon.stop() == 0


def _is_at_its_end(client: Client) -> bool:
    """Whether the worker that had this connection is gone."""
    try:
        client.send(b"version\r\n")
        return client.line() == b""
    except ConnectionError:
        return True


def test_a_worker_without_descriptors_loses_what_it_cannot_take(state_dir: Path) -> None:
    """The kernel drops descriptors that do not fit; the client is closed, the rest served, and the loss told and counted."""
    with Daemon("--name", "app", "64", "100") as daemon, Client(daemon) as before:
        assert before.set(b"k", b"v") == b"STORED"
        with _no_more_descriptors(daemon.workers[0]):
            with Client(daemon) as client:
                assert client.is_closed()
            await_line(daemon, "1 connections lost: a worker is out of descriptors")
            assert before.get(b"k") == b"v"
            assert shm_stats(before)["shm_dropped_connections"] == "1"
        await_line(daemon, "no more connections lost")
        with Client(daemon) as client:
            assert client.get(b"k") == b"v"
        assert before.stats()["curr_connections"] == "1"


# Processes

UNPRIVILEGED = 54321  # the limit of processes does not bind root
AS_USER = """
import encodings.ascii, encodings.idna, encodings.latin_1, locale, os, resource, sys
from memcache_shm.cli.options import parse
from memcache_shm.cli.serve import serve
user, processes = map(int, sys.argv[1:3])
options = parse(sys.argv[3:], "")  # nothing is imported from here on: the user may not be able to read it
if os.geteuid() == 0:
    os.setgroups([]); os.setgid(user); os.setuid(user)
if processes >= 0:
    resource.setrlimit(resource.RLIMIT_NPROC, (processes, processes))
sys.exit(serve(options))
"""


class UnprivilegedDaemon(Daemon):
    """A daemon that the limit of processes binds."""

    def __init__(self, *options: str, workers: int = 1, processes: int = -1, wait: bool = True) -> None:
        self.directory = tempfile.TemporaryDirectory(prefix="ms")
        if os.geteuid() == 0:
            os.chown(self.directory.name, UNPRIVILEGED, UNPRIVILEGED)
        words = [str(UNPRIVILEGED), str(processes), "-p", "0", "-t", str(workers), *options]
        env = {"MEMCACHE_SHM_DIR": os.path.join(self.directory.name, "tables")}
        Server.__init__(self, [sys.executable, "-c", AS_USER, *words], env, Path(self.directory.name))
        self.name = ""
        if wait:
            self._wait_for_start()


def _limit_processes(pid: int, soft: str) -> None:
    """By the user whose process it is: another one needs CAP_SYS_RESOURCE, root or not."""
    user = UNPRIVILEGED if os.geteuid() == 0 else None
    subprocess.run(["prlimit", "--pid", str(pid), f"--nproc={soft}:"], user=user, group=user, check=True)


def test_a_refused_fork_is_tried_again() -> None:
    with UnprivilegedDaemon("--name", "app", "64", "100", workers=2) as daemon:
        clients = [Client(daemon) for _ in range(2)]
        for client in clients:
            assert client.set(b"k", b"v") == b"STORED"
        _, hard = resource.getrlimit(resource.RLIMIT_NPROC)
        _limit_processes(daemon.pid, "0")
        os.kill(daemon.workers[0], signal.SIGKILL)
        await_line(daemon, "cannot start a worker: Resource temporarily unavailable")
        other = next(client for client in clients if not _is_at_its_end(client))
        until(lambda: int(shm_stats(other)["shm_start_failures"]) >= 4, "further tries")
        with Client(daemon) as late:
            assert late.get(b"k") == b"v"
        assert len(daemon.workers) == 1
        _limit_processes(daemon.pid, str(hard))
        await_line(daemon, r"all workers are started again after \d+\.\d s")
        assert len(daemon.workers) == 2
        assert len(said(daemon, "cannot start")) == 1
        for client in clients:
            client.close()
        assert daemon.stop() == 0


def test_a_worker_without_a_thread_to_listen_with_tries_at_leisure() -> None:
    """The next table needs another one; until there is one the worker does not look for it all the time, since each try takes locks."""
    with UnprivilegedDaemon("--name", "app", "64", "100") as daemon, Client(daemon) as client, subscribe(daemon, b"k") as hearer:
        (worker,) = daemon.workers
        _, hard = resource.getrlimit(resource.RLIMIT_NPROC)
        _limit_processes(worker, "0")
        ids = shm_stats(client)
        subprocess.run(["ipcrm", "-m", ids["shm_id"], "-s", ids["sem_id"]], check=True)
        until(lambda: len(os.listdir(f"/proc/{worker}/task")) == 1, "the thread that listened to the old table to end")
        until(lambda: shm_stats(client)["shm_id"] != ids["shm_id"], "the new table")
        begin_s, sleeps = time.monotonic(), _sleeps(worker)
        until(lambda: _sleeps(worker) - sleeps >= 30, "further tries")
        assert time.monotonic() - begin_s > 1.0
        _limit_processes(worker, str(hard))
        hearer.until_lost()
        client.set(b"k", b"w")
        hearer.until_told(b"k", b"w")
        assert daemon.workers == [worker]


def _sleeps(pid: int) -> int:
    """How often its main thread has waited."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.split("\nvoluntary_ctxt_switches:")[1].split()[0])


def test_a_fork_refused_at_boot_ends_the_daemon() -> None:
    daemon = UnprivilegedDaemon("--name", "app", "64", "100", processes=0, wait=False)
    tables = Path(daemon.directory.name, "tables")
    until(lambda: daemon.process.poll() is not None, "its end")
    left = names(tables)
    assert daemon.wait() == 1
    assert [line for line in daemon.lines if "cannot start" in line][-1].startswith(
        "memcache-shm: cannot start a worker: Resource temporarily unavailable; see"
    )
    assert left == []


# Workers that end at boot while others serve

PATCHED = """
import os, sys
from memcache_shm.server import supervisor
serve, trouble = supervisor.run_worker, sys.argv[1]
def run_worker(*arguments):
    if os.path.exists(trouble):
        os._exit(int(open(trouble).read()))
    serve(*arguments)
supervisor.run_worker = run_worker
from memcache_shm.cli.main import main
sys.exit(main(sys.argv[2:]))
"""


class PatchedDaemon(Daemon):
    """Its workers end at boot with the status that the file `trouble` says, while there is one."""

    def __init__(self, *options: str, workers: int) -> None:
        self.directory = tempfile.TemporaryDirectory(prefix="ms")
        self.trouble = Path(self.directory.name, "trouble")
        command = [sys.executable, "-c", PATCHED, str(self.trouble), "-p", "0", "-t", str(workers), *options]
        Server.__init__(self, command, {}, Path(self.directory.name))
        self.name = ""
        self._wait_for_start()


def test_workers_short_of_something_at_boot_are_tried_again(state_dir: Path) -> None:
    with PatchedDaemon("--name", "app", "64", "100", workers=2) as daemon:
        daemon.trouble.write_text("75")
        os.kill(daemon.workers[0], signal.SIGKILL)
        await_line(daemon, "ended with exit status 75", 4)  # more than end the daemon
        with Client(daemon) as client:
            assert client.set(b"k", b"v") == b"STORED"
            daemon.trouble.unlink()
            until(lambda: len(daemon.workers) == 2, "a worker in its place")
            assert int(shm_stats(client)["shm_workers_exited"]) >= 4
        assert daemon.stop() == 0


def test_workers_that_fail_at_boot_end_the_daemon_later_on_as_well(state_dir: Path) -> None:
    with PatchedDaemon("--name", "app", "64", "100", workers=2) as daemon:
        daemon.trouble.write_text("7")
        os.kill(daemon.workers[0], signal.SIGKILL)
        assert daemon.wait() == 1
        assert daemon.lines[-1] == "memcache-shm: 3 workers in a row ended before they served, the last ended with exit status 7"
    assert names(state_dir) == []


# Memory, and the state directory


def test_a_table_that_cannot_be_made_anew_is_tried_again(state_dir: Path) -> None:
    with Daemon("--name", "app", "64", "100") as daemon, Client(daemon) as client:
        assert client.set(b"k", b"v") == b"STORED"
        ids = state(state_dir, "app")
        away = state_dir.with_name("away")
        state_dir.rename(away)
        state_dir.write_text("in the way")
        sysv_ipc.remove_shared_memory(ids["shmid"])
        await_line(daemon, "cannot be made anew: .* is no directory")
        assert client.ask(b"get k") == b"SERVER_ERROR table was removed"
        state_dir.unlink()
        away.rename(state_dir)
        await_line(daemon, r"the table is back after \d+\.\d s")
        until(lambda: client.set(b"k", b"w") == b"STORED", "the new table")
        assert len(said(daemon, "anew")) == 1
        assert daemon.stop() == 0
    assert names(state_dir) == []


# Repair


def test_a_repair_is_done_by_the_supervisor(state_dir: Path) -> None:
    """The only writer is killed amid a write: its shard is whole again without any further write."""
    value = b"x" * 200_000
    request = b"set big 0 0 %d noreply\r\n%b\r\n" % (len(value), value)
    with Daemon("--name", "app", "-m", "4", "--stuck-s", "0") as daemon, memcache_shm.attach("app") as cache:
        victim = until(lambda: daemon.workers, "a worker")[0]
        with Segment(cache.attached_table) as segment, socket.socket() as other:
            other.connect((daemon.host, daemon.port))
            other.setblocking(False)
            end = time.monotonic() + 30
            rest = memoryview(b"")
            while not _stopped_with_a_lock(victim, segment):
                os.kill(victim, signal.SIGCONT)
                assert time.monotonic() < end, "it never had a lock when it was stopped"
                rest = _send_while_it_takes(other, rest or memoryview(request * 20))
            os.kill(victim, signal.SIGKILL)
        line = await_line(daemon, "repaired")
        assert line == f"memcache-shm: 1 shard repaired after worker 0 (pid {victim})"
        with Client(daemon) as client:
            figures = shm_stats(client)
            assert figures["shm_shards_swept"] == "1"
            assert int(figures["shm_repairs"]) <= 1  # 0 when it died between lock and intent
            assert client.set(b"k", b"v") == b"STORED"
        assert daemon.stop() == 0


def _stopped_with_a_lock(pid: int, segment: Segment) -> bool:
    """Stop it; whether one of the table's locks is held then."""
    os.kill(pid, signal.SIGSTOP)
    until(lambda: Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "T", "it to stop", every_s=0.0002)
    return any(segment.get(segment.control(shard, "lock")) for shard in range(segment.shards))


def _send_while_it_takes(sock: socket.socket, data: memoryview) -> memoryview:
    """What is left of it."""
    with contextlib.suppress(BlockingIOError):
        while data:
            data = data[sock.send(data) :]
    return data
