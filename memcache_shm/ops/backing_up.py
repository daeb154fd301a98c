"""What a client's command `backup` comes to, in a process of its own: one file in the directory that the daemon has for that."""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager

from memcache_shm.client.reading import Reading
from memcache_shm.errors import BackupError
from memcache_shm.ops import backups
from memcache_shm.ops.whole_file import remove_leftovers


def back_up(access: Callable[[], AbstractContextManager[Reading]], directory: str, file: str) -> str:
    """Save the table that `access` gives; the client's reply, ``OK <items> <bytes>``. What has that name, a link maybe, is itself replaced.

    Raises BackupError, also when another backup into that directory runs, and what `backups.save` does.
    """
    path = os.path.join(directory, file)
    with _only_one(directory), access() as cache:
        remove_leftovers(path)
        saved = backups.save(cache, path, replaces_anything=True)
    return f"OK {saved.items} {saved.bytes}"


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
