"""Finding the pipes of a client by the paths that it gave, so that nobody can make the server open something else.

    path -> each directory by a descriptor of its own -> the pipe, as a place (O_PATH) -> looked at -> opened through /proc/self/fd

What is looked at is what is opened, whoever renames things meanwhile, and nothing but a FIFO is opened at all. Symbolic links lead on
only if they are root's or our own, and the pipe itself is none.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from typing import NamedTuple

from memcache_shm.ops.quoting import harmless

_LINKS_MOST = 40  # as the kernel
_PLACE = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC


class BadPipe(Exception):
    """A path that leads to no pipe to be used; the text says why."""


class Pipe(NamedTuple):
    """A client's pipe, not open yet."""

    place: int  # a descriptor of O_PATH; the owner of this closes it
    device: int
    inode: int
    owner: int

    @property
    def identity(self) -> tuple[int, int]:
        return self.device, self.inode

    def open_to_read(self) -> int:
        """A descriptor that never blocks. BadPipe."""
        return self._open(os.O_RDONLY)

    def open_to_write(self) -> int | None:
        """The same; None as long as the client has not opened its side."""
        try:
            return self._open(os.O_WRONLY)
        except BlockingIOError:
            return None

    def _open(self, flags: int) -> int:
        try:
            return os.open(f"/proc/self/fd/{self.place}", flags | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError as error:
            if error.errno == errno.ENXIO:
                raise BlockingIOError from None
            raise BadPipe(f"cannot be opened: {error.strerror}") from None

    def close(self) -> None:
        """Let go of the place."""
        os.close(self.place)


def find_pipe(path: bytes) -> Pipe:
    """The FIFO at `path`. BadPipe."""
    try:
        place = _walk(path)
    except OSError as error:
        raise BadPipe(f"{shown_path(path)}: {error.strerror}") from None
    found = os.fstat(place)
    if stat.S_ISFIFO(found.st_mode):
        return Pipe(place, found.st_dev, found.st_ino, found.st_uid)
    os.close(place)
    what = "a symbolic link" if stat.S_ISLNK(found.st_mode) else "no named pipe"
    raise BadPipe(f"{shown_path(path)}: is {what}")


def shown_path(path: bytes) -> str:
    """As text for the log: bytes that are none by their numbers."""
    return harmless(os.fsdecode(path))


def _walk(path: bytes) -> int:
    """A descriptor of what is at the end of `path`, whatever it is. OSError, BadPipe."""
    ahead = _components(path)
    links = 0
    with contextlib.ExitStack() as held:
        at = _start(path, held)
        while True:
            name = ahead.pop(0) if ahead else b"."
            place = os.open(name, _PLACE, dir_fd=at)
            if not ahead:
                return place
            held.callback(os.close, place)
            found = os.fstat(place)
            if not stat.S_ISLNK(found.st_mode):
                at = place  # no directory: the next open fails
                continue
            links += 1
            target = _followed(place, found, name, path)
            if links > _LINKS_MOST:
                raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))
            ahead = _components(target) + ahead
            if target.startswith(b"/"):
                at = _start(target, held)


def _start(path: bytes, held: contextlib.ExitStack) -> int:
    at = os.open(b"/" if path.startswith(b"/") else b".", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    held.callback(os.close, at)
    return at


def _components(path: bytes) -> list[bytes]:
    return [name for name in path.split(b"/") if name]


def _followed(place: int, found: os.stat_result, name: bytes, path: bytes) -> bytes:
    """Where a symbolic link leads. BadPipe for one of another user."""
    if found.st_uid not in (0, os.geteuid()):
        raise BadPipe(f"{shown_path(path)}: {shown_path(name)} is a symbolic link of another user (uid {found.st_uid})")
    return os.fsencode(os.readlink(b"", dir_fd=place))
