"""The file that a daemon saves its table to and loads it from (``--save``), and the companion that saves every now and then.

A save replaces the file at once and whole (see `whole_file`). One that has less than half of the bytes of the file it replaces keeps that
as FILE.old first: a table that was emptied by mistake must not take its last good copy with it. So does the first one after a load that was
not complete.
"""

from __future__ import annotations

import logging
import os
import stat
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import NoReturn

from memcache_shm.client.local import LocalTable
from memcache_shm.client.reading import Reading
from memcache_shm.errors import BackupError, MemcacheError, TableRemovedError
from memcache_shm.ops import backups
from memcache_shm.ops.backup_file import FileWriter
from memcache_shm.ops.backup_parts import Progress, no_progress
from memcache_shm.ops.backup_sources import AttachedSource
from memcache_shm.ops.former_file import former_path, keep_former, remove_link
from memcache_shm.ops.save_lock import SaveLock
from memcache_shm.ops.whole_file import WholeFile, remove_leftovers
from memcache_shm.server.outage import Outage
from memcache_shm.server.saves import SaveFigures
from memcache_shm.storage import following
from memcache_shm.storage.activity import activity
from memcache_shm.storage.table import Table

log = logging.getLogger(__name__)

#: The table, for one save; it is let go of at the end of the block.
Access = Callable[[], AbstractContextManager[Reading]]
_LOOK_AGAIN_S = 1.0  # for a table that is just being made anew
_SHRUNK = 2  # how many times larger the file before must be to be kept


class SaveFile:
    """The file, by whoever saves; `figures` are shared by all of them. `leader`: the table is a copy, which is worth a save once it was
    complete."""

    def __init__(self, path: str, figures: SaveFigures, *, leader: bool = False) -> None:
        self.path = os.path.realpath(path)
        self._figures = figures
        self._leader = leader
        self._lock = SaveLock(self.path)

    def claim(self) -> None:
        """Be the one daemon that saves to it, until `release`; what was left of a save whose process was killed goes. BackupError: it
        cannot be written, as far as that shows before, or another daemon saves to it."""
        self._check()
        self._lock.take()
        try:
            remove_leftovers(self.path)
            remove_link(self.path)
        except OSError as error:
            self.release()
            raise BackupError(f"{self.path}: {error.strerror}: {error.filename}") from None

    def _check(self) -> None:
        directory, name = os.path.split(self.path)
        if os.path.exists(self.path) and not stat.S_ISREG(os.stat(self.path).st_mode):
            raise BackupError(f"{self.path} is no regular file; name one")
        if not name or not os.path.isdir(directory):
            raise BackupError(f"there is no directory {directory}; make it, or name a file in another one")
        if not os.access(directory, os.W_OK | os.X_OK, effective_ids=True):
            raise BackupError(f"no file can be made in {directory} by this user; choose another directory, or change its owner")
        if os.path.exists(self.path) and not os.access(self.path, os.R_OK, effective_ids=True):
            raise BackupError(f"{self.path} cannot be read by this user; change its owner, or name another file")
        old = former_path(self.path)
        try:
            if stat.S_ISDIR(os.lstat(old).st_mode):
                raise BackupError(f"{old} is a directory, and has the name for a former {name}; move it away, or name another file")
        except FileNotFoundError:
            return
        except OSError as error:
            raise BackupError(f"{old}: {error.strerror}; that is the name for a former one: name another file") from None

    def release(self) -> None:
        """Another daemon may save to it; for the process that claimed it."""
        self._lock.release()

    def load(self, table: Table, name: str, directory: str, progress: Progress = no_progress) -> backups.Loaded | None:
        """Put its items into a table that nobody uses yet; None when there is no such file. After a load that was not complete, or failed,
        the next save keeps the file as FILE.old. Raises what `backups.load` does, OSError, MemoryError."""
        if not os.path.exists(self.path):
            return None
        try:
            loaded = backups.load(self.path, LocalTable(table, name, directory), progress)
        except (MemcacheError, MemoryError, OSError):
            self._figures.note_incomplete()
            raise
        if loaded.lost or loaded.refused:
            self._figures.note_incomplete()
        self._figures.sign = _sign(table)
        return loaded

    def save_if_changed(self, access: Access, progress: Progress = no_progress) -> bool:
        """Save the table unless the file has all that is in it, or it is a copy that was never complete. Whether it did.

        Raises TableRemovedError when it is not there at the moment; BackupError and others of MemcacheError, MemoryError, OSError: the file
        is as it was.
        """
        try:
            with access() as cache:
                table = cache.attached_table
                sign = _sign(table)
                if sign == self._figures.sign or (self._leader and not following.figures(table)["follow_copies"]):
                    return False
                self._save(cache, progress)
        except TableRemovedError:
            raise
        except (MemcacheError, MemoryError, OSError):
            self._figures.note_failure()
            raise
        self._figures.sign = sign
        return True

    def _save(self, cache: Reading, progress: Progress) -> None:
        remove_leftovers(self.path)
        unix_s, began_s = time.time(), time.monotonic()
        size_bytes = 0

        def write(data: bytes | memoryview) -> None:
            nonlocal size_bytes
            file.write(data)
            size_bytes += len(data)

        owed = self._figures.owed
        with WholeFile(self.path) as file:
            saved = backups.write(AttachedSource(cache), FileWriter(write), progress)
            why = self._keep_former(size_bytes, owed)  # what may fail does so before the file is replaced
        took_s = time.monotonic() - began_s  # with the disk's part
        if owed:
            self._figures.note_kept(owed)
        if why:
            log.warning("%s %s; what it was before is kept as %s", self.path, why, former_path(self.path))
        self._figures.note_save(unix_s, saved.items, saved.bytes, took_s, saved.held_ns)
        log.info("%d items saved to %s in %.1f s", saved.items, self.path, took_s)

    def _keep_former(self, size_bytes: int, owed: int) -> str:
        """Keep what the file is, if so many bytes in its place may be less than it had: why; empty if it was not. BackupError."""
        try:
            shrinks = size_bytes * _SHRUNK < os.path.getsize(self.path)
        except FileNotFoundError:
            return ""
        if not owed and not shrinks:
            return ""
        keep_former(self.path)
        return "was not loaded completely" if owed else "has become much smaller"


def _sign(table: Table) -> int:
    """Another one for another table, and after each change of this one; for processes of one daemon, never 0."""
    return (hash((table.uuid, activity(table))) & (2**64 - 1)) or 1


def save_on(access: Access, file: SaveFile, every_s: int) -> NoReturn:
    """Save the table each so many seconds, if it has changed. Where that fails it is told once, and tried again sooner."""
    outage = Outage()
    failures = 0
    pause_s: float = every_s
    while True:
        time.sleep(pause_s)
        pause_s = every_s
        try:
            file.save_if_changed(access)
        except TableRemovedError:
            pause_s = min(every_s, _LOOK_AGAIN_S)
        except (MemcacheError, MemoryError, OSError) as error:
            outage.goes_on(f"the table cannot be saved: {str(error) or 'out of memory'}; trying again and again")
            pause_s = min(every_s, 2**failures)
            failures += 1
        else:
            outage.is_over(f"the table is saved to {file.path} again")
            failures = 0
