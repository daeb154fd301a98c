"""The directory of a run: which jobs there are, nobody else's run in it, nothing left there of one that was killed.

Who runs its jobs holds a flock on the directory itself; its backup children share that, so that one who gets it knows that every temporary
file there is a dead one's.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from types import TracebackType

from memcache_shm.errors import MemcacheError
from memcache_shm.ops.job_backups import TEMPORARY_PREFIX, TEMPORARY_SUFFIX
from memcache_shm.ops.jobs import JOB_SUFFIX


class JobDirectory:
    """The directory at `path`, held until `close`. Raises MemcacheError when there is none, or another run has it."""

    def __init__(self, path: str) -> None:
        self.path = path
        try:
            self._descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError as problem:
            raise MemcacheError(f"JOBS_DIR {path}: {problem.strerror}; name a directory with files *.job") from None
        try:
            self._take()
        except BaseException:
            self.close()
            raise

    def _take(self) -> None:
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise MemcacheError(f"JOBS_DIR {self.path}: another run is at work there; wait for it, or copy the jobs elsewhere") from None
        except OSError:
            return  # a file system without such locks: nobody can tell whose temporary files are there
        for name in os.listdir(self._descriptor):
            if name.startswith(TEMPORARY_PREFIX) and name.endswith(TEMPORARY_SUFFIX):
                with contextlib.suppress(OSError):  # it hinders nobody
                    os.unlink(name, dir_fd=self._descriptor)

    def jobs(self) -> list[str]:
        """The paths of its jobs, sorted by name. As a shell's ``*.job``: none that begins with a dot."""
        names = [os.fsencode(name) for name in os.listdir(self._descriptor) if name.endswith(JOB_SUFFIX) and not name.startswith(".")]
        return [os.path.join(self.path, os.fsdecode(name)) for name in sorted(names)]

    def close(self) -> None:
        """Let others have it, once the children are gone. Idempotent; in a forked child too."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def __enter__(self) -> JobDirectory:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()
