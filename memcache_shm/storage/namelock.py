"""The lock file of a name: who may create, claim and remove, and which daemon serves it.

Two kinds of lock on one file, because they are lost in opposite ways:

flock       belongs to the open file: forked children share it, and a second open in the same process conflicts with the
            first. It brackets the short critical sections.
POSIX lock  belongs to the process: forked workers do not have it, so it ends with the supervisor and with nothing else.
            But it is lost when its process closes *any* descriptor of the file: a process that claimed a name never
            opens that name's lock file again (`State.owner_is_me` tells).
"""

from __future__ import annotations

import fcntl
import os
import struct
import time
from types import TracebackType

from memcache_shm.errors import BusyError, MemcacheError
from memcache_shm.storage.statefile import lock_path

WAIT_LIMIT_S = 5.0  # the critical sections take milliseconds; who takes longer is stopped
_RETRY_S = 0.01  # flock(2) has no wait with a limit
_FLOCK = struct.Struct("hhqqi4x")  # struct flock of Linux with 64-bit offsets: type, whence, start, length, pid


class NameLock:
    """An open lock file, held by flock from construction (or `lock`) to `unlock`; a context manager for one section."""

    def __init__(self, directory: str, name: str, mode: int = 0o600) -> None:
        self._path = lock_path(directory, name)
        self._descriptor = _open_locked(self._path, mode)

    def __enter__(self) -> NameLock:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def lock(self) -> None:
        """Enter a critical section again; BusyError when another process is in one for too long."""
        _flock_within_limit(self._descriptor, self._path)

    def unlock(self) -> None:
        """Leave the critical section, keep the file open and its POSIX lock."""
        fcntl.flock(self._descriptor, fcntl.LOCK_UN)

    def claim(self) -> bool:
        """Take the POSIX lock for the life of this process; False when another process has it."""
        try:
            fcntl.lockf(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError):
            return False
        return True

    def daemon_pid(self) -> int | None:
        """Whose the POSIX lock is: None nobody's (or this process's), 0 a process of another PID namespace."""
        return _lock_owner(self._descriptor)

    def discard(self) -> None:
        """Unlink the file, inside a critical section: those who wait for it will notice and open a new one."""
        if _is_file_of(self._descriptor, self._path):
            os.unlink(self._path)

    def close(self) -> None:
        """Give up both locks."""
        os.close(self._descriptor)


def daemon_pid(directory: str, name: str) -> int | None:
    """Which process serves `name`: None nobody, 0 one of another PID namespace. Not for a process that claimed it."""
    try:
        descriptor = os.open(lock_path(directory, name), os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except FileNotFoundError:
        return None
    try:
        return _lock_owner(descriptor)
    finally:
        os.close(descriptor)


def _lock_owner(descriptor: int) -> int | None:
    asked = _FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)
    kind, _, _, _, pid = _FLOCK.unpack(fcntl.fcntl(descriptor, fcntl.F_GETLK, asked))
    return None if kind == fcntl.F_UNLCK else int(pid)


def _open_locked(path: str, mode: int) -> int:
    """A descriptor of the file that has the name now, with the flock on it."""
    while True:
        descriptor = _open(path, mode)
        try:
            _flock_within_limit(descriptor, path)
            if _is_file_of(descriptor, path):
                return descriptor
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)  # its last owner unlinked it while we waited


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


def _flock_within_limit(descriptor: int, path: str) -> None:
    deadline = time.monotonic() + WAIT_LIMIT_S
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            if time.monotonic() > deadline:
                raise BusyError(f"another process holds {path} for over {WAIT_LIMIT_S:.0f} s (see /proc/locks)") from None
        time.sleep(_RETRY_S)
