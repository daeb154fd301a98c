"""The command `backup`: a process of its own writes the file, while its client waits aside and the worker serves the others.

The process is started by the worker, one at a time, and ends with it: it asks the kernel for a signal at its parent's death. It prints one
line on standard output, and has no other descriptor of the daemon's than standard error.
"""

from __future__ import annotations

import logging
import os
import subprocess

from memcache_shm.server.config import ServerConfig

log = logging.getLogger(__name__)

_LINE_MOST = 1000  # bytes of what a client is told
_TO_CLEAN_UP_S = 0.5  # after SIGTERM

_NOT_HERE = b"CLIENT_ERROR backup is for clients of the UNIX socket only\r\n"
_BUSY = b"SERVER_ERROR busy: a backup is running, try again later\r\n"


class Backup:
    """One that is running, or has just ended."""

    def __init__(self, process: subprocess.Popen[bytes], file: str) -> None:
        self._process = process
        self._file = file

    def reply(self) -> bytes | None:
        """What to tell the client; None as long as it runs."""
        status = self._process.poll()
        if status is None:
            return None
        line = self._read_line()
        if status == 0:
            return line + b"\r\n"
        log.warning("backup to %s failed (%s): %s", self._file, _how(status), line.decode(errors="replace"))
        return b"SERVER_ERROR " + (line or b"backup failed: %b" % _how(status).encode()) + b"\r\n"

    def _read_line(self) -> bytes:
        """What it has printed; it has ended, so that all of it is in the pipe."""
        assert self._process.stdout is not None
        with self._process.stdout as stream:
            line = stream.read(_LINE_MOST).partition(b"\n")[0]
        return bytes(byte if byte >= 32 else ord("?") for byte in line)

    def end(self) -> None:
        """Nobody waits for it any more: the worker leaves. It is reaped, and no half file is left."""
        if self._process.poll() is None:
            self._process.terminate()
            try:
                self._process.wait(_TO_CLEAN_UP_S)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        assert self._process.stdout is not None
        self._process.stdout.close()


class Backups:
    """Starts them for one worker."""

    def __init__(self, config: ServerConfig) -> None:
        self._directory = config.backup_dir
        self._command = [*config.backup_command, str(os.getpid()), self._directory]
        self._is_local = [bool(listener.address.path) for listener in config.listeners]
        self._running: Backup | None = None

    def start(self, file: bytes, listener: int) -> Backup | bytes:
        """A backup to `file` for a client that came by that listener; or the reply that refuses it."""
        if not self._is_local[listener]:
            return _NOT_HERE
        if self._running is not None:
            return _BUSY
        name = file.decode("ascii")
        try:
            process = subprocess.Popen([*self._command, name], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE)
        except OSError as error:
            log.warning("cannot start a backup to %s: %s", name, error.strerror)
            return b"SERVER_ERROR cannot start a backup: %b\r\n" % os.strerror(error.errno or 0).encode()
        self._running = Backup(process, os.path.join(self._directory, name))
        return self._running

    def forget(self, backup: Backup) -> None:
        """It is over: another may be started. Reaps it when it still runs."""
        backup.end()
        self._running = None


def _how(status: int) -> str:
    return f"exit status {status}" if status >= 0 else f"killed by signal {-status}"
