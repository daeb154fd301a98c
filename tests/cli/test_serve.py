"""The daemon from the shell's side: its start line, its name, its table, its exit status."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import memcache_shm

Start = Callable[..., "Served"]


class Served:
    """A running daemon; `line` is its start line."""

    def __init__(self, *words: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "memcache_shm", *words], stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
        )
        assert self.process.stderr is not None
        self.line = self.process.stderr.readline()
        port = re.search(r" on 127\.0\.0\.1:(\d+)", self.line)
        self.port = int(port.group(1)) if port else 0

    def ask(self, request: bytes, address: str | tuple[str, int] | None = None) -> bytes:
        """What the daemon says to `request` before it closes."""
        with socket.socket(socket.AF_UNIX if isinstance(address, str) else socket.AF_INET) as client:
            client.settimeout(10)
            client.connect(address or ("127.0.0.1", self.port))
            client.sendall(request + b"quit\r\n")
            return b"".join(iter(lambda: client.recv(4096), b""))

    def stop(self, number: int = signal.SIGTERM) -> tuple[int, str]:
        """Exit status and what else it said."""
        self.process.send_signal(number)
        _, said = self.process.communicate(timeout=20)
        return self.process.returncode, said


@pytest.fixture
def start(state_dir: Path) -> Iterator[Start]:
    running: list[Served] = []

    def begin(*words: str) -> Served:
        running.append(Served("-t", "1", *words))
        return running[-1]

    yield begin
    for daemon in running:
        if daemon.process.poll() is None:
            daemon.stop()


def run(*words: str) -> tuple[int, str]:
    """Exit status and standard error of a command that ends by itself."""
    done = subprocess.run([sys.executable, "-m", "memcache_shm", *words], capture_output=True, text=True, timeout=20, check=False)
    assert done.stdout == ""
    return done.returncode, done.stderr


def test_start_line_and_clean_end(start: Start, state_dir: Path) -> None:
    daemon = start("-p", "0", "100", "50")
    assert daemon.line == (
        f"memcache-shm: serving memcache_shm-{daemon.port} (100 elements of 50 bytes, 1 shard)"
        f" on 127.0.0.1:{daemon.port}, pid {daemon.process.pid}\n"
    )
    cache = memcache_shm.attach(f"memcache_shm-{daemon.port}")
    assert daemon.ask(b"set key 0 0 1\r\nx\r\n") == b"STORED\r\n"
    assert cache.get("key") == b"x"
    cache.set("mine", b"y")
    assert daemon.ask(b"get mine\r\n") == b"VALUE mine 0 1\r\ny\r\nEND\r\n"
    assert daemon.stop() == (0, "")
    assert os.listdir(state_dir) == []
    with pytest.raises(memcache_shm.TableRemovedError):
        cache.get("key")


def test_unix_socket_alone(start: Start, tmp_path: Path) -> None:
    path = f"{tmp_path}/cache.sock"
    daemon = start("-s", path, "-a", "770")
    assert "serving memcache_shm-cache.sock (64 MiB memory" in daemon.line
    assert f" on {path}, pid" in daemon.line
    assert os.stat(path).st_mode & 0o777 == 0o770
    assert daemon.ask(b"get key\r\n", path) == b"END\r\n"
    assert daemon.stop(signal.SIGINT) == (0, "")
    assert not os.path.exists(path)


def test_kept_table_is_taken_over(start: Start) -> None:
    first = start("-p", "0", "--name", "app", "--keep", "10", "10")
    first.ask(b"set key 0 0 1\r\nx\r\n")
    assert first.stop()[0] == 0
    second = start("-p", "0", "--name", "app", "10", "10")
    assert ", 1 items taken over)" in second.line
    assert second.ask(b"get key\r\n") == b"VALUE key 0 1\r\nx\r\nEND\r\n"


def test_table_of_a_program_outlives_the_daemon(start: Start) -> None:
    with memcache_shm.open("app", elements=10, element_size=10) as cache:
        daemon = start("-p", "0", "--name", "app", "10", "10")
        daemon.ask(b"set key 0 0 1\r\nx\r\n")
        assert daemon.stop()[0] == 0
        assert cache.get("key") == b"x"


def test_what_is_taken_is_refused(start: Start, tmp_path: Path) -> None:
    path = f"{tmp_path}/cache.sock"
    daemon = start("-p", "0", "-s", path, "--name", "app", "10", "10")
    for words, said in (
        (("-p", "0", "--name", "app", "10", "10"), f"pid {daemon.process.pid}"),
        (("-p", str(daemon.port)), f"127.0.0.1:{daemon.port}: Address already in use"),
        (("-s", path), f"{path}: Address already in use"),
        (("-l", "no.such.host.invalid"), "no.such.host.invalid"),
        (("-s", str(tmp_path)), "is no socket"),
    ):
        status, error = run(*words)
        assert status == 1
        assert error.count("\n") == 1
        assert said in error
    memcache_shm.open("other", elements=10, element_size=10).close()
    status, error = run("-p", "0", "--name", "other", "10", "11")
    assert status == 1
    assert "memcache-shm rm other" in error


def test_signal_at_any_moment_of_the_start(state_dir: Path) -> None:
    """A stop that comes while the daemon starts leaves nothing behind either."""
    for delay_ms in range(20, 300, 20):
        process = subprocess.Popen([sys.executable, "-m", "memcache_shm", "-t", "1", "-p", "0", "10", "10"], stderr=subprocess.DEVNULL)
        time.sleep(delay_ms / 1000)  # the moment is the subject of the test
        process.send_signal(signal.SIGTERM)
        process.wait(20)
        assert list(state_dir.glob("*.json")) == []
