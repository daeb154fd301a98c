"""A file that appears whole or not at all, and takes an older one's place in one step.

It has no name until everything is written (O_TMPFILE), so that not even SIGKILL leaves a part of it; where the file system cannot do
that, a hidden one beside it, which the next one to be written to the same name removes. Then: fsync, a name, rename over the old one,
fsync of the directory.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
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

    What is there and no regular file (a device, a named pipe, /dev/stdout) is written to as it is; of a symbolic link the target is
    replaced. With `replaces_anything` what has that name is itself replaced, unless it is a directory. Others may not read a new file; one
    that replaces a file of the same user keeps its rights to read and to write. Raises BackupError, which names `path` and the cause.
    """

    def __init__(self, path: str, *, replaces_anything: bool = False) -> None:
        self.path = path
        self._hidden: str | None = None  # the name that it has meanwhile, if any
        self._replaces = True  # what has the name; False: it is that
        try:
            old = _stat(path, follow=not replaces_anything)
            if old is not None and not stat.S_ISREG(old.st_mode) and not replaces_anything:
                self._replaces = False
                self._fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
                return
            self._final = _own_place(path) if replaces_anything else os.path.realpath(path)
            self._directory, self._name = os.path.split(self._final)
            self._fd = self._create()
        except OSError as error:
            raise self._failure(error) from None
        try:
            os.fchmod(self._fd, _mode(old))
        except OSError as error:
            self._discard()
            raise self._failure(error) from None

    def _create(self) -> int:
        if not os.path.isdir(self._directory):
            raise FileNotFoundError(errno.ENOENT, f"there is no directory {self._directory}")
        remove_leftovers(self._final)
        fd = self._nameless()
        if fd is None:
            fd, self._hidden = tempfile.mkstemp(".tmp", _hidden_start(self._name), self._directory)
        with contextlib.suppress(OSError):  # not everywhere; then no one gets it, and leftovers stay
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return fd

    def _nameless(self) -> int | None:
        """None: the file system, or the kernel, has no such files, or they cannot be given a name."""
        if not os.path.isdir(_DESCRIPTORS):
            return None
        try:
            return os.open(self._directory, os.O_TMPFILE | os.O_WRONLY | os.O_CLOEXEC, 0o600)
        except OSError as error:
            if error.errno not in (errno.EOPNOTSUPP, errno.EISDIR):  # as file systems and kernels without it say
                raise
        return None

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
            self._discard()

    def _discard(self) -> None:
        """The descriptor, and the name that it has meanwhile."""
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
    """Remove what a process left that was killed just before `path` was whole; but nothing that somebody writes: that is locked (flock).
    What cannot be removed stays."""
    directory, name = os.path.split(_own_place(path))
    hidden = re.compile(re.escape(_hidden_start(name)) + r"[a-z0-9_]{8}\.tmp")
    entries: list[str] = []
    with contextlib.suppress(OSError):
        entries = os.listdir(directory)
    for entry in filter(hidden.fullmatch, entries):
        with contextlib.suppress(OSError):
            _remove_unlocked(os.path.join(directory, entry))


def _remove_unlocked(path: str) -> None:
    fd = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.unlink(path)
    finally:
        os.close(fd)


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


def _stat(path: str, follow: bool) -> os.stat_result | None:
    """None: nothing has that name. IsADirectoryError."""
    try:
        found = os.stat(path, follow_symlinks=follow)
    except FileNotFoundError:
        return None
    if stat.S_ISDIR(found.st_mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
    return found


def _mode(old: os.stat_result | None) -> int:
    """Of a file that takes the place of `old`. What somebody else put there does not choose who may read ours."""
    if old is None or not stat.S_ISREG(old.st_mode) or old.st_uid != os.geteuid():
        return 0o600
    return stat.S_IMODE(old.st_mode) & 0o666
