"""A file that appears whole or not at all, and takes an older one's place in one step.

It has no name until everything is written (O_TMPFILE), so that not even SIGKILL leaves a part of it; where the file system cannot do
that, a hidden one beside it. Then: fsync, a name, rename over the old one, fsync of the directory.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import stat
import tempfile
from types import TracebackType

from memcache_shm.errors import BackupError

_DESCRIPTORS = "/proc/self/fd"
_NAME_MOST_BYTES = 240  # of the name, in a hidden one, which has 14 more


class WholeFile:
    """For writing by one thread, in a `with` block: what it ends with without an error is kept, on the disk, under `path`; otherwise
    nothing was changed.

    What is there and no regular file (a device, a named pipe) is written to as it is; of a symbolic link the target is replaced. With
    `replaces_anything` what has that name is itself replaced, unless it is a directory. Others may not read a new file, and a replaced one
    keeps its rights. Raises BackupError, which names `path` and the cause.
    """

    def __init__(self, path: str, *, replaces_anything: bool = False) -> None:
        self.path = path
        self._final = _own_place(path) if replaces_anything else os.path.realpath(path)
        self._directory, self._name = os.path.split(self._final)
        self._hidden: str | None = None  # the name that it has meanwhile, if any
        self._replaces = True  # what has the name; False: it is that
        try:
            self._fd = self._open(replaces_anything)
        except OSError as error:
            raise self._failure(error) from None

    def _open(self, replaces_anything: bool) -> int:
        try:
            old = os.lstat(self._final)
        except FileNotFoundError:
            mode = 0o600
        else:
            if stat.S_ISDIR(old.st_mode):
                raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
            if not stat.S_ISREG(old.st_mode) and not replaces_anything:
                self._replaces = False
                return os.open(self._final, os.O_WRONLY | os.O_CLOEXEC)
            mode = stat.S_IMODE(old.st_mode) if stat.S_ISREG(old.st_mode) else 0o600
        fd = self._create()
        os.fchmod(fd, mode)
        return fd

    def _create(self) -> int:
        if not os.path.isdir(self._directory):
            raise FileNotFoundError(errno.ENOENT, f"there is no directory {self._directory}")
        if os.path.isdir(_DESCRIPTORS):
            try:
                return os.open(self._directory, os.O_TMPFILE | os.O_WRONLY | os.O_CLOEXEC, 0o600)
            except OSError as error:
                if error.errno not in (errno.EOPNOTSUPP, errno.EISDIR):  # as file systems and kernels without it say
                    raise
        fd, self._hidden = tempfile.mkstemp(".tmp", _hidden_start(self._name), self._directory)
        return fd

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """All of `data`."""
        left = memoryview(data).cast("B")
        try:
            while left:
                left = left[os.write(self._fd, left) :]
        except OSError as error:
            raise self._failure(error) from None

    def __enter__(self) -> WholeFile:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        try:
            if kind is None and self._replaces:
                self._keep()
        except OSError as problem:
            raise self._failure(problem) from None
        finally:
            os.close(self._fd)
            if self._hidden is not None:
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(self._hidden)

    def _keep(self) -> None:
        os.fsync(self._fd)
        directory = os.open(self._directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            if self._hidden is None:
                self._give_name(directory)
            assert self._hidden is not None
            os.rename(self._hidden, self._final)
            self._hidden = None
            os.fsync(directory)
        finally:
            os.close(directory)

    def _give_name(self, directory: int) -> None:
        """A hidden one, since a link replaces nothing."""
        name = f"{_hidden_start(self._name)}{os.urandom(4).hex()}.tmp"
        os.link(f"{_DESCRIPTORS}/{self._fd}", name, src_dir_fd=directory, dst_dir_fd=directory)  # given a directory it follows the link
        self._hidden = os.path.join(self._directory, name)

    def _failure(self, error: OSError) -> BackupError:
        return BackupError(f"{self.path}: {error.strerror or error}{'; nothing was changed there' if self._replaces else ''}")


def remove_leftovers(path: str) -> None:
    """Remove what a process left that was killed just before `path` was whole; nobody may be writing it. What cannot be removed stays."""
    directory, name = os.path.split(_own_place(path))
    hidden = re.compile(re.escape(_hidden_start(name)) + r"[a-z0-9_]{8}\.tmp")
    with contextlib.suppress(OSError):
        for entry in filter(hidden.fullmatch, os.listdir(directory)):
            os.unlink(os.path.join(directory, entry))


def hidden_name(path: str, end: str) -> str:
    """A name beside `path`, never too long, that no `WholeFile` gives and `remove_leftovers` leaves alone; `end` is no word of eight
    letters."""
    directory, name = os.path.split(path)
    return os.path.join(directory, f"{_hidden_start(name)}{end}")


def _hidden_start(name: str) -> str:
    return f".{os.fsdecode(os.fsencode(name)[:_NAME_MOST_BYTES])}."


def _own_place(path: str) -> str:
    """The path without links but maybe the last one."""
    directory, name = os.path.split(path)
    return os.path.join(os.path.realpath(directory), name)
