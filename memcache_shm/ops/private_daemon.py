"""A daemon of one's own for as long as a measurement takes: with a name, a free port and a UNIX socket that nobody else has."""

from __future__ import annotations

import contextlib
import os
import re
import select
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence, Set
from pathlib import Path
from types import TracebackType

from memcache_shm.client.addresses import Address, ChannelAddress
from memcache_shm.client.api import unlink
from memcache_shm.errors import MemcacheError, TableNotFoundError
from memcache_shm.server.loop import die_with_parent

DOORS = ("channel", "unix", "tcp")
_START_LIMIT_S = 20.0
_STOP_LIMIT_S = 10.0
_HOST = "127.0.0.1"
_PORT = re.compile(rb"serving .* on .*?" + re.escape(_HOST).encode() + rb":(\d+)")
_PIECE_BYTES = 1 << 16
_ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_CPUCLOCK_SCHED = 2  # what a process and its threads have used; glibc's clock_getcpuclockid(3) makes the same number of it


class PrivateDaemon:
    """Serves within the `with` block, then nothing of it is left, whatever signals come; it ends with this process in any case."""

    def __init__(self, options: Sequence[str], workers: int) -> None:
        """`options` are the daemon's."""
        self.name = f"private-{os.getpid()}"
        self._options = ["-t", str(workers), *options]
        self._directory: tempfile.TemporaryDirectory[str] | None = None
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> PrivateDaemon:
        """MemcacheError: it did not start."""
        try:
            with _signals_held_back() as mask:
                self._start(mask)
            self._port = self._wait_for_start()
        except BaseException:
            self._stop()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._stop()

    def address(self, door: str) -> Address:
        """Of one of DOORS."""
        addresses: dict[str, Address] = {"channel": ChannelAddress(self._path), "unix": self._path, "tcp": (_HOST, self._port)}
        return addresses[door]

    def cpu_ns(self) -> int:
        """CPU time, user and system, that its workers have used."""
        return sum(time.clock_gettime_ns((~pid << 3) | _CPUCLOCK_SCHED) for pid in self._workers())

    def _start(self, mask: Set[int]) -> None:
        """`mask` are the signals that it holds back: it has them from this process."""
        self._directory = tempfile.TemporaryDirectory(prefix="memcache_shm-")
        self._path = os.path.join(self._directory.name, "s")
        words = ["-p", "0", "-l", _HOST, "-s", self._path, "--name", self.name, *self._options]

        def in_child() -> None:
            die_with_parent(signal.SIGTERM)
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)

        self._process = subprocess.Popen(
            [sys.executable, "-m", "memcache_shm", *words],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            start_new_session=True,  # a terminal's Ctrl-C is for this process, which ends the daemon
            preexec_fn=in_child,
        )

    def _workers(self) -> list[int]:
        assert self._process is not None
        pid = self._process.pid
        return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]

    def _wait_for_start(self) -> int:
        """The port, from the line that it writes when it serves; it writes little after that, so nobody needs to read on."""
        assert self._process is not None
        assert self._process.stderr is not None
        said = b""
        end_s = time.monotonic() + _START_LIMIT_S
        while not (match := _PORT.search(said)):
            ready, _, _ = select.select([self._process.stderr], [], [], max(0.0, end_s - time.monotonic()))
            piece = os.read(self._process.stderr.fileno(), _PIECE_BYTES) if ready else b""
            if not piece:
                raise MemcacheError(f"the daemon did not start; it said: {said.decode(errors='replace').strip() or 'nothing'}")
            said += piece
        return int(match[1])

    def _stop(self) -> None:
        with _signals_held_back():
            if self._process is not None:
                self._end(self._process)
            if self._directory is not None:
                self._directory.cleanup()

    def _end(self, process: subprocess.Popen[bytes]) -> None:
        process.terminate()
        try:
            process.wait(_STOP_LIMIT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            with contextlib.suppress(TableNotFoundError):
                unlink(self.name)
        assert process.stderr is not None
        process.stderr.close()


@contextlib.contextmanager
def _signals_held_back() -> Iterator[Set[int]]:
    """Signals that end a process wait for the end of the block; it is given those that were held back before."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    try:
        signal.pthread_sigmask(signal.SIG_BLOCK, _ENDING)
        yield before
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
