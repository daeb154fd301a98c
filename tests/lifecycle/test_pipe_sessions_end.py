"""The ends of sessions over named pipes: by SIGUSR1, with a client, with their server, with the table, with the daemon."""

from __future__ import annotations

import os
import pwd
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import sysv_ipc
from support.client import Client
from support.isolation import is_running
from support.pipes import DELETED, PipeDaemon, PipeUser, open_pipes, stopped, users
from support.servers import Daemon
from support.supervision import await_line, said
from support.tables import state, verb
from support.waiting import until

import memcache_shm


@pytest.fixture
def piped(state_dir: Path) -> Iterator[PipeDaemon]:
    with PipeDaemon("-m", "16", workers=2) as daemon:
        yield daemon


@pytest.fixture
def cache(piped: PipeDaemon) -> Iterator[memcache_shm.Cache]:
    with memcache_shm.attach(piped.name) as cache:
        cache.set("key", b"1")
        yield cache


def test_sigusr1_ends_all_sessions_and_nothing_else(piped: PipeDaemon, cache: memcache_shm.Cache) -> None:
    server = piped.pipe_server
    with users(piped, 8) as served, PipeUser(piped.fifo) as waiting, Client(piped) as client:
        for user in served:
            assert user.subscribe(b"key") == 1
        os.kill(piped.pid, signal.SIGUSR1)
        for user in served:
            assert user.ends()
        await_line(piped, "SIGUSR1: 8 pipe sessions ended")
        waiting.connected()
        assert waiting.subscribe(b"key") == 1
        assert client.set(b"key", b"2") == b"STORED"
        assert waiting.note() == (b"key", b"2")
    assert piped.pipe_server == server
    assert not said(piped, "starting another")


def test_sigusr1_to_everybody(state_dir: Path) -> None:
    """As `kill -USR1 0` or a service manager may send it."""
    with PipeDaemon("-m", "16", workers=2, within=["setsid"]) as daemon:
        with daemon.user() as user:
            os.killpg(daemon.pid, signal.SIGUSR1)
            assert user.ends()
        with daemon.user() as user, Client(daemon) as client:
            assert client.ask(b"mn") == b"MN"
            assert user.disconnect() == 0
        assert not said(daemon, "starting another")


def test_sigusr1_without_named_pipes(state_dir: Path) -> None:
    with Daemon("-m", "16") as daemon, Client(daemon) as client:
        os.kill(daemon.pid, signal.SIGUSR1)
        assert client.ask(b"mn") == b"MN"
        assert daemon.stop() == 0


def test_a_killed_client_costs_its_session_alone(piped: PipeDaemon, cache: memcache_shm.Cache) -> None:
    with piped.user() as other:
        assert other.subscribe(b"key") == 1
        for number in range(10):
            command = [sys.executable, "-m", "memcache_shm", "pipe-client", f"{os.getpid()}k{number}", piped.fifo]
            with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as client:
                assert client.stdin is not None
                assert client.stdout is not None
                client.stdin.write(b"SUBSCRIBE [key]\n")
                client.stdin.flush()
                assert client.stdout.readline() == b"Server returned 0 for operation: connect\n"
                assert client.stdout.readline() == b"Server returned 1 for operation: subscribe\n"
                client.kill()
            for suffix in ("req", "res", "not"):
                os.unlink(f"/tmp/memcache_shm-{os.getpid()}k{number}.{suffix}")
        until(lambda: open_pipes(piped.pipe_server) == 3, "the dead ones to be forgotten")
        cache.set("key", b"2")
        assert other.note() == (b"key", b"2")


def test_the_server_of_pipes_is_started_again(piped: PipeDaemon, cache: memcache_shm.Cache) -> None:
    """Its sessions end; who registers meanwhile waits for the next one."""
    server = piped.pipe_server
    with piped.user() as user:
        assert user.subscribe(b"key") == 1
        os.kill(server, signal.SIGKILL)
        with PipeUser(piped.fifo) as other:
            assert user.ends()
            other.connected()
            assert other.subscribe(b"key") == 1
            cache.set("key", b"2")
            assert other.note() == (b"key", b"2")
    await_line(piped, rf"server of named pipes \(pid {server}\) killed by SIGKILL; starting another")
    assert piped.pipe_server != server


def test_the_daemon_ends_while_there_are_sessions(piped: PipeDaemon, cache: memcache_shm.Cache) -> None:
    with users(piped, 8) as served, PipeUser(piped.fifo) as waiting:
        for user in served:
            assert user.subscribe(b"key") == 1
        began_s = time.monotonic()
        assert piped.stop() == 0
        assert time.monotonic() - began_s < 5.0
        for user in served:
            assert user.ends()
        assert waiting.is_quiet()
    assert not os.path.exists(piped.fifo)


def test_a_killed_daemon_takes_its_sessions_along(piped: PipeDaemon, cache: memcache_shm.Cache, state_dir: Path) -> None:
    server, fifo, name = piped.pipe_server, piped.fifo, piped.name
    with piped.user() as user:
        piped.process.kill()
        assert user.ends()
        until(lambda: not is_running(server), "the server of pipes to end")
        # The pipe that it left is taken by the next one.
        with Daemon("-m", "16", "--name", name, "--fifo", fifo) as next_one, PipeUser(fifo) as other:
            other.connected()
            assert other.subscribe(b"key") == 1  # the table was taken over
            assert next_one.stop() == 0


def test_a_registration_pipe_in_use_or_no_pipe_is_refused(piped: PipeDaemon, tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("text")
    link = tmp_path / "link"
    link.symlink_to(piped.fifo)
    cases = {
        piped.fifo: f"the named pipe {piped.fifo} is in use; choose another path, or end who serves it",
        str(file): f"{file} is there and is no named pipe; choose another path, or remove it",
        str(link): f"{link} is there and is no named pipe; choose another path, or remove it",
        "/nowhere/f": "cannot make the named pipe /nowhere/f: No such file or directory; choose another path",
    }
    for path, problem in cases.items():
        daemon = Daemon("-m", "16", "--fifo", path, wait=False)
        assert daemon.wait() == 1
        assert daemon.lines == [f"memcache-shm: error: {problem}"]
    assert file.read_text() == "text"
    with piped.user() as user:
        assert user.disconnect() == 0


def test_a_registration_pipe_that_was_removed_is_made_anew(piped: PipeDaemon, cache: memcache_shm.Cache) -> None:
    """Sessions go on; a file in its place is left alone."""
    with piped.user() as user:
        assert user.subscribe(b"key") == 1
        os.unlink(piped.fifo)
        await_line(piped, f"the registration pipe {piped.fifo} was removed; it is made anew")
        with piped.user() as other:
            assert other.subscribe(b"key") == 1
        os.unlink(piped.fifo)
        Path(piped.fifo).write_text("text")
        await_line(piped, f"somebody has replaced {piped.fifo}: no more clients can register; restart")
        cache.set("key", b"2")
        assert user.note() == (b"key", b"2")
        assert piped.stop() == 0
        assert user.ends()


def test_a_registration_pipe_that_was_removed_while_its_server_was_down(piped: PipeDaemon) -> None:
    server = piped.pipe_server
    with stopped(server):
        os.unlink(piped.fifo)
        os.kill(server, signal.SIGKILL)
    await_line(piped, f"the registration pipe {piped.fifo} was removed; it is made anew")
    with piped.user() as user:
        assert user.disconnect() == 0
    assert len(said(piped, "starting another")) == 1


def test_a_table_that_was_removed_from_outside(piped: PipeDaemon, cache: memcache_shm.Cache, state_dir: Path) -> None:
    """Its keys are gone, whatever is in the next one; the session goes on there."""
    with piped.user() as user:
        assert user.subscribe(b"key") == 1
        found = state(state_dir, piped.name)
        sysv_ipc.remove_shared_memory(found["shmid"])
        sysv_ipc.remove_semaphore(found["semid"])
        assert user.note(20.0) == (b"key", DELETED)
        assert user.subscribe(b"key") == 0
        with memcache_shm.attach(piped.name) as anew:
            anew.set("key", b"2")
            assert user.subscribe(b"key") == 1
            anew.set("key", b"3")
            assert user.note() == (b"key", b"3")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
def test_a_daemon_of_another_user_in_the_background(monkeypatch: pytest.MonkeyPatch) -> None:
    """The registration pipe is that user's, its path as it was meant before the daemon left its directory; root's clients are served."""
    with tempfile.TemporaryDirectory(prefix="ms") as place:
        os.chmod(place, 0o777)
        monkeypatch.setenv("MEMCACHE_SHM_DIR", f"{place}/tables")
        command = [sys.executable, "-m", "memcache_shm", "-d", "-P", f"{place}/pid", "-p", "0", "-t", "1", "-u", "nobody", "--fifo", "f"]
        started = subprocess.run(command, cwd=place, stderr=subprocess.PIPE, text=True, timeout=30, check=True)
        assert "serving" in started.stderr
        pid = int(Path(place, "pid").read_text())
        try:
            assert Path(place, "f").stat().st_uid == pwd.getpwnam("nobody").pw_uid
            found = verb("pipe-client", f"u{os.getpid()}", f"{place}/f", text="SUBSCRIBE [key]\n")
            assert (found.returncode, found.stderr) == (0, "")
            assert found.stdout.splitlines()[1] == "Server returned 0 for operation: subscribe"
        finally:
            os.kill(pid, signal.SIGTERM)
            until(lambda: not is_running(pid), "the daemon to end", 20.0)
        assert not os.path.exists(f"{place}/f")


def test_a_followers_clients_hear_what_its_leader_changes(piped: PipeDaemon, cache: memcache_shm.Cache) -> None:
    with PipeDaemon("-m", "16", "--follow", piped.unix_path) as follower, memcache_shm.attach(follower.name) as copy:
        until(lambda: copy.get("key") == b"1", "the copy")
        with follower.user() as user:
            assert user.subscribe(b"key") == 1
            cache.set("key", b"2")
            user.notes_until(b"key", b"2")
            cache.delete("key")
            assert user.note() == (b"key", DELETED)


def test_a_stopped_writer_makes_nobody_else_wait(piped: PipeDaemon, cache: memcache_shm.Cache) -> None:
    """One who holds a shard while somebody begins to listen: that one's answer comes when it goes on, others' come at once."""
    pid = os.fork()
    if pid == 0:
        with memcache_shm.attach(piped.name) as writer:
            while True:
                writer.set("busy", os.urandom(200_000))
    try:
        stopped_holding_a_lock(piped, pid)
        with piped.user() as first, piped.user() as second:
            first.send(b"\3key" + 38 * b"\0")
            assert second.unsubscribe(b"key") == 1
            assert second.disconnect() == 0
            os.kill(pid, signal.SIGCONT)
            assert first.answer() == b"\3\1"
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


def stopped_holding_a_lock(daemon: PipeDaemon, pid: int) -> None:
    """Stop the writer until it is caught amid a write: then another write of the same key fails."""

    def caught() -> bool:
        os.kill(pid, signal.SIGSTOP)
        os.waitpid(pid, os.WUNTRACED)
        with Client(daemon) as client:
            if client.set(b"busy", b"x").startswith(b"SERVER_ERROR shard busy"):
                return True
        os.kill(pid, signal.SIGCONT)
        return False

    until(caught, "a writer that is stopped amid a write", 60.0)
