"""The registration pipe as its server has it: open to read, and made anew when somebody removes it, as programs do that clean /tmp.

Where that cannot be done now it is tried again, and the trouble is told once; sessions go on meanwhile.
"""

from __future__ import annotations

import logging
import os

from memcache_shm.errors import MemcacheError
from memcache_shm.ops.fifo import hold_fifo, make_fifo
from memcache_shm.server.outage import Outage

log = logging.getLogger(__name__)


class RegistrationPipe:
    """That at `path`."""

    def __init__(self, path: str) -> None:
        self.descriptor = -1  # -1: it could not be opened yet
        self.identity: tuple[int, int] | None = None  # device and inode
        self._path = path
        self._outage = Outage()
        self.look()

    def look(self) -> bool:
        """See to it that clients find it. Whether `descriptor` is another one now; the old one is closed then."""
        try:
            is_there = self._is_there()
        except MemcacheError as error:
            self._outage.goes_on(str(error))
            return False
        except OSError as error:
            self._outage.goes_on(f"the registration pipe {self._path}: {error.strerror}: no more clients can register")
            return False
        if not is_there:
            return self._make()
        if self.descriptor < 0:
            return self._open()
        self._outage.is_over("clients can register again")
        return False

    def _is_there(self) -> bool:
        """Whether there is something, ours as far as one can tell. OSError; MemcacheError: it is not ours."""
        try:
            found = os.lstat(self._path)
        except FileNotFoundError:
            return False
        if self.identity not in (None, (found.st_dev, found.st_ino)):
            raise MemcacheError(f"somebody has replaced {self._path}: no more clients can register; restart")
        return True

    def _make(self) -> bool:
        try:
            make_fifo(self._path)
        except MemcacheError as error:
            self._outage.goes_on(f"the registration pipe is gone: {error}")
            return False
        log.warning("the registration pipe %s was removed; it is made anew", self._path)
        return self._open()

    def _open(self) -> bool:
        try:
            fresh = hold_fifo(self._path)
        except MemcacheError as error:
            self._outage.goes_on(f"no more clients can register: {error}")
            return False
        self.close()
        self.descriptor = fresh
        found = os.fstat(fresh)
        self.identity = found.st_dev, found.st_ino
        self._outage.is_over("clients can register again")
        return True

    def close(self) -> None:
        """Let go of it, without removing it."""
        if self.descriptor >= 0:
            os.close(self.descriptor)
            self.descriptor = -1
