"""What only root may do at a start, and how it ceases to be root."""

from __future__ import annotations

import codecs
import os
import pwd
import resource

from memcache_shm.cli.messages import PROGRAM, UsageError, note
from memcache_shm.errors import MemcacheError
from memcache_shm.server.process import allow_core_dumps

_CODECS = ("ascii", "utf-8", "latin-1", "idna")


def find_user(name: str | None) -> pwd.struct_passwd | None:
    """The user to become; None: stay who we are, since none was named or only root can (memcached ignores -u then, too)."""
    if name is None or os.geteuid() != 0:
        return None
    try:
        user = pwd.getpwnam(name.strip())
    except (KeyError, ValueError):  # ValueError: a NUL in it
        raise UsageError(f"-u: no user is called {name!r} on this host ('{PROGRAM}' without -u serves as root)") from None
    return user if user.pw_uid else None


def become(user: pwd.struct_passwd, core_dumps: bool) -> None:
    """Give root's rights up for good: groups, gid, uid. The kernel then dumps no core of us, unless `core_dumps` asks for it.

    What is imported late comes now: the new user may not be allowed to read root's virtual environment.
    """
    for codec in _CODECS:
        codecs.lookup(codec)
    try:
        os.setgroups([])
        os.setgid(user.pw_gid)
        os.setuid(user.pw_uid)
    except OSError as error:
        raise MemcacheError(f"-u: cannot become {user.pw_name}: {error.strerror}") from None
    if core_dumps:
        allow_core_dumps()


def lift_core_limit() -> None:
    """As far as the hard limit allows; root moves that, too."""
    if not _lift(resource.RLIMIT_CORE):
        hard = resource.getrlimit(resource.RLIMIT_CORE)[1]
        note(f"-r: cores are limited to {hard} bytes (see ulimit -Hc)")


def lift_lock_limit() -> None:
    """Of memory, for -k: whoever is root no longer when it locks needs it."""
    _lift(resource.RLIMIT_MEMLOCK)


def _lift(limit: int) -> bool:
    """Whether there is no limit any more; else it is as high as it may be."""
    try:
        resource.setrlimit(limit, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    except (PermissionError, ValueError):
        hard = resource.getrlimit(limit)[1]
        resource.setrlimit(limit, (hard, hard))
        return hard == resource.RLIM_INFINITY
    return True
