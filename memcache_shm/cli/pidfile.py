"""Files that tell others of a daemon: its pid (``-P``), and its ports ($MEMCACHED_PORT_FILENAME)."""

from __future__ import annotations

import contextlib
import errno
import os
import pwd
from collections.abc import Iterable

from memcache_shm.errors import MemcacheError
from memcache_shm.server.listeners import Address

PORTS_VARIABLE = "MEMCACHED_PORT_FILENAME"


class PidFile:
    """Written before the daemon serves, removed at its end if it is still its own.

    Who becomes another user writes it as that one, who can remove it then. Where only root may write, such as in /run itself, root
    does, and the file stays: memcached goes on without one there.
    """

    def __init__(self, path: str) -> None:
        self._path = path
        self._is_written = False

    def write_as_root(self, user: pwd.struct_passwd) -> None:
        """For root that is about to become `user`, in case that one cannot."""
        if not _may_write(os.path.dirname(self._path) or ".", user):
            self.write()

    def write(self) -> None:
        """Whole or not at all, once. Raises MemcacheError."""
        if self._is_written:
            return
        try:
            _put(self._path, f"{os.getpid()}\n")
        except OSError as error:
            remedy = (
                f"choose a place that {_me()} may write to" if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS) else "choose another"
            )
            raise MemcacheError(f"-P: cannot write {self._path}: {error.strerror}; {remedy}") from None
        self._is_written = True

    def remove(self) -> None:
        """Unless another daemon has written it meanwhile."""
        if not self._is_written:
            return
        with contextlib.suppress(OSError):  # gone, or root's: nothing is served by failing now
            with open(self._path, encoding="ascii", errors="replace") as file:
                content = file.read()
            if content == f"{os.getpid()}\n":
                os.unlink(self._path)


def write_ports(addresses: Iterable[Address]) -> None:
    """As memcached does for whoever starts it on a free port: ``TCP INET: 11211``, or INET6, a line for each address. Raises OSError."""
    path = os.environ.get(PORTS_VARIABLE)
    if path:
        lines = [f"TCP {'INET6' if ':' in address.host else 'INET'}: {address.port}\n" for address in addresses if not address.path]
        _put(path, "".join(lines))


def _put(path: str, text: str) -> None:
    if os.path.exists(path) and not os.path.isfile(path):  # a rename would put a file in the place of /dev/null
        raise FileExistsError(errno.EEXIST, "exists and is no regular file", path)
    temporary = f"{path}.{os.getpid()}.new"
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644)
    try:
        with os.fdopen(descriptor, "w", encoding="ascii") as file:
            file.write(text)
        os.rename(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise


def _may_write(directory: str, user: pwd.struct_passwd) -> bool:
    """What `user` would be allowed, without root's other groups."""
    groups = os.getgroups()
    gid = os.getegid()
    os.setgroups([])
    os.setegid(user.pw_gid)
    os.seteuid(user.pw_uid)
    try:
        return os.access(directory, os.W_OK | os.X_OK, effective_ids=True)
    finally:
        os.seteuid(0)
        os.setegid(gid)
        os.setgroups(groups)


def _me() -> str:
    try:
        return pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:
        return f"user {os.geteuid()}"
