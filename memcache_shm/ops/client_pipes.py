"""The three pipes of a client, by the name that it chose: made, opened, and removed at the end.

Whoever has a lock (flock) on the pipe for requests has the name. So pipes that a killed client left are told from those of one that lives,
without opening them for writing, which the other one could take for its server.
"""

from __future__ import annotations

import fcntl
import os
import re
import stat

from memcache_shm.errors import BusyError, IllegalInputError, MemcacheError

ID_MAX_BYTES = 17  # so that a path has less than 40
_DIRECTORY = "/tmp"  # short, and there everywhere; pipes that others made there are refused
_ATTEMPTS = 10  # somebody may make or remove them in the same moment
_OPEN = os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC


class ClientPipes:
    """Not there before `make`. Raises IllegalInputError for an identity that cannot be part of their names."""

    def __init__(self, identity: str) -> None:
        if not re.fullmatch(rf"[A-Za-z0-9_.-]{{1,{ID_MAX_BYTES}}}", identity):
            raise IllegalInputError(f"ID: 1 to {ID_MAX_BYTES} letters, digits and _ . - are a name for pipes, not {identity!r}")
        self.paths = [f"{_DIRECTORY}/memcache_shm-{identity}.{suffix}" for suffix in ("req", "res", "not")]
        self.requests = self.responses = self.notifications = -1  # descriptors
        self._made: list[str] = []

    def make(self, owner: int) -> None:
        """Make and open them, in place of those that a killed client left; for a process of root they are made over to the user `owner`.
        MemcacheError, naming what is in the way. `close` is to be called in any case."""
        requests, responses, notifications = self.paths
        self.requests = self._take_name(requests)
        self._made.append(requests)
        for path in (responses, notifications):
            if _is_there(path):
                _unlink(path)
            _make(path)
            self._made.append(path)
        # A pipe that is open for both never makes us wait for the server, nor the server for us.
        self.responses = os.open(responses, os.O_RDONLY | _OPEN)
        self.notifications = os.open(notifications, os.O_RDONLY | _OPEN)
        if os.geteuid() == 0:  # a daemon of another user (-u) could not open what is root's
            for path in self.paths:
                os.chown(path, owner, -1, follow_symlinks=False)

    def close(self) -> None:
        """Remove what was made here, and close it. Idempotent."""
        for path in self._made:
            _unlink(path)
        self._made = []
        for descriptor in (self.responses, self.notifications, self.requests):  # with the last one the name is free
            if descriptor >= 0:
                os.close(descriptor)
        self.requests = self.responses = self.notifications = -1

    def _take_name(self, path: str) -> int:
        """A new pipe for requests, open for both and locked."""
        for _ in range(_ATTEMPTS):
            try:
                _make(path)
                is_new = True
            except FileExistsError:
                is_new = False
            descriptor = self._lock(path)
            if descriptor is None:
                continue
            if is_new:
                return descriptor
            _unlink(path)  # what a server may still have open is not to be served on
            os.close(descriptor)
        raise BusyError(f"somebody else makes {path} all the time; choose another ID")

    def _lock(self, path: str) -> int | None:
        """A descriptor of the pipe, locked. None: it is another one meanwhile."""
        if not _is_there(path):
            return None
        try:
            descriptor = os.open(path, os.O_RDWR | _OPEN)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise MemcacheError(f"{path} is there already: {error.strerror}; choose another ID") from None
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            raise MemcacheError(f"{path} is in use by another client; choose another ID, or end that one") from None
        if _is_at(descriptor, path):
            return descriptor
        os.close(descriptor)
        return None


def _make(path: str) -> None:
    """MemcacheError; FileExistsError."""
    try:
        os.mkfifo(path, 0o600)
    except FileExistsError:
        raise
    except OSError as error:
        raise MemcacheError(f"cannot make the pipe {path}: {error.strerror}") from None


def _is_there(path: str) -> bool:
    """Whether there is a pipe. MemcacheError: it is something else."""
    try:
        found = os.lstat(path)
    except FileNotFoundError:
        return False
    if not stat.S_ISFIFO(found.st_mode):
        raise MemcacheError(f"{path} is there already and is no named pipe; choose another ID, or remove it")
    return True


def _is_at(descriptor: int, path: str) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), os.lstat(path))
    except FileNotFoundError:
        return False


def _unlink(path: str) -> None:
    try:
        os.unlink(path)
    except FileNotFoundError:
        return  # somebody else did
    except OSError as error:
        raise MemcacheError(f"cannot remove the pipe {path}: {error.strerror}; choose another ID") from None
