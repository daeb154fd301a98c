"""The contenders over TCP or UNIX sockets: start, wait until they answer, look at what they use, stop."""

from __future__ import annotations

import contextlib
import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from bench_report import OURS

import memcache_shm
from memcache_shm.errors import TableNotFoundError

MEMCACHED = "memcached"
REDIS = "redis"
MAX_CONNECTIONS = 6000
MEMORY_MIB = 64
_START_LIMIT_S = 10.0
_STOP_LIMIT_S = 10.0
_POLL_S = 0.002


@dataclass
class Server:
    """A running server: its first process, its port, its UNIX socket where it has one, the words it understands."""

    name: str
    process: subprocess.Popen[bytes]
    port: int
    path: str = ""

    @property
    def protocol(self) -> str:
        return REDIS if self.name == REDIS else MEMCACHED

    def cpu_ns(self) -> int:
        """CPU time, user and system, of every thread of the process and its descendants since they were born."""
        total = 0
        for pid in process_tree(self.process.pid):
            for thread in Path(f"/proc/{pid}/task").iterdir():
                with contextlib.suppress(FileNotFoundError, ProcessLookupError):
                    total += int((thread / "schedstat").read_text().split()[0])
        return total

    def memory_bytes(self) -> int:
        """What the processes hold of memory, shared pages counted in parts (PSS)."""
        total_kib = 0
        for pid in process_tree(self.process.pid):
            rollup = Path(f"/proc/{pid}/smaps_rollup").read_text()
            total_kib += int(re.findall(r"^Pss: +(\d+) kB", rollup, re.MULTILINE)[0])
        return total_kib * 1024

    def connect(self) -> socket.socket:
        """To the UNIX socket where there is one."""
        if self.path:
            connection = socket.socket(socket.AF_UNIX)
            connection.connect(self.path)
            return connection
        return socket.create_connection(("127.0.0.1", self.port), timeout=_START_LIMIT_S)

    def ask(self, connection: socket.socket) -> bytes:
        """One round trip: the reply to the lightest request."""
        connection.sendall(b"PING\r\n" if self.protocol == REDIS else b"version\r\n")
        reply = connection.recv(4096)
        if not reply:
            raise ConnectionError(f"{self.name} closed the connection")
        return reply

    def stop(self) -> None:
        self.process.terminate()
        try:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(_STOP_LIMIT_S)
        finally:  # also after Ctrl-C
            if self.process.poll() is None:
                self.process.kill()
                self.process.wait()


def command(
    name: str, port: int, workers: int, directory: Path, shape: Sequence[str], memory_mib: int = MEMORY_MIB, path: str = ""
) -> list[str]:
    """What starts the contender, each with the same memory, connection limit and number of threads or workers.

    `shape` is ours alone: its geometry, where it shall not be memcached's default. `path` is that of a UNIX socket: in place of
    memcached's port, beside that of the others.
    """
    if name == OURS:
        words = [sys.executable, "-m", "memcache_shm", "-p", str(port), "-t", str(workers), "-c", str(MAX_CONNECTIONS)]
        words += shape or ["-m", str(memory_mib)]
        words += ["-s", path] if path else []
    elif name == MEMCACHED:
        words = ["memcached", *(["-s", path] if path else ["-l", "127.0.0.1", "-p", str(port), "-U", "0"])]
        words += ["-t", str(workers), "-m", str(memory_mib)]
        words += ["-c", str(MAX_CONNECTIONS), *(["-u", "root"] if os.geteuid() == 0 else [])]
        words += ["-I", "512k"] if memory_mib < 2 else []  # it wants twice its largest item
    else:
        words = ["redis-server", "--bind", "127.0.0.1", "--port", str(port), "--save", "", "--appendonly", "no", "--dir", str(directory)]
        words += ["--maxmemory", f"{memory_mib}mb", "--maxclients", str(MAX_CONNECTIONS)]
        words += ["--unixsocket", path] if path else []
    return words


def start(name: str, workers: int, directory: Path, shape: Sequence[str] = (), memory_mib: int = MEMORY_MIB, local: bool = False) -> Server:
    """The contender, answering. Its messages go to a file in `directory`, which a failure quotes."""
    port = _free_port()
    log = directory / f"{name}.log"
    environment = {**os.environ, "MEMCACHE_SHM_DIR": str(directory / "tables")}
    path = str(directory / f"{name}.sock") if local else ""
    words = command(name, port, workers, directory, shape, memory_mib, path)
    with log.open("wb") as output:
        process = subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=output, stderr=output, env=environment)
    server = Server(name, process, port, path)
    try:
        _wait_for_reply(server)
    except OSError as error:
        server.stop()
        raise RuntimeError(f"{name} did not start ({error}); it said: {log.read_text()[-500:]}") from error
    except BaseException:  # Ctrl-C
        server.stop()
        raise
    return server


@contextlib.contextmanager
def running(
    names: Sequence[str], workers: int, directory: Path, memory_mib: int = MEMORY_MIB, shape: Sequence[str] = (), local: bool = False
) -> Iterator[dict[str, Server]]:
    """The contenders, all up at once; whoever is not measured idles in its epoll_wait. `local`: with UNIX sockets."""
    servers: dict[str, Server] = {}
    with contextlib.ExitStack() as stack:
        stack.callback(remove_tables, directory / "tables")
        for name in names:
            servers[name] = start(name, workers, directory, shape, memory_mib, local)
            stack.callback(servers[name].stop)
        yield servers


def process_tree(root: int) -> list[int]:
    """The process and its descendants."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            fields = entry.read_text().rpartition(")")[2].split()
            children.setdefault(int(fields[1]), []).append(int(entry.parent.name))
    tree = [root]
    for pid in tree:
        tree += children.get(pid, [])
    return tree


def cpu_ticks(pid: int) -> int:
    """User and system time of a process since it was born, in the kernel's ticks."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return int(fields[11]) + int(fields[12])


def _wait_for_reply(server: Server) -> None:
    """A server offers nothing to wait on before its port is open: try, until it answers or dies."""
    deadline = time.monotonic() + _START_LIMIT_S
    while True:
        try:
            with server.connect() as connection:
                server.ask(connection)
                return
        except OSError:
            if server.process.poll() is not None or time.monotonic() > deadline:
                raise
        time.sleep(_POLL_S)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def remove_tables(directory: Path) -> None:
    """What a daemon or a measurement that did not end well left behind."""
    for state in directory.glob("*.json"):
        os.environ["MEMCACHE_SHM_DIR"] = str(directory)
        with contextlib.suppress(TableNotFoundError):
            memcache_shm.unlink(state.stem)
