"""A worker: the child of the supervisor that serves connections until its link ends.

Everything here runs after the fork. The worker inherits the table's mapping and the daemon's figures; it attaches nothing.
"""

from __future__ import annotations

import errno
import gc
import logging
import os
import signal
import socket
from types import FrameType
from typing import NoReturn

from memcache_shm.errors import MemcacheError, TableRemovedError
from memcache_shm.server.backups import Backups
from memcache_shm.server.buffers import Pool
from memcache_shm.server.children import EXIT_FAILED, EXIT_OK
from memcache_shm.server.config import ServerConfig
from memcache_shm.server.counters import Counters
from memcache_shm.server.environs import leave_streams, stay_in_memory
from memcache_shm.server.executor import Executor
from memcache_shm.server.guests import Guests
from memcache_shm.server.loop import WorkerLoop, die_with_parent
from memcache_shm.server.stats import StatsPrinter
from memcache_shm.server.transport import Transport
from memcache_shm.storage.table import Table

log = logging.getLogger(__name__)

#: So many of them fit into the buffers, whatever the limit.
_LARGEST_VALUES = 8
#: Descriptors or memory were short (EX_TEMPFAIL of sysexits.h): another try may do better.
EXIT_TRY_LATER = 75
_SHORT = (errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS, errno.ENOSPC)


def run_worker(config: ServerConfig, counters: Counters, which: int, link: socket.socket, parent: int) -> NoReturn:
    """Serve, then leave without the interpreter's cleanup: nothing of the parent's may be flushed or finalised twice."""
    status = EXIT_FAILED
    try:
        die_with_parent(signal.SIGKILL)
        if os.getppid() == parent:
            _serve(config, counters, which, link)
            status = EXIT_OK
    except OSError as error:
        log.error("worker %d (pid %d): %s", which, os.getpid(), error)
        status = EXIT_TRY_LATER if error.errno in _SHORT else EXIT_FAILED
    except Exception:
        log.exception("worker %d (pid %d) failed", which, os.getpid())
    finally:
        os._exit(status)


def _serve(config: ServerConfig, counters: Counters, which: int, link: socket.socket) -> None:
    stop = _stop_descriptor()
    stats = StatsPrinter(config, counters)
    executor = Executor(config, Pool(_buffer_bytes(config)), counters, which, stats)
    if config.back_up is not None:
        executor.backups = Backups(config, config.back_up)

    def renew_table() -> None:
        _renew_table(executor, stats, counters)

    def read_again() -> None:
        config.credentials.reload(logging.DEBUG)  # the supervisor says it louder

    transport = Transport(executor, config.credentials, [listener.tls for listener in config.listeners])
    guests = Guests(executor, config.credentials.admits if config.credentials.users is not None else None)
    loop = WorkerLoop(config, executor, transport, guests, link.fileno(), stop, renew_table, read_again)
    gc.freeze()
    if config.lock_memory:
        stay_in_memory()
    if config.leave_streams:
        leave_streams()
    loop.run()


def _buffer_bytes(config: ServerConfig) -> int:
    """What this worker's buffers may take: its part of the limit, but always enough for some of the largest values."""
    return max(config.buffer_limit_bytes // config.workers, _LARGEST_VALUES * config.table.max_value)


def _renew_table(executor: Executor, stats: StatsPrinter, counters: Counters) -> None:
    """Attach the table that the supervisor made in place of a removed one; connections go on. A worker that cannot is replaced."""
    old = stats.table
    try:
        new = Table.attach(*counters.successor())
    except TableRemovedError:
        return  # that one is gone as well: the supervisor will make yet another
    except (MemcacheError, OSError) as error:
        log.error("worker (pid %d) cannot attach the new table: %s", os.getpid(), error)
        os._exit(EXIT_TRY_LATER)
    executor.set_table(new)
    stats.table = new
    old.close()


def _stop_descriptor() -> int:
    """Becomes readable at SIGTERM. SIGINT and SIGHUP of a terminal reach the whole process group, and so may SIGUSR1: the supervisor
    decides about them."""
    readable, writable = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    signal.set_wakeup_fd(writable, warn_on_full_buffer=False)
    for number in (signal.SIGINT, signal.SIGUSR1, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    signal.signal(signal.SIGTERM, _note)
    signal.pthread_sigmask(signal.SIG_SETMASK, set())
    return readable


def _note(number: int, frame: FrameType | None) -> None:
    """The wake descriptor has told the loop already."""
