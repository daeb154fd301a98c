"""A directory of job files, and the command that runs them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from support.isolation import children

RUN_TIMEOUT_S = 60.0


class JobDirectory:
    """Job files in a directory of their own, and what comes of them."""

    def __init__(self, path: Path, jobs: Mapping[str, bytes] | None = None) -> None:
        self.path = path
        path.mkdir(parents=True, exist_ok=True)
        for name, content in (jobs or {}).items():
            self.add(name, content)

    def add(self, name: str, content: bytes) -> None:
        """The job file `name`.job."""
        (self.path / f"{name}.job").write_bytes(content)

    def out(self, name: str) -> bytes:
        return (self.path / f"{name}.out").read_bytes()

    def so_far(self, name: str) -> bytes:
        """The output of a job that may not have begun."""
        return self.out(name) if (self.path / f"{name}.out").exists() else b""

    def backup(self, name: str, number: int) -> bytes:
        return (self.path / f"{name}-{number}.bck").read_bytes()

    @property
    def results(self) -> dict[str, bytes]:
        """All files but the jobs, hidden ones too."""
        return {path.name: path.read_bytes() for path in self.path.iterdir() if path.suffix != ".job"}

    def words(self, threads: int, backups: int, *options: str) -> list[str]:
        return [sys.executable, "-m", "memcache_shm", "run", str(self.path), str(threads), str(backups), *options]

    def run(self, threads: int, backups: int, *options: str) -> subprocess.CompletedProcess[bytes]:
        """Run them, to their end."""
        return subprocess.run(self.words(threads, backups, *options), capture_output=True, timeout=RUN_TIMEOUT_S, check=False)

    @contextmanager
    def started(self, threads: int, backups: int, *options: str) -> Iterator[subprocess.Popen[bytes]]:
        """Run them meanwhile; a run that has not ended at the end of the context is killed, with its children."""
        words = self.words(threads, backups, *options)
        with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
            try:
                yield process
            finally:
                if process.poll() is None:
                    for pid in (*offspring(process.pid), process.pid):
                        send(pid, signal.SIGKILL)


def send(pid: int, number: int) -> bool:
    """A signal to a child of a run; False when that has just been reaped."""
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return False
    return True


def offspring(pid: int) -> dict[int, str]:
    """State letters of the children of a process by pid, found faster than by a look at every process."""
    try:
        lists = [task.joinpath("children").read_text() for task in Path(f"/proc/{pid}/task").iterdir()]
    except OSError:
        return children(pid)  # a thread ended amid the look, or the kernel has no such lists
    found = {}
    for child in {int(word) for text in lists for word in text.split()}:
        try:
            found[child] = Path(f"/proc/{child}/stat").read_text().rpartition(")")[2].split()[0]
        except OSError:
            continue  # reaped meanwhile
    return found


def listing(pairs: Mapping[bytes, bytes]) -> bytes:
    """What SHOW prints."""
    return b"".join(b"(%b, %b)\n" % (key, pairs[key]) for key in sorted(pairs))


def listed(lines: bytes) -> dict[bytes, bytes]:
    """The pairs that SHOW printed, of keys and values without line feeds."""
    pairs = {}
    for line in lines.splitlines():
        assert line.startswith(b"(") and line.endswith(b")"), line
        key, comma, value = line[1:-1].partition(b", ")
        assert comma, line
        pairs[key] = value
    assert lines == listing(pairs)
    return pairs
