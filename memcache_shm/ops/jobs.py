"""One job: its file is read line by line, each command is carried out, what it prints goes to the ``.out`` file beside it."""

from __future__ import annotations

import contextlib
import os
import stat
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, BinaryIO

from memcache_shm.client.pair_lines import pair_lines
from memcache_shm.client.snapshot import Snapshot
from memcache_shm.client.steps import Steps
from memcache_shm.errors import MemcacheError, TableRemovedError
from memcache_shm.ops import job_lines
from memcache_shm.ops.job_backups import BackupWriters, StoppedError
from memcache_shm.ops.job_lines import Backup, Command, Delete, Help, InvalidLineError, Read, Show, Wait, Write
from memcache_shm.ops.job_report import Report

JOB_SUFFIX = ".job"
_LEFT_OUT = "; the rest of the job is left out"
FileId = tuple[int, int]  # device and inode
_INVALID = "Invalid command. See HELP for usage"


@dataclass(frozen=True)
class Means:
    """What all jobs of a run work with."""

    steps: Steps
    snapshot: Callable[[], Snapshot]  # all items of one instant
    backups: BackupWriters
    report: Report
    print_help: Callable[[str], None]
    stop: threading.Event  # set: no further command
    remedies: Mapping[type[MemcacheError], str] = field(default_factory=dict)  # to be said behind errors of these kinds
    sources: Mapping[FileId, str] = field(default_factory=dict)  # the files of all jobs: no output goes there


class Job:
    """The job in the file at `path`, which ends in .job."""

    def __init__(self, path: str, means: Means) -> None:
        self._path = path
        self._stem = path.removesuffix(JOB_SUFFIX)
        self._means = means
        self._backups = 0  # so far
        self._out: BinaryIO

    def run(self) -> bool:
        """Carry it out; False when it was stopped or could not be read or written to its end. What went wrong is reported."""
        out_path = f"{self._stem}.out"
        left_out = ""
        try:
            with _open_job(self._path) as lines, self._open_out(out_path) as self._out:
                left_out = _LEFT_OUT
                ended = self._run(lines)
                left_out = ""
        except OSError as problem:  # one of a write has no name
            self._means.report.failure(f"{problem.filename or out_path}: {problem.strerror}{left_out}")
            return False
        return ended

    def _open_out(self, path: str) -> BinaryIO:
        """The file for what is printed, empty. OSError; a job by another name is left as it is."""
        descriptor = _open(path, os.O_WRONLY | os.O_CREAT)
        out = os.fdopen(descriptor, "wb")
        try:
            source = self._means.sources.get(_file_id(os.fstat(descriptor)))
            if source is not None:
                raise OSError(0, f"is the job {source} by another name; remove it", path)
            out.truncate(0)
        except BaseException:
            out.close()
            raise
        return out

    def _run(self, lines: BinaryIO) -> bool:
        try:
            for number, line in enumerate(_read(lines, self._path), 1):
                if self._means.stop.is_set():
                    return False
                self._take(number, line)
        except (StoppedError, TableRemovedError):
            return False
        except MemoryError:
            self._means.report.failure(f"{self._path}: a line is larger than the memory there is")
            return False
        return True

    def _take(self, number: int, line: bytes) -> None:
        """Carry out one line. Raises StoppedError, TableRemovedError (reported), OSError of the output."""
        report = self._means.report
        try:
            command = job_lines.parse(line)
            if command is not None:
                self._do(command)
        except InvalidLineError:
            report.remark(f"{self._path}:{number}: {_INVALID}")
        except TableRemovedError as problem:
            report.failure(f"{self._path}:{number}: {problem}{_LEFT_OUT}")
            raise
        except (MemcacheError, MemoryError) as problem:
            remedy = next((text for kind, text in self._means.remedies.items() if isinstance(problem, kind)), "")
            report.failure(f"{self._path}:{number}: {problem or 'not enough memory'}{remedy}")

    def _do(self, command: Command) -> None:
        _ACTIONS[type(command)](self, command)

    def _write(self, command: Write) -> None:
        self._means.steps.write(command.pairs)

    def _read(self, command: Read) -> None:
        values = self._means.steps.read(command.keys)
        self._print_pairs((key, b"KVSERROR" if value is None else value) for key, value in zip(command.keys, values, strict=True))

    def _delete(self, command: Delete) -> None:
        were_there = self._means.steps.delete(command.keys)
        missing = [key for key, was_there in zip(command.keys, were_there, strict=True) if not was_there]
        if missing:
            self._print_pairs((key, b"KVSMISSING") for key in missing)

    def _print_pairs(self, pairs: Iterable[tuple[bytes, bytes]]) -> None:
        self._out.write(b"[%b]\n" % b"".join(b"(%b,%b)" % pair for pair in pairs))

    def _show(self, command: Show) -> None:
        self._out.write(pair_lines(self._means.snapshot()))

    def _wait(self, command: Wait) -> None:
        self._out.write(b"Waiting...\n")
        self._out.flush()  # whoever looks meanwhile sees how far it has come
        if self._means.stop.wait(command.ms / 1000):
            raise StoppedError

    def _backup(self, command: Backup) -> None:
        self._backups += 1
        path = f"{self._stem}-{self._backups}.bck"
        try:
            self._means.backups.write(path, lambda: pair_lines(self._means.snapshot()))
        except OSError as problem:
            raise MemcacheError(f"{path}: backup not written: {problem.strerror}") from None

    def _help(self, command: Help) -> None:
        try:
            self._means.print_help(job_lines.HELP)
        except OSError as problem:
            raise MemcacheError(f"standard output: {problem.strerror}") from None


_ACTIONS: dict[type, Callable[[Job, Any], None]] = {
    Write: Job._write,
    Read: Job._read,
    Delete: Job._delete,
    Show: Job._show,
    Wait: Job._wait,
    Backup: Job._backup,
    Help: Job._help,
}


def sources_of(paths: Iterable[str]) -> dict[FileId, str]:
    """Which files the jobs at these paths are; those that are not there are told when they are begun."""
    found = {}
    for path in paths:
        with contextlib.suppress(OSError):
            found[_file_id(os.stat(path))] = path
    return found


def _file_id(status: os.stat_result) -> FileId:
    return status.st_dev, status.st_ino


def _open_job(path: str) -> BinaryIO:
    return os.fdopen(_open(path, os.O_RDONLY), "rb")


def _open(path: str, flags: int) -> int:
    """The descriptor of a regular file. OSError that names it for anything else: a pipe could block the job for ever."""
    descriptor = os.open(path, flags | os.O_NONBLOCK | os.O_CLOEXEC, 0o666)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(0, "no regular file", path)
    return descriptor


def _read(lines: BinaryIO, path: str) -> Iterator[bytes]:
    """The lines; OSError that names the file."""
    try:
        yield from lines
    except OSError as problem:
        raise OSError(problem.errno, problem.strerror, path) from None
