"""What a daemon does about ``--save`` and ``--backup-dir`` before it serves and after its end."""

from __future__ import annotations

import contextlib
import errno
import functools
import os
import signal
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING

from memcache_shm.cli.messages import PROGRAM, note, plural
from memcache_shm.cli.options import Options
from memcache_shm.client.addresses import written
from memcache_shm.errors import BackupError, MemcacheError
from memcache_shm.server.companions import Companion
from memcache_shm.server.saves import SaveFigures
from memcache_shm.storage.claiming import Claim
from memcache_shm.storage.table import Table

if TYPE_CHECKING:
    from memcache_shm.cli.progress import ProgressBar
    from memcache_shm.client.local import LocalTable
    from memcache_shm.ops.backup_parts import Step
    from memcache_shm.ops.backups import Loaded

_STOPS = {signal.SIGINT, signal.SIGTERM}


class StoppedError(Exception):
    """A signal asks for the end before the daemon serves, or for a quicker one."""


class Saving:
    """The file of ``--save`` in one daemon's life: `fill`, `tell`, `companion`, `finish`."""

    def __init__(self, path: str, every_s: int, leader: str) -> None:
        """Raises BackupError when nothing can be saved there, or another daemon does. `leader`: whom the daemon follows."""
        from memcache_shm.ops.saving import SaveFile  # with the modules of backups, which others do not need

        self.figures = SaveFigures()
        self.failed = False  # at the end: the table is all there is
        self._every_s = every_s
        self._leader = leader
        self._claimed = False
        self._file = SaveFile(path, self.figures, leader=bool(leader))
        try:
            self._file.claim()
        except BackupError as error:
            raise BackupError(f"--save: {error}") from None

    def release(self) -> None:
        """Another daemon may save there."""
        self._file.release()

    def fill(self, table: Table, name: str, directory: str) -> None:
        """Load the file into a table that was just made, as a creating.Fill. At the start what is wrong is an error (BackupError): no other
        copy may be left. Later the daemon serves without it. StoppedError."""
        from memcache_shm.cli.progress import ProgressBar

        path = self._file.path
        try:
            with ProgressBar(path) as bar:
                loaded = self._file.load(table, name, directory, functools.partial(self._show_load, bar))
        except (MemcacheError, MemoryError, OSError) as error:
            what, remedy = _why_not_loaded(path, error)
            if not self._claimed:
                raise BackupError(f"--save: cannot load {what}; {remedy}") from None
            note(f"--save: cannot load {what}; table {name} begins empty, and the next save keeps {path} as {path}.old")
            return
        if loaded is not None:
            self._tell_load(loaded)

    def _tell_load(self, loaded: Loaded) -> None:
        path = self._file.path
        missing = [
            (loaded.expired, "had expired"),
            (loaded.refused, "found no room"),
            (loaded.lost, "evicted again for want of room"),
        ]
        others = "".join(f", {count} {why}" for count, why in missing if count)
        kept = f"; the next save keeps {path} as {path}.old" if loaded.refused or loaded.lost else ""
        note(f"{plural(loaded.items, 'item')} loaded from {path} in {loaded.took_s:.1f} s{others}{kept}")

    def _show_load(self, bar: ProgressBar, step: Step) -> None:
        if self._claimed:
            return  # the daemon serves, and notes signals by itself
        if signal.sigpending() & _STOPS:
            raise StoppedError
        bar.tell(step)

    def tell(self, claim: Claim) -> None:
        """The name is ours: why the file was not loaded, if there is one and it was not."""
        self._claimed = True
        if not os.path.exists(self._file.path):
            return
        if self._leader:
            note(f"{self._file.path} is not loaded: the items come from {self._leader}")
        elif claim.adopted:
            note(
                f"{self._file.path} is not loaded: table {claim.state.name} was there already, with {plural(len(claim.table), 'item')};"
                f" '{PROGRAM} restore {self._file.path} {claim.state.name}' puts those of the file over them"
            )

    def companion(self, claim: Claim) -> list[Companion]:
        """Who saves while the daemon serves."""
        from memcache_shm.ops.saving import save_on

        if not self._every_s:
            return []
        return [Companion("saver", functools.partial(save_on, _access(claim), self._file, self._every_s))]

    def finish(self, claim: Claim, is_urged: Callable[[], bool]) -> None:
        """Save what has changed since. Another signal ends that, and leaves the file as it was; so does what fails, see `failed`."""
        from memcache_shm.client.local import LocalTable

        def heed(step: Step | None) -> None:
            if is_urged():
                raise StoppedError

        table = LocalTable(claim.table, claim.state.name, claim.state.directory)  # the claim's own, which stays open
        try:
            heed(None)
            self._file.save_if_changed(lambda: contextlib.nullcontext(table), heed)
        except StoppedError:
            note(f"--save: told to stop at once; {self._file.path} is as it was saved last")
        except (MemcacheError, MemoryError, OSError) as error:
            self.failed = True
            note(f"--save: cannot save table {claim.state.name}: {str(error) or 'out of memory'}")


def _why_not_loaded(path: str, error: MemcacheError | MemoryError | OSError) -> tuple[str, str]:
    """What is wrong, beginning with the file's name; and the remedy at a start."""
    if isinstance(error, BackupError):
        return str(error), "put a good one in its place, or move it away to start empty"
    if isinstance(error, MemoryError) or (isinstance(error, OSError) and error.errno == errno.ENOMEM):
        return f"{path}: out of memory", "nothing is wrong with the file; let the daemon have more memory (ulimit -v, MemoryMax=)"
    cause = (error.strerror if isinstance(error, OSError) else None) or str(error)
    return f"{path}: {cause}", "nothing is wrong with the file; start again when that is mended"


def _access(claim: Claim) -> Callable[[], AbstractContextManager[LocalTable]]:
    """The table that a daemon serves, for its children: by ids, since its name may lead elsewhere, or nowhere, by then."""
    from memcache_shm.client.local import LocalTable

    return lambda: contextlib.closing(LocalTable(claim.attach(), claim.state.name, claim.state.directory))


def saving_of(options: Options) -> Saving | None:
    """What ``--save`` comes to; None without it. Raises BackupError."""
    if options.save_path is None:
        return None
    return Saving(options.save_path, options.save_every_s, "" if options.leader is None else written(options.leader))


def backing_up(options: Options, claim: Claim) -> Callable[[str], str] | None:
    """What the command backup does to the table; None where it is not allowed."""
    if options.backup_dir is None:
        return None
    from memcache_shm.ops.backing_up import back_up

    return functools.partial(back_up, _access(claim), options.backup_dir)


def check_backup_dir(options: Options) -> None:
    """BackupError when no file can be made in the directory of ``--backup-dir``."""
    path = options.backup_dir
    if path is not None and not os.path.isdir(path):
        raise BackupError(f"--backup-dir: there is no directory {path}; make it first")
    if path is not None and not os.access(path, os.W_OK | os.X_OK, effective_ids=True):
        raise BackupError(f"--backup-dir: no file can be made in {path} by this user; choose another directory, or change its owner")
