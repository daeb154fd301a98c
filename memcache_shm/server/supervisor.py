"""The supervisor: parent of the workers. It accepts, hands over, reaps and refills; it reads no client byte.

    supervisor --- accept4 --> descriptor --- SCM_RIGHTS over a socketpair ---> worker 0 .. N-1
        |  one main loop: accept until something is noted, act on it                |  one epoll loop each
        +------ fork, SIGCHLD, waitpid ---------------------------------------------+

A signal handler only notes the signal; `_act` does what it asks for. A graceful stop ends the channels: each worker answers what
it has read, closes its connections and leaves.
"""

from __future__ import annotations

import logging
import os
import resource
import select
import signal
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from memcache_shm.server.acceptor import Acceptor
from memcache_shm.server.config import ServerConfig
from memcache_shm.server.counters import Counters
from memcache_shm.server.worker import run_worker

log = logging.getLogger(__name__)

EXIT_OK = 0
EXIT_FAILED = 1

_HANDLED = (signal.SIGINT, signal.SIGTERM, signal.SIGCHLD)
#: Workers that die before they reach their loop, one after the other, mean that another try is useless.
_BOOT_DEATHS_MAX = 3
#: Descriptors of a process besides its connections: listeners, channels, pipes, standard streams, the interpreter's own.
_OTHER_DESCRIPTORS = 128
#: What a worker needs besides its drain time, before it is killed at a stop.
_STOP_GRACE_S = 1.0


class WorkerBootError(Exception):
    """Workers die before they serve."""


def serve(config: ServerConfig) -> int:
    """Fork the workers and serve until SIGINT or SIGTERM. Returns the exit status; no child is left."""
    return Supervisor(config).run()


class Supervisor:
    """One daemon's parent process."""

    def __init__(self, config: ServerConfig) -> None:
        self._config = config
        self._counters = Counters(config.workers)
        self._counters.verbosity = config.verbosity
        self._wake, self._wake_writer = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._noted: list[int] = []
        self._pids: dict[int, int] = {}
        self._channels: dict[int, socket.socket] = {}
        self._boot_deaths = 0
        listeners = [listener.fileno() for listener in config.listeners]
        self._acceptor = Acceptor(self._counters, listeners, self._wake, config.max_connections)

    def run(self) -> int:
        """The life of the daemon; see ``serve``."""
        _raise_descriptor_limit(self._config.max_connections)
        status = EXIT_OK
        with self._handled_signals():
            try:
                self._boot()
                while not self._stop_asked():
                    self._acceptor.run()
                    self._act()
            except WorkerBootError as error:
                log.error("%s", error)
                status = EXIT_FAILED
            finally:
                self._stop()
        return status

    def _boot(self) -> None:
        """Fork all workers before any connection comes, and wait until each serves."""
        for which in range(self._config.workers):
            self._spawn(which)
        while not self._stop_asked() and not all(map(self._counters.is_up, range(self._config.workers))):
            select.select([self._wake, *(channel.fileno() for channel in self._channels.values())], [], [], 0.05)
            self._act()
        if not self._stop_asked():
            self._config.on_start([listener.address for listener in self._config.listeners])

    def _spawn(self, which: int) -> None:
        """Fork one worker into its place. Signals wait meanwhile: the child must not write into our wake pipe."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._counters.begin(which)
        parent = os.getpid()
        sys.stderr.flush()
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, _HANDLED)
        pid = os.fork()
        if pid == 0:
            ours.close()
            self._forget_in_child()
            run_worker(self._config, self._counters, which, theirs, parent)
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        theirs.close()
        self._pids[pid] = which
        self._channels[which] = ours
        self._counters.set_pid(which, pid)
        self._acceptor.set_channel(which, ours.fileno())

    def _forget_in_child(self) -> None:
        """Close what belongs to the supervisor, so that channels end and ports are free when it is gone."""
        signal.set_wakeup_fd(-1)
        for listener in self._config.listeners:
            listener.close()
        for channel in self._channels.values():
            channel.close()
        os.close(self._wake)
        os.close(self._wake_writer)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self._noted.append(number)

    def _stop_asked(self) -> bool:
        return signal.SIGINT in self._noted or signal.SIGTERM in self._noted

    def _act(self) -> None:
        """Do what the noted signals ask for; stop signals stay noted."""
        self._drain_wake()
        if signal.SIGCHLD in self._noted:
            self._noted = [number for number in self._noted if number != signal.SIGCHLD]
            for which, status in self._reap():
                if not self._stop_asked():
                    self._refill(which, status)

    def _drain_wake(self) -> None:
        try:
            while os.read(self._wake, 512):
                continue
        except BlockingIOError:
            return

    def _reap(self) -> list[tuple[int, int]]:
        """The places of the workers that ended, with their wait status."""
        ended = []
        while self._pids:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if pid == 0:
                break
            if pid in self._pids:
                which = self._pids.pop(pid)
                self._acceptor.set_channel(which, -1)
                self._channels.pop(which).close()
                ended.append((which, status))
        return ended

    def _refill(self, which: int, status: int) -> None:
        """Raises WorkerBootError at the third death in a row before a worker served."""
        self._boot_deaths = 0 if self._counters.is_up(which) else self._boot_deaths + 1
        if self._boot_deaths >= _BOOT_DEATHS_MAX:
            raise WorkerBootError(f"{self._boot_deaths} workers in a row ended before they served, the last {_how(status)}")
        log.warning("worker %d ended, %s; starting another", which, _how(status))
        self._spawn(which)

    def _stop(self) -> None:
        """No more connections; the workers finish and are reaped. A second signal, or the limit of time, kills them."""
        for listener in self._config.listeners:
            listener.remove()
        asked = len(self._noted)
        for channel in self._channels.values():
            channel.shutdown(socket.SHUT_WR)
        deadline = time.monotonic() + self._config.drain_s + _STOP_GRACE_S
        while self._pids:
            self._reap()
            left = deadline - time.monotonic()
            again = [number for number in self._noted[asked:] if number != signal.SIGCHLD]
            if self._pids and (left <= 0 or again):
                self._kill_workers()
            elif self._pids:
                select.select([self._wake], [], [], left)
                self._drain_wake()
        os.close(self._wake)
        os.close(self._wake_writer)

    def _kill_workers(self) -> None:
        """They are ours and not yet reaped, so the pids are still theirs."""
        for pid in self._pids:
            os.kill(pid, signal.SIGKILL)
        for pid in list(self._pids):
            os.waitpid(pid, 0)
            self._channels.pop(self._pids.pop(pid)).close()

    @contextmanager
    def _handled_signals(self) -> Iterator[None]:
        """Our handlers for the daemon's life, the caller's and its signal mask afterwards. What the caller held back comes now."""
        previous_wake = signal.set_wakeup_fd(self._wake_writer, warn_on_full_buffer=False)
        previous = {number: signal.signal(number, self._note) for number in _HANDLED}
        mask = signal.pthread_sigmask(signal.SIG_UNBLOCK, _HANDLED)
        try:
            yield
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
            signal.set_wakeup_fd(previous_wake)
            for number, handler in previous.items():
                signal.signal(number, handler)


def _how(status: int) -> str:
    """A wait status in words."""
    code = os.waitstatus_to_exitcode(status)
    return f"killed by {signal.Signals(-code).name}" if code < 0 else f"exit status {code}"


def _raise_descriptor_limit(connections: int) -> None:
    """Any worker may come to hold every connection, when the others die."""
    wanted = connections + _OTHER_DESCRIPTORS
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft >= wanted or soft == resource.RLIM_INFINITY:
        return
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, max(wanted, hard) if hard != resource.RLIM_INFINITY else hard))
    except (ValueError, PermissionError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        log.warning("only %d descriptors allowed, %d wanted for %d connections", hard, wanted, connections)
