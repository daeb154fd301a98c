"""What a client's command `backup` comes to, in a process of its own: one file in the directory that the daemon has for that."""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import re
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager

from memcache_shm.client.reading import Reading
from memcache_shm.errors import BackupError, MemcacheError
from memcache_shm.ops import backups
from memcache_shm.ops.save_lock import refuse_saved
from memcache_shm.ops.whole_file import remove_leftovers

log = logging.getLogger(__name__)


def back_up(access: Callable[[], AbstractContextManager[Reading]], directory: str, file: str) -> str:
    """Save the table that `access` gives; the client's reply: ``OK <items> <bytes>``, or ``SERVER_ERROR <why>``, also when another backup
    into that directory runs. What has that name, a link maybe, is itself replaced.

    Where the directory is, only the log says.
    """
    try:
        with _only_one(directory), access() as cache:
            saved = _save(cache, os.path.join(directory, file))
    except (MemcacheError, MemoryError, OSError) as error:
        why = (error.strerror if isinstance(error, OSError) else None) or str(error) or "out of memory"
        log.warning("backup %s: %s", file, why)
        return f"SERVER_ERROR {_without(directory, why)}"
    return f"OK {saved.items} {saved.bytes}"


def _save(cache: Reading, path: str) -> backups.Saved:
    refuse_saved(path)
    remove_leftovers(path)
    return backups.save(cache, path, replaces_anything=True)


def _without(directory: str, why: str) -> str:
    """`why` with DIR in place of the directory's path, as the option's help calls it."""
    for path in (directory, os.path.realpath(directory)):
        if path.strip("/."):
            why = re.sub(rf"(?<![\w/.]){re.escape(path.rstrip('/'))}(?=[/:;]|$)", "DIR", why)
    return why


@contextlib.contextmanager
def _only_one(directory: str) -> Iterator[None]:
    """No other one runs into that directory, of any worker or daemon; the lock ends with its process. BackupError."""
    try:
        descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise BackupError(f"{directory}: {error.strerror}") from None
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise BackupError("busy: a backup is running, try again later") from None
        yield
    finally:
        os.close(descriptor)
