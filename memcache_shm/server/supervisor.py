"""The supervisor: parent of the workers, and of companions. It accepts, hands over, reaps and refills; it reads no client byte.

    supervisor --- accept4 --> descriptor --- SCM_RIGHTS over a socketpair ---> worker 0 .. N-1
        |  one main loop: accept until something is noted, act on it                |  one epoll loop each
        +------ fork, SIGCHLD, waitpid ---------------------------------------------+

A signal handler only notes the signal; `_act` does what it asks for. A graceful stop ends the links: each worker answers what
it has read, closes its connections and leaves.

By the clock it looks after four things: workers without a sign of life (`watchdog`), descriptors, the space of dead items (2 ms a tenth
of a second while there are some), and whether the table's objects still exist. When somebody removed them it makes another table of the
same name and geometry (empty, or with the items that were saved last), writes its ids into the shared figures and pokes the workers; each
attaches it between two rounds of its loop.
So no connection is lost, while a drain and new workers would cost all of them. In between, requests to the removed table read an error.
"""

from __future__ import annotations

import logging
import math
import os
import select
import signal
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from types import FrameType
from typing import NoReturn

from memcache_shm.errors import MemcacheError
from memcache_shm.server import children
from memcache_shm.server.acceptor import Acceptor
from memcache_shm.server.children import EXIT_FAILED, EXIT_OK, HANDLED
from memcache_shm.server.companions import Companions
from memcache_shm.server.config import ServerConfig
from memcache_shm.server.counters import Counters
from memcache_shm.server.crew import Crew, WorkerBootError
from memcache_shm.server.descriptors import DescriptorWatch
from memcache_shm.server.environs import leave_streams, stay_in_memory
from memcache_shm.server.outage import Outage
from memcache_shm.server.stats import forget_table
from memcache_shm.server.watchdog import Watchdog
from memcache_shm.server.worker import run_worker

log = logging.getLogger(__name__)

#: How often the table and the descriptors are looked after.
_LOOK_EVERY_S = 1.0
#: How long dead items are swept out, and how soon again while some are left.
_RECLAIM_S = 0.002
_RECLAIM_EVERY_S = 0.1
#: What a worker needs besides its drain time, before it is killed at a stop.
_STOP_GRACE_S = 1.0


def serve(config: ServerConfig) -> int:
    """Fork the workers and serve until SIGINT or SIGTERM. Returns the exit status; no child is left."""
    return Supervisor(config).run()


class Supervisor:
    """One daemon's parent process."""

    def __init__(self, config: ServerConfig) -> None:
        self._config = config
        self._counters = Counters(
            config.workers,
            max_connections=config.max_connections,
            listeners=len(config.listeners),
            delimiter=config.prefix_delimiter,
        )
        self._counters.verbosity = config.verbosity
        self._counters.events.detail = config.detail
        self._counters.events.sizes = config.track_sizes
        self._wake, self._wake_writer = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._stop_signals = self._stops_heeded = 0
        self._child_ended = False
        self._hung_up = False
        self._user_signal = False
        listeners = [listener.fileno() for listener in config.listeners]
        self._acceptor = Acceptor(self._counters, listeners, self._wake, config.max_connections, config.maxconns_fast)
        self._crew = Crew(self._counters, self._acceptor, self._work)
        self._companions = Companions(config.companions, self._forget_all_in_child)
        self._watchdog = Watchdog(self._counters, self._acceptor, self._crew, config.stuck_s)
        self._descriptors = DescriptorWatch(self._counters)
        self._table_outage = Outage()
        self._look_s = self._reclaim_s = time.monotonic() + _LOOK_EVERY_S
        self._pid = os.getpid()
        self._started = False

    def run(self) -> int:
        """The life of the daemon; see ``serve``."""
        if self._config.lock_memory:
            stay_in_memory(logging.WARNING)
        status = EXIT_OK
        with self._handled_signals():
            try:
                self._serve()
            except WorkerBootError as error:
                log.error("%s", error)
                status = EXIT_FAILED
            else:
                self._config.on_end(self._is_urged)
            finally:
                os.close(self._wake)
                os.close(self._wake_writer)
        return status

    def _serve(self) -> None:
        """Until a stop is asked for, and done. Raises WorkerBootError, when nobody is left either."""
        try:
            while not self._stop_signals:
                self._crew.fill()
                if self._started:
                    self._companions.fill()
                self._acceptor.run(self._pause_ms())
                self._act()
                self._look_after()
        finally:
            self._stop()

    def _is_urged(self) -> bool:
        """Whether another signal has come since the stop was begun."""
        return self._stop_signals > self._stops_heeded

    def _work(self, which: int, link: socket.socket) -> NoReturn:
        """The life of a forked child."""
        self._forget_in_child()
        run_worker(self._config, self._counters, which, link, self._pid)

    def _forget_in_child(self) -> None:
        """Close what belongs to the supervisor, so that links end and ports are free when it is gone."""
        signal.set_wakeup_fd(-1)
        for listener in self._config.listeners:
            listener.close()
        for link in self._crew.links:
            link.close()
        os.close(self._wake)
        os.close(self._wake_writer)

    def _forget_all_in_child(self) -> None:
        """The same in one that needs the table no more than these: what it needs it opens for itself."""
        self._forget_in_child()
        self._config.table.close()

    def _note(self, number: int, frame: FrameType | None) -> None:
        if number == signal.SIGCHLD:
            self._child_ended = True
        elif number == signal.SIGHUP:
            self._hung_up = True
        elif number == signal.SIGUSR1:  # for sessions over named pipes; it ends no daemon
            self._user_signal = True
        else:
            self._stop_signals += 1

    def _pause_ms(self) -> int:
        """Until something is due, unless something is noted before."""
        due_s = min(self._look_s, self._reclaim_s, self._crew.due_s, self._watchdog.due_s)
        if self._started:
            due_s = min(due_s, self._companions.due_s)
        return max(0, math.ceil((due_s - time.monotonic()) * 1000))

    def _act(self) -> None:
        """Do what the noted signals ask for; a stop is asked for until the end."""
        self._drain_wake()
        if self._child_ended and not self._stop_signals:
            self._child_ended = False
            endings = list(children.reap())
            for companion in self._companions.reap(endings):
                self._sweep_after(companion)
            for death in self._crew.reap(endings):
                self._crew.judge(death)
                self._sweep_after(f"worker {death.which} (pid {death.pid})")
        if self._hung_up:
            self._hung_up = False
            self._reload()
        if self._user_signal:
            self._user_signal = False
            self._companions.pass_on_user_signal()

    def _reload(self) -> None:
        """SIGHUP: the files of users and certificates are read again, here for workers to come and by each worker between two rounds of
        its loop. What is wrong with them is said once, from here."""
        log.warning("SIGHUP: %s", "reading files again" if self._config.auth_file or self._config.tls else "no file to read again")
        self._config.credentials.reload(logging.WARNING)
        self._counters.ask_reload()
        for place in self._crew.living:
            self._crew.poke(place)

    def _drain_wake(self) -> None:
        try:
            while os.read(self._wake, 512):
                continue
        except BlockingIOError:
            return

    def _sweep_after(self, who: str) -> None:
        """Repair what a child left half done, rather than leave that to the next writer of the same shard."""
        repaired = self._config.table.sweep()
        if repaired:
            self._counters.note("shm_shards_swept", repaired)
            log.warning("%d shard%s repaired after %s", repaired, "s" * (repaired > 1), who)

    def _look_after(self) -> None:
        """What is done by the clock; and once, what is done when every worker serves."""
        now = time.monotonic()
        if not self._started and self._crew.is_complete:
            self._started = True
            self._crew.has_served()
            self._config.on_start([listener.address for listener in self._config.listeners])
            if self._config.leave_streams:
                leave_streams()
        if now >= self._watchdog.due_s:
            self._watchdog.look(now)
        if now >= self._reclaim_s:
            self._reclaim_s = now + (_RECLAIM_EVERY_S if self._config.table.reclaim(_RECLAIM_S) else _LOOK_EVERY_S)
        if now >= self._look_s:
            self._look_s = now + _LOOK_EVERY_S
            self._descriptors.look()
            if self._config.table.is_removed():
                self._renew_table()

    def _renew_table(self) -> None:
        """Segment or semaphores were removed from outside: make the table anew and tell the workers. No connection is lost."""
        old = self._config.table
        try:
            new = self._config.renew_table()
        except (MemcacheError, MemoryError, OSError) as error:
            why = str(error) or "out of memory"
            self._table_outage.goes_on(f"the table was removed from outside (segment {old.shmid}) and cannot be made anew: {why}")
            return
        self._config = replace(self._config, table=new)
        self._counters.note("shm_tables_renewed")
        forget_table(self._counters)
        self._counters.succeed(new.shmid, new.semid, new.uuid)
        for place in self._crew.living:
            self._crew.poke(place)
        has = f"a new one with {items} items" if (items := len(new)) else "an empty one"
        log.warning("the table was removed from outside (segment %d); %s took its place (segment %d)", old.shmid, has, new.shmid)
        self._table_outage.is_over("the table is back")

    def _stop(self) -> None:
        """No more connections; the workers finish and are reaped. A second signal, or the limit of time, kills them."""
        self._stops_heeded = self._stop_signals  # first: whoever sees that nobody listens may send the second
        for listener in self._config.listeners:
            listener.remove()
        self._crew.end_links()
        self._companions.end()
        deadline = time.monotonic() + self._config.drain_s + _STOP_GRACE_S
        while self._has_children():
            endings = list(children.reap())
            self._crew.reap(endings)
            self._companions.reap(endings)
            left = deadline - time.monotonic()
            if left <= 0 or self._is_urged():
                self._crew.kill_all()
                self._companions.kill_all()
            elif self._has_children():
                select.select([self._wake], [], [], left)
                self._drain_wake()

    def _has_children(self) -> bool:
        return any(self._crew.living) or any(self._companions.living)

    @contextmanager
    def _handled_signals(self) -> Iterator[None]:
        """Our handlers for the daemon's life, the caller's and its signal mask afterwards. What the caller held back comes now."""
        previous_wake = signal.set_wakeup_fd(self._wake_writer, warn_on_full_buffer=False)
        previous = {number: signal.signal(number, self._note) for number in HANDLED}
        mask = signal.pthread_sigmask(signal.SIG_UNBLOCK, HANDLED)
        try:
            yield
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
            signal.set_wakeup_fd(previous_wake)
            for number, handler in previous.items():
                signal.signal(number, handler)
