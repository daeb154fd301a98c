"""The lock file of a name: who may create, claim and remove, and which daemon serves it.

Two kinds of lock on one file, because they are lost in opposite ways:

flock       belongs to the open file: forked children share it, and a second open in the same process conflicts with the
            first. It brackets the short critical sections. A fork by another thread waits for the section's end, else the child
            would keep the name as long as it lives.
POSIX lock  belongs to the process: forked workers do not have it, so it ends with the supervisor and with nothing else.
            But it is lost when its process closes *any* descriptor of the file: a process that claimed a name never
            opens that name's lock file again (`State.owner_is_me` tells).
"""

from __future__ import annotations

import fcntl
import os
import struct
import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import TypeVar

from memcache_shm.errors import BusyError, MemcacheError
from memcache_shm.storage.statefile import lock_path

WAIT_LIMIT_S = 5.0  # the critical sections take milliseconds; who takes longer is stopped
_RETRY_S = 0.002  # flock(2) has no wait with a limit
_FLOCK = struct.Struct("hhqqi4x")  # struct flock of Linux with 64-bit offsets: type, whence, start, length, pid
T = TypeVar("T")

_section = threading.RLock()  # held by the thread that is in a critical section, whatever the name
os.register_at_fork(before=_section.acquire, after_in_parent=_section.release, after_in_child=_section.release)


class NameLock:
    """An open lock file, held by flock from construction (or `lock`) to `unlock`; a context manager for one section.

    The thread that enters a section is the one that leaves it.
    """

    def __init__(self, directory: str, name: str, mode: int = 0o600) -> None:
        self._path = lock_path(directory, name)
        self._descriptor = _enter(lambda: _open_locked(self._path, mode), self._path)
        self._inside = True

    def __enter__(self) -> NameLock:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def lock(self) -> None:
        """Enter a critical section again; BusyError when another process is in one for too long."""
        _enter(lambda: _try_flock(self._descriptor) or None, self._path)
        self._inside = True

    def unlock(self) -> None:
        """Leave the critical section, keep the file open and its POSIX lock."""
        fcntl.flock(self._descriptor, fcntl.LOCK_UN)
        self._inside = False
        _section.release()

    def claim(self) -> bool:
        """Take the POSIX lock for the life of this process; False when another process has it."""
        try:
            fcntl.lockf(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError):
            return False
        return True

    def daemon_pid(self) -> int | None:
        """Whose the POSIX lock is: None nobody's (or this process's), 0 a process of another PID namespace."""
        return lock_owner(self._descriptor)

    @property
    def is_displaced(self) -> bool:
        """Whether another file has the name by now, which does not know of this lock."""
        return os.path.exists(self._path) and not _is_file_of(self._descriptor, self._path)

    def discard(self) -> None:
        """Unlink the file, inside a critical section: those who wait for it will notice and open a new one."""
        if _is_file_of(self._descriptor, self._path):
            os.unlink(self._path)

    def close(self) -> None:
        """Give up both locks."""
        if self._inside:
            fcntl.lockf(self._descriptor, fcntl.LOCK_UN)  # first: who gets the flock must not find a daemon that is none any more
            self.unlock()
        os.close(self._descriptor)


def daemon_pid(directory: str, name: str) -> int | None:
    """Which process serves `name`: None nobody, 0 one of another PID namespace. Not for a process that claimed it."""
    try:
        descriptor = os.open(lock_path(directory, name), os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except FileNotFoundError:
        return None
    try:
        return lock_owner(descriptor)
    finally:
        os.close(descriptor)


def lock_owner(descriptor: int) -> int | None:
    """Whose the POSIX lock on an open file is: None nobody's (or this process's), 0 a process of another PID namespace."""
    asked = _FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)
    kind, _, _, _, pid = _FLOCK.unpack(fcntl.fcntl(descriptor, fcntl.F_GETLK, asked))
    return None if kind == fcntl.F_UNLCK else int(pid)


def _enter(attempt: Callable[[], T | None], path: str) -> T:
    """The first result of `attempt` that is not None, with `_section` held; BusyError when none comes within the limit."""
    deadline = time.monotonic() + WAIT_LIMIT_S
    while True:
        _section.acquire()
        try:
            result = attempt()
        except BaseException:
            _section.release()
            raise
        if result is not None:
            return result
        _section.release()
        if time.monotonic() > deadline:
            raise BusyError(f"another process holds {path} for over {WAIT_LIMIT_S:.0f} s (see /proc/locks)")
        time.sleep(_RETRY_S)


def _open_locked(path: str, mode: int) -> int | None:
    """A descriptor of the file that has the name now, with the flock on it; None when another has that.

    The file is opened anew for each try: between two, a child may be forked, and it must not share the one that gets the lock.
    """
    descriptor = _open(path, mode)
    try:
        if _try_flock(descriptor) and _is_file_of(descriptor, path):  # else its last owner unlinked it just now
            return descriptor
    except BaseException:
        os.close(descriptor)
        raise
    os.close(descriptor)
    return None


def _try_flock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _open(path: str, mode: int) -> int:
    flags = os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW
    try:
        descriptor = os.open(path, flags | os.O_CREAT | os.O_EXCL, mode & 0o666)
    except FileExistsError:
        try:
            return os.open(path, flags | os.O_CREAT, mode & 0o666)
        except OSError as error:
            raise MemcacheError(f"cannot open the lock file {path}: {error.strerror}") from None
    except OSError as error:
        raise MemcacheError(f"cannot make the lock file {path}: {error.strerror}") from None
    os.fchmod(descriptor, mode & 0o666)  # whatever the umask
    return descriptor


def _is_file_of(descriptor: int, path: str) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), os.stat(path))
    except FileNotFoundError:
        return False
