"""The file that a daemon saves its table to and loads it from (``--save``), and the companion that saves every now and then.

A save replaces the file at once and whole (see `backups`). One that has less than half of the bytes of the file it replaces keeps that as
FILE.old: a table that was emptied by mistake must not take its last good copy with it.
"""

from __future__ import annotations

import contextlib
import logging
import os
import stat
import time
from collections.abc import Iterator
from typing import NoReturn

from memcache_shm.client.local import LocalTable, attach_local
from memcache_shm.errors import BackupError, MemcacheError, TableNotFoundError, TableRemovedError
from memcache_shm.ops import backups
from memcache_shm.ops.backup_parts import Progress, no_progress
from memcache_shm.ops.whole_file import former_name, remove_leftovers
from memcache_shm.server.outage import Outage
from memcache_shm.server.saves import SaveFigures
from memcache_shm.storage import following
from memcache_shm.storage.activity import activity
from memcache_shm.storage.table import Table

log = logging.getLogger(__name__)

_LOOK_AGAIN_S = 1.0  # for a table that is just being made anew
_SHRUNK = 2  # how many times larger the file before must be to be kept


class SaveFile:
    """The file, by whoever saves; `figures` are shared by all of them. `leader`: the table is a copy, which is worth a save once it was
    complete."""

    def __init__(self, path: str, figures: SaveFigures, *, leader: bool = False) -> None:
        self.path = os.path.realpath(path)
        self._figures = figures
        self._leader = leader

    def check(self) -> None:
        """Whether it can be written, as far as that shows before; what was left of a save whose process was killed goes. BackupError."""
        directory, name = os.path.split(self.path)
        if os.path.exists(self.path) and not stat.S_ISREG(os.stat(self.path).st_mode):
            raise BackupError(f"{self.path} is no regular file; name one")
        if not name or not os.path.isdir(directory):
            raise BackupError(f"there is no directory {directory}; make it, or name a file in another one")
        if not os.access(directory, os.W_OK | os.X_OK, effective_ids=True):
            raise BackupError(f"no file can be made in {directory} by this user; choose another directory, or change its owner")
        remove_leftovers(self.path)

    def load(self, table: Table, name: str, directory: str, progress: Progress = no_progress) -> backups.Loaded | None:
        """Put its items into a table that nobody uses yet; None when there is no such file. BackupError, OSError."""
        if not os.path.exists(self.path):
            return None
        loaded = backups.load(self.path, LocalTable(table, name, directory), progress)
        self._figures.sign = _sign(table)
        return loaded

    def save_if_changed(self, name: str, progress: Progress = no_progress) -> bool:
        """Save the table `name` unless the file has all that is in it, or it is a copy that was never complete. Whether it did.

        Raises TableNotFoundError and TableRemovedError when it is not there at the moment; BackupError and others of MemcacheError,
        MemoryError, OSError: the file is as it was.
        """
        with contextlib.closing(attach_local(name)) as cache:
            table = cache.attached_table
            sign = _sign(table)
            if sign == self._figures.sign or (self._leader and not following.figures(table)["follow_copies"]):
                return False
            try:
                self._save(cache, progress)
            except (TableNotFoundError, TableRemovedError):
                raise
            except (MemcacheError, MemoryError, OSError):
                self._figures.note_failure()
                raise
            self._figures.sign = sign
        return True

    def _save(self, cache: LocalTable, progress: Progress) -> None:
        remove_leftovers(self.path)
        unix_s, began_s = time.time(), time.monotonic()
        with self._former():
            saved = backups.save(cache, self.path, progress)
        took_s = time.monotonic() - began_s  # with the disk's part
        self._figures.note_save(unix_s, saved.items, saved.bytes, took_s, saved.held_ns)
        log.info("%d items saved to %s in %.1f s", saved.items, self.path, took_s)

    @contextlib.contextmanager
    def _former(self) -> Iterator[None]:
        """Keep the file that the save replaces, if it is much larger; where the file system has hard links."""
        former = former_name(self.path)
        try:
            os.link(self.path, former)
        except OSError:
            yield
            return
        try:
            yield
            if os.path.getsize(self.path) * _SHRUNK < os.path.getsize(former):
                os.replace(former, f"{self.path}.old")
                log.warning("%s has become much smaller; what it was before is kept as %s.old", self.path, self.path)
        finally:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(former)


def _sign(table: Table) -> int:
    """Another one for another table, and after each change of this one; for processes of one daemon, never 0."""
    return (hash((table.uuid, activity(table))) & (2**64 - 1)) or 1


def save_on(name: str, file: SaveFile, every_s: int) -> NoReturn:
    """Save the table `name` each so many seconds, if it has changed. Where that fails it is told once, and tried again sooner."""
    outage = Outage()
    failures = 0
    pause_s: float = every_s
    while True:
        time.sleep(pause_s)
        pause_s = every_s
        try:
            file.save_if_changed(name)
        except (TableNotFoundError, TableRemovedError):
            pause_s = min(every_s, _LOOK_AGAIN_S)
        except (MemcacheError, MemoryError, OSError) as error:
            outage.goes_on(f"the table cannot be saved: {error}; trying again and again")
            pause_s = min(every_s, 2**failures)
            failures += 1
        else:
            outage.is_over(f"the table is saved to {file.path} again")
            failures = 0
