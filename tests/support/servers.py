"""Servers for tests: our daemon, and Debian's memcached as the reference; each on free ports, each ended by its pid."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar, cast

from support.channels import RINGS, ChannelSocket
from support.isolation import children
from support.waiting import until

START_LINE = re.compile(r"serving (?P<name>\S+) \((?P<geometry>.*)\) on (?P<addresses>.*), pid (?P<pid>\d+)")
START_TIMEOUT_S = 20.0
STOP_TIMEOUT_S = 20.0
S = TypeVar("S", bound="Server")
D = TypeVar("D", bound="Daemon")


class Server:
    """A server process with the lines it writes on standard error."""

    def __init__(self, command: Sequence[str], env: dict[str, str], cwd: Path) -> None:
        self.command = command
        self.lines: list[str] = []
        self.host = "127.0.0.1"
        self.port = 0
        self.unix_path = ""
        self.process = subprocess.Popen(command, env=os.environ | env, cwd=cwd, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        self._reader = threading.Thread(target=self._read_lines, daemon=True)
        self._reader.start()

    def __enter__(self: S) -> S:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.stop()

    @property
    def pid(self) -> int:
        return self.process.pid

    def _read_lines(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.lines.append(line.rstrip("\n"))

    def connect(self, door: str = "tcp", timeout_s: float = 5.0) -> socket.socket:
        """A new connection through the door "tcp", "unix", "channel" or "narrow", which is a channel with rings of the least size."""
        if door in RINGS:
            return cast(socket.socket, ChannelSocket(self.unix_path, door, timeout_s))
        if door == "unix":
            sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            sock.settimeout(timeout_s)
            sock.connect(self.unix_path)
            return sock
        sock = socket.create_connection((self.host, self.port), timeout=timeout_s)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return sock

    def flush(self) -> None:
        """Empty it; one that is told to refuse that keeps what it has."""
        with self.connect() as sock:
            self.flush_by(sock)

    def flush_by(self, sock: Any) -> None:
        """The same over a connection that is there already, or something like one."""
        sock.sendall(b"flush_all\r\n")
        assert sock.recv(64) == (b"CLIENT_ERROR flush_all not allowed\r\n" if "-F" in self.command else b"OK\r\n")

    def stop(self, number: int = signal.SIGTERM) -> int:
        """End it by a signal and reap it; its exit status. Kills it when it does not end, and says so."""
        if self.process.poll() is None:
            self.process.send_signal(number)
        return self.wait()

    def wait(self) -> int:
        """Reap it; its exit status. Kills it when it does not end by itself, and says so."""
        try:
            status = self.process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            raise AssertionError(f"{self.command} did not end; it said: {self.lines}") from None
        finally:
            self._reader.join(1.0)
            if self.process.stderr is not None:
                self.process.stderr.close()
        return status


class Daemon(Server):
    """Our daemon on a free port and a UNIX socket; an `-s` among the options stands for the latter, and `command` for all of them.

    `within` comes in front of the command: a program that executes it somewhere else."""

    def __init__(self, *options: str, workers: int = 1, wait: bool = True, command: Sequence[str] = (), within: Sequence[str] = ()) -> None:
        self.directory = tempfile.TemporaryDirectory(prefix="ms")  # short: a socket's path has 107 bytes
        doors = ["-p", "0"] if "-s" in options else ["-p", "0", "-s", os.path.join(self.directory.name, "s")]
        usual = [*within, sys.executable, "-m", "memcache_shm", *doors, "-t", str(workers), *options]
        super().__init__(command or usual, {}, Path(self.directory.name))
        self.name = ""
        if wait:
            self._wait_for_start()

    def _wait_for_start(self) -> None:
        try:
            until(lambda: self.start is not None or self.process.poll() is not None, "start line", START_TIMEOUT_S)
            if self.start is None:
                raise AssertionError(f"{self.command} ended with {self.process.returncode}: {self.lines}")
        except AssertionError:
            self.stop(signal.SIGKILL)
            raise
        self.name = self.start["name"]
        for address in self.start["addresses"].split():
            self._learn(address)

    @property
    def start(self) -> re.Match[str] | None:
        """The start line, once it was written."""
        return next((match for line in list(self.lines) if (match := START_LINE.search(line))), None)

    def _learn(self, address: str) -> None:
        if address.startswith("/"):
            self.unix_path = address
        elif not self.port:
            host, _, port = address.rpartition(":")
            self.host, self.port = host.strip("[]"), int(port)

    @property
    def addresses(self) -> dict[str, str]:
        """How users write where it is, by door."""
        return {"tcp": f"{self.host}:{self.port}", "unix": self.unix_path, "channel": f"channel:{self.unix_path}"}

    @contextmanager
    def unharmed(self: D) -> Iterator[D]:
        """Whatever is done to it within this block, its workers are the same at the end."""
        workers = sorted(self.workers)
        yield self
        assert sorted(self.workers) == workers

    @property
    def workers(self) -> list[int]:
        """The pids of its workers."""
        return [pid for pid, state in children(self.pid).items() if state != "Z"]

    def wait(self) -> int:
        try:
            return super().wait()
        finally:
            self.directory.cleanup()


class Memcached(Server):
    """Debian's memcached on a free TCP port."""

    def __init__(self, *options: str) -> None:
        self.directory = tempfile.TemporaryDirectory(prefix="mc")
        port_file = Path(self.directory.name, "port")
        user = ["-u", "root"] if os.getuid() == 0 else []
        command = ["memcached", "-p", "-1", "-U", "0", "-l", "127.0.0.1", "-t", "1", *user, *options]
        super().__init__(command, {"MEMCACHED_PORT_FILENAME": str(port_file)}, Path(self.directory.name))
        until(lambda: port_file.exists() or self.process.poll() is not None, "memcached's port file", START_TIMEOUT_S)
        match = re.search(r"TCP INET: (\d+)", port_file.read_text())
        assert match, port_file.read_text()
        self.port = int(match[1])

    def wait(self) -> int:
        try:
            return super().wait()
        finally:
            self.directory.cleanup()
