"""Who saves to a file: one daemon, as long as it lives.

A POSIX lock on a hidden empty file beside it, `.FILE.lock`: it ends with the daemon's process and with nothing else. As with the lock file
of a name (see `storage.namelock`), a process that has the lock never opens that file again. Only a killed daemon leaves it, without a lock.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os

from memcache_shm.errors import BackupError
from memcache_shm.ops.whole_file import hidden_name
from memcache_shm.storage.namelock import lock_owner

_NO_LOCKS = (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS)


class SaveLock:
    """The lock for the file at `path`; taken by `take`, for good."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._lock_path = hidden_name(path, "lock")
        self._fd: int | None = None

    def take(self) -> None:
        """BackupError: another daemon has it, or nothing can be made there. Where the file system has no locks, nobody is kept out."""
        while self._fd is None:
            try:
                fd = os.open(self._lock_path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
            except OSError as error:
                raise BackupError(f"no file can be made beside {self._path}: {error.strerror}; choose another directory") from None
            try:
                self._lock(fd)
            except BaseException:
                os.close(fd)
                raise
            if _is_file_of(fd, self._lock_path):
                self._fd = fd
            else:
                os.close(fd)  # whoever had the lock removed the file just now

    def _lock(self, fd: int) -> None:
        try:
            fcntl.lockf(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in _NO_LOCKS:
                return
            raise BackupError(f"{self._path} is what {_daemon(lock_owner(fd))} saves to; stop it, or name another file") from None

    def release(self) -> None:
        """Give it up, for the process that took it; nothing is left."""
        if self._fd is None:
            return
        with contextlib.suppress(OSError):  # the directory may be gone; an empty file without a lock does no harm
            if _is_file_of(self._fd, self._lock_path):
                os.unlink(self._lock_path)
        os.close(self._fd)
        self._fd = None


def refuse_saved(path: str) -> None:
    """BackupError: a daemon saves to the file at `path`. Not for the process that has the lock."""
    try:
        fd = os.open(hidden_name(path, "lock"), os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return  # there is none, or not of this user
    try:
        owner = lock_owner(fd)
    except OSError:
        return  # no locks here
    finally:
        os.close(fd)
    if owner is not None:
        raise BackupError(f"{path} is what {_daemon(owner)} saves to (--save); choose another name")


def _daemon(pid: int | None) -> str:
    return f"the daemon with pid {pid}" if pid else "another daemon"


def _is_file_of(fd: int, path: str) -> bool:
    try:
        return os.path.samestat(os.fstat(fd), os.stat(path, follow_symlinks=False))
    except FileNotFoundError:
        return False
