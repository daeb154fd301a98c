"""A client of named pipes byte by byte, and daemons that serve them."""

from __future__ import annotations

import contextlib
import os
import select
import shutil
import signal
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType

from support.isolation import children
from support.servers import Daemon
from support.waiting import until

PATIENCE_S = 10.0
OK = b"\0"
DELETED = b"DELETED"


def padded(text: bytes, size: int) -> bytes:
    assert len(text) < size
    return text + b"\0" * (size - len(text))


def connect_message(paths: Sequence[bytes]) -> bytes:
    return b"\1" + b"".join(padded(path, 40) for path in paths)


def subscribe_message(key: bytes) -> bytes:
    return b"\3" + padded(key, 41)


def unsubscribe_message(key: bytes) -> bytes:
    return b"\4" + padded(key, 41)


def write_to(fifo: str, data: bytes) -> None:
    """One write to a registration pipe."""
    descriptor = os.open(fifo, os.O_WRONLY)
    try:
        assert os.write(descriptor, data) == len(data)
    finally:
        os.close(descriptor)


class Pipes:
    """The three pipes of a client, in a directory of their own, without anything open."""

    def __init__(self) -> None:
        self.directory = tempfile.mkdtemp(prefix="np", dir="/tmp")  # short: a path has less than 40 bytes
        self.paths = [f"{self.directory}/{suffix}".encode() for suffix in ("q", "r", "n")]
        for path in self.paths:
            os.mkfifo(path, 0o600)

    def remove(self) -> None:
        shutil.rmtree(self.directory, ignore_errors=True)

    def __enter__(self) -> Pipes:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.remove()


class PipeUser:
    """A client: registers when it is made, or later by `register`, and opens its sides."""

    def __init__(self, fifo: str, *, registers: bool = True) -> None:
        self.fifo = fifo
        self.pipes = Pipes()
        requests, responses, notifications = self.pipes.paths
        self.requests = os.open(requests, os.O_RDWR | os.O_NONBLOCK)  # for both, since the server has not opened its side yet
        self.responses = os.open(responses, os.O_RDONLY | os.O_NONBLOCK)
        self.notifications = os.open(notifications, os.O_RDONLY | os.O_NONBLOCK)
        self._closed = False
        if registers:
            self.register()

    def register(self) -> None:
        write_to(self.fifo, connect_message(self.pipes.paths))

    def __enter__(self) -> PipeUser:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Without a word."""
        if not self._closed:
            self._closed = True
            for descriptor in (self.requests, self.responses, self.notifications):
                os.close(descriptor)
            self.pipes.remove()

    def send(self, data: bytes) -> None:
        os.write(self.requests, data)

    def answer(self, timeout_s: float = PATIENCE_S) -> bytes:
        """The next one; empty at the end of the session."""
        return read_exactly(self.responses, 2, timeout_s)

    def ask(self, message: bytes) -> int:
        """The result."""
        self.send(message)
        answer = self.answer()
        assert answer[:1] == message[:1], answer
        return answer[1]

    def connected(self) -> PipeUser:
        """Itself, once the session has begun."""
        assert self.answer() == b"\1\0"
        return self

    def subscribe(self, key: bytes) -> int:
        return self.ask(subscribe_message(key))

    def unsubscribe(self, key: bytes) -> int:
        return self.ask(unsubscribe_message(key))

    def disconnect(self) -> int:
        return self.ask(b"\2")

    def note(self, timeout_s: float = PATIENCE_S) -> tuple[bytes, bytes]:
        """The next notification."""
        message = read_exactly(self.notifications, 82, timeout_s)
        assert len(message) == 82, "the session ended"
        return message[:41].rstrip(b"\0"), message[41:].rstrip(b"\0")

    def notes_until(self, key: bytes, value: bytes) -> list[tuple[bytes, bytes]]:
        """All up to that one."""
        found = [self.note()]
        while found[-1] != (key, value):
            found.append(self.note())
        return found

    def is_quiet(self) -> bool:
        """Whether nothing waits to be read, neither an answer nor a notification."""
        poll = select.poll()
        for descriptor in (self.responses, self.notifications):
            poll.register(descriptor, select.POLLIN)
        return not [events for _, events in poll.poll(0) if events & select.POLLIN]

    def ends(self, timeout_s: float = PATIENCE_S) -> bool:
        """Whether the session ends within the time; answers and notifications that come before are dropped."""
        end_s = time.monotonic() + timeout_s
        try:
            while read_exactly(self.responses, 1, max(0.0, end_s - time.monotonic())):
                continue
        except TimeoutError:
            return False
        return True


def read_exactly(descriptor: int, size: int, timeout_s: float) -> bytes:
    """So many bytes, fewer at the end. TimeoutError."""
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    end_s = time.monotonic() + timeout_s
    data = b""
    while len(data) < size:
        if not poll.poll(max(0.0, end_s - time.monotonic()) * 1000):
            raise TimeoutError(f"{len(data)} of {size} bytes came")
        piece = os.read(descriptor, size - len(data))
        if not piece:
            break
        data += piece
    return data


class PipeDaemon(Daemon):
    """A daemon with a registration pipe, `fifo`."""

    def __init__(self, *options: str, workers: int = 1, within: Sequence[str] = ()) -> None:
        self.home = tempfile.mkdtemp(prefix="np", dir="/tmp")
        self.fifo = f"{self.home}/f"
        try:
            super().__init__("--fifo", self.fifo, *options, workers=workers, within=within)
        except BaseException:
            shutil.rmtree(self.home)
            raise

    def wait(self) -> int:
        try:
            return super().wait()
        finally:
            shutil.rmtree(self.home, ignore_errors=True)

    def user(self) -> PipeUser:
        """A client with a session."""
        return PipeUser(self.fifo).connected()

    @property
    def pipe_server(self) -> int:
        """The pid of the child that serves the pipes: the one that reads them."""
        return until(self._find_server, "a server of the pipes")

    def _find_server(self) -> int:
        for pid, state in children(self.pid).items():
            if state != "Z" and self.fifo in open_files(pid) and _catches(pid, signal.SIGUSR1):
                return pid
        return 0


def open_files(pid: int) -> list[str]:
    """What the descriptors of a process lead to."""
    found = []
    with os.scandir(f"/proc/{pid}/fd") as entries:
        for entry in entries:
            try:
                found.append(os.readlink(entry.path))
            except FileNotFoundError:
                continue
    return found


def _catches(pid: int, number: int) -> bool:
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except FileNotFoundError:
        return False
    mask = next(int(line.split()[1], 16) for line in lines if line.startswith("SigCgt:"))
    return bool(mask >> (number - 1) & 1)


def open_pipes(pid: int) -> int:
    """How many pipes of clients a process has open."""
    return sum("/np" in path and not path.endswith("/f") for path in open_files(pid))


@contextmanager
def users(daemon: PipeDaemon, count: int) -> Iterator[list[PipeUser]]:
    """So many clients with a session each."""
    made: list[PipeUser] = []
    try:
        for _ in range(count):
            made.append(daemon.user())
        yield made
    finally:
        for user in made:
            user.close()


@contextmanager
def stopped(pid: int) -> Iterator[None]:
    """A process that does nothing inside of a `with`; it may be killed there."""
    os.kill(pid, signal.SIGSTOP)
    until(lambda: Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "T", "the process to stop")
    try:
        yield
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGCONT)
