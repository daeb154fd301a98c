"""The registration pipe: a FIFO with a name, which its server makes and removes."""

from __future__ import annotations

import contextlib
import errno
import os
import stat

from memcache_shm.errors import MemcacheError

_MODE = 0o600  # whoever may register makes the server open pipes: its own user, and root
_ATTEMPTS = 3  # somebody may remove or make it in the same moment


def make_fifo(path: str) -> None:
    """Make it, in place of one that nobody reads any more. MemcacheError, naming what is in the way."""
    for _ in range(_ATTEMPTS):
        try:
            os.mkfifo(path, _MODE)
        except FileExistsError:
            _clear(path)
        except OSError as error:
            raise MemcacheError(f"cannot make the named pipe {path}: {error.strerror}; choose another path") from None
        else:
            os.chmod(path, _MODE)  # whatever the umask
            return
    raise MemcacheError(f"the named pipe {path}: somebody else makes it all the time; choose another path")


def _clear(path: str) -> None:
    """Remove a pipe that a server left which was killed."""
    try:
        if not stat.S_ISFIFO(os.lstat(path).st_mode):
            raise MemcacheError(f"{path} is there and is no named pipe; choose another path, or remove it")
        if has_reader(path):
            raise MemcacheError(f"the named pipe {path} is in use; choose another path, or end who serves it")
        os.unlink(path)
    except FileNotFoundError:
        return  # all the better
    except OSError as error:
        raise MemcacheError(f"cannot replace the named pipe {path}: {error.strerror}; choose another path") from None


def has_reader(path: str) -> bool:
    """Whether somebody has the pipe open to read it. OSError."""
    try:
        writer = os.open(path, os.O_WRONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError as error:
        if error.errno == errno.ENXIO:
            return False
        raise
    os.close(writer)
    return True


def remove_fifo(path: str) -> None:
    """Remove it, if it is still one."""
    with contextlib.suppress(OSError):
        if stat.S_ISFIFO(os.lstat(path).st_mode):
            os.unlink(path)


def hold_fifo(path: str) -> int:
    """A descriptor to read it, and to write: so it never ends for want of writers. What is written stays in it as long as some process
    holds it. MemcacheError."""
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError as error:
        raise MemcacheError(f"cannot open the named pipe {path}: {error.strerror}") from None
    if not stat.S_ISFIFO(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise MemcacheError(f"{path} is no named pipe any more; somebody replaced it: restart its server")
    return descriptor
