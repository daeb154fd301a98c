"""FILE.old: what a file was before it is replaced."""

from __future__ import annotations

import contextlib
import errno
import os

from memcache_shm.errors import BackupError
from memcache_shm.ops.whole_file import WholeFile, hidden_name

_COPIED_BYTES = 1 << 20  # at a time
_NO_LINKS = (errno.EPERM, errno.EACCES, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK)


def former_path(path: str) -> str:
    """Where it is kept."""
    return f"{path}.old"


def keep_former(path: str) -> None:
    """Make FILE.old of the file at `path`, in place of an older one and in one step; the file itself stays where it is. One process at a
    time may do that for a file. BackupError: nothing was changed."""
    link, old = hidden_name(path, "old"), former_path(path)
    try:
        if not _link(path, link):
            _copy(path, old)
            return
        try:
            os.rename(link, old)
        finally:
            remove_link(path)  # still there, too, where the two are one file already
    except OSError as error:
        raise BackupError(f"{old}: {error.strerror}; what {path} is now cannot be kept there, and so it is not replaced") from None


def remove_link(path: str) -> None:
    """Remove what a process left that was killed while it kept a former file. Raises OSError."""
    with contextlib.suppress(FileNotFoundError):
        os.unlink(hidden_name(path, "old"))


def _link(path: str, link: str) -> bool:
    """False: the file system has no hard links, or the file is one of another user that may have no further name."""
    remove_link(path)
    try:
        os.link(path, link)
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        return False
    return True


def _copy(path: str, old: str) -> None:
    with WholeFile(old, replaces_anything=True) as copy, open(path, "rb") as file:
        while data := file.read(_COPIED_BYTES):
            copy.write(data)
