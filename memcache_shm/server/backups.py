"""The command `backup`: a child of the worker writes the file, while its client waits aside and the worker serves the others.

One at a time. The child is forked, so it has all that it needs: what the daemon's user may read from disk does not matter. It keeps none of
the worker's descriptors but the standard streams, sends one line through a pipe, and ends with the worker.
"""

from __future__ import annotations

import logging
import os
import signal
from collections.abc import Callable
from typing import NoReturn

from memcache_shm.server.children import EXIT_FAILED, EXIT_OK, Ending, fork
from memcache_shm.server.config import ServerConfig
from memcache_shm.server.loop import die_with_parent

log = logging.getLogger(__name__)

_LINE_MOST = 1000  # bytes of what a client is told, less than a pipe holds
_FIRST_DESCRIPTOR = 3  # behind the standard streams

_NOT_HERE = b"CLIENT_ERROR backup is for clients of the UNIX socket only\r\n"
_BUSY = b"SERVER_ERROR busy: a backup is running, try again later\r\n"


class Backup:
    """One that is running, or has just ended."""

    def __init__(self, pid: int, reader: int, file: str) -> None:
        self._pid = pid  # 0: reaped
        self._reader = reader
        self._file = file

    def reply(self) -> bytes | None:
        """What to tell the client; None as long as it runs."""
        ending = self._reap(os.WNOHANG)
        if ending is None:
            return None
        line = bytes(byte if byte >= ord(" ") else ord("?") for byte in os.read(self._reader, _LINE_MOST))
        if ending.status == EXIT_OK:
            return line + b"\r\n"
        log.warning("backup %s: the process that wrote it %s", self._file, ending.how)
        return f"SERVER_ERROR the process that wrote it {ending.how}\r\n".encode()

    def end(self) -> None:
        """Nobody waits for it any more. Where it still runs it is killed, which leaves no half file, and reaped."""
        if self._pid:
            os.kill(self._pid, signal.SIGKILL)
            self._reap(0)
        os.close(self._reader)

    def _reap(self, options: int) -> Ending | None:
        pid, status = os.waitpid(self._pid, options)
        if not pid:
            return None
        self._pid = 0
        return Ending(pid, status)


class Backups:
    """Starts them for one worker. `back_up` makes one of the table that the daemon serves; its result is the reply, and does not fail."""

    def __init__(self, config: ServerConfig, back_up: Callable[[str], str]) -> None:
        self._back_up = back_up
        self._is_local = [bool(listener.address.path) for listener in config.listeners]
        self._running: Backup | None = None

    def start(self, file: bytes, listener: int) -> Backup | bytes:
        """A backup to `file` for a client that came by that listener; or the reply that refuses it."""
        if not self._is_local[listener]:
            return _NOT_HERE
        if self._running is not None:
            return _BUSY
        name = file.decode("ascii")
        parent = os.getpid()
        reader, writer = os.pipe2(os.O_CLOEXEC)
        try:
            pid = fork(lambda: self._live(parent, writer, name))
        except OSError as error:
            os.close(reader)
            log.warning("cannot start a backup: %s", error.strerror)
            return f"SERVER_ERROR cannot start a backup: {error.strerror}\r\n".encode()
        finally:
            os.close(writer)
        self._running = Backup(pid, reader, name)
        return self._running

    def forget(self, backup: Backup) -> None:
        """Its client has its reply, or goes: another may be started."""
        self._running = None
        backup.end()

    def _live(self, parent: int, writer: int, file: str) -> NoReturn:
        """The life of the child, without the interpreter's cleanup at its end."""
        status = EXIT_FAILED
        try:
            die_with_parent(signal.SIGKILL)
            signal.set_wakeup_fd(-1)
            os.closerange(_FIRST_DESCRIPTOR, writer)
            os.closerange(writer + 1, os.sysconf("SC_OPEN_MAX"))
            _take_signals()
            if os.getppid() == parent:
                os.write(writer, self._back_up(file).encode(errors="replace")[:_LINE_MOST])
                status = EXIT_OK
        except Exception:
            log.exception("backup %s failed", file)
        finally:
            os._exit(status)


def _take_signals() -> None:
    """SIGINT and SIGHUP of a terminal reach the whole process group, and so may SIGUSR1: the supervisor decides about them."""
    for number in (signal.SIGINT, signal.SIGUSR1, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, set())
