"""The process that serves sessions over named pipes: a companion of a daemon, or a child of the job runner.

    registration pipe --> RegistrationReader --> Opening (pipes, both sides) --> a place --> Session --> closed
                                                                                               |
                                             table's feed --> Hub --- what changed of its keys -+

One loop serves all and waits for nobody. Registrations stay in their pipe, in their order, as long as there is no place for them. A client
that does not open its side of a pipe, such as one that died while it waited, takes no place from others until it does.
"""

from __future__ import annotations

import logging
import os
import signal
import time
from types import FrameType

from memcache_shm.client.keyfeed import listen_to_keys
from memcache_shm.client.local import attach_local
from memcache_shm.errors import BusyError, MemcacheError
from memcache_shm.ops.bell import silence
from memcache_shm.ops.descriptor_loop import READ, DescriptorLoop
from memcache_shm.ops.pipe_hub import Hub
from memcache_shm.ops.pipe_messages import BadMessage, RegistrationReader
from memcache_shm.ops.pipe_opening import Opening
from memcache_shm.ops.pipe_session import Session
from memcache_shm.ops.registration_pipe import RegistrationPipe
from memcache_shm.ops.remarks import Remarks
from memcache_shm.server.children import EXIT_FAILED

log = logging.getLogger(__name__)

#: Clients whose pipes are half open, besides those that have a place.
_OPENINGS_MOST = 64
#: The rest of a registration message.
_REST_LIMIT_S = 2.0
_MESSAGES_A_TURN = 64
_RESTLESS_S = 0.01
_PATH_EVERY_S = 2.0
_NEVER = float("inf")


def serve_pipes(name: str, path: str, sessions: int, reclaims: bool) -> int:
    """The life of a process that serves up to `sessions` sessions at a time with the table `name`, on the registration pipe `path`, which
    is made anew whenever it is not there. It goes on until SystemExit, which a signal's handler may raise; SIGUSR1 ends all sessions.
    `reclaims`: nobody else sweeps the table.

    Returns the exit status of a failure. Raises as `attach`.
    """
    try:
        host = Host(name, path, sessions, reclaims)
    except MemcacheError as error:
        log.error("no sessions over named pipes: %s", error)
        return EXIT_FAILED
    try:
        return host.run()
    finally:
        host.close()


class Host:
    """All sessions of one registration pipe."""

    def __init__(self, name: str, path: str, sessions: int, reclaims: bool) -> None:
        self._most = sessions
        self._table = attach_local(name)
        self._check_feed()
        self._path_s = time.monotonic() + _PATH_EVERY_S
        self._registrations = RegistrationPipe(path)
        self._remarks = Remarks(log)
        self._loop = DescriptorLoop()
        self._bell = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._wake, self._wake_writer = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._hub = Hub(self._table, self._bell, reclaims, self._remarks)
        self._reader = RegistrationReader()
        self._rest_s = _NEVER  # until when the rest of a registration has to come
        self._openings: list[Opening] = []  # in the order of their registrations
        self._sessions: list[Session] = []
        self._asked_to_end = False

    def _check_feed(self) -> None:
        """Without a feed there is nothing to be told. FeedOffError, ReadOnlyError."""
        feed = listen_to_keys(self._table)
        try:
            feed.poll()
        except BusyError:
            log.debug("a shard is locked, which the first session will find out")
        finally:
            feed.close()

    def run(self) -> int:
        """Until SystemExit."""
        self._loop.watch(self._wake, READ, lambda events: _drain(self._wake))
        self._loop.watch(self._bell, READ, self._on_bell)
        previous_wake = signal.set_wakeup_fd(self._wake_writer, warn_on_full_buffer=False)
        previous = signal.signal(signal.SIGUSR1, self._note)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGUSR1})
        try:
            while True:
                self._listen()
                self._loop.run(self._pause_s())
                if self._asked_to_end:
                    self._asked_to_end = False
                    self._end_all()
                self._look(time.monotonic())
        finally:
            signal.signal(signal.SIGUSR1, previous)
            signal.set_wakeup_fd(previous_wake)

    def close(self) -> None:
        """Close everything; the clients read the end of their pipes."""
        for session in self._sessions:
            session.end()
        for opening in self._openings:
            opening.close()
        self._hub.close()
        self._loop.close()
        self._registrations.close()
        for descriptor in (self._bell, self._wake, self._wake_writer):
            os.close(descriptor)
        self._table.close()

    def _note(self, number: int, frame: FrameType | None) -> None:
        self._asked_to_end = True

    def _on_bell(self, events: int) -> None:
        silence(self._bell)
        self._hub.hear()

    def _end_all(self) -> None:
        """SIGUSR1. Who waits for a place gets one now."""
        log.warning("SIGUSR1: %d pipe session%s ended", len(self._sessions), "s" * (len(self._sessions) != 1))
        for session in self._sessions:
            session.end()

    # By the clock

    def _pause_s(self) -> float:
        now_s = time.monotonic()
        due_s = min(self._rest_s, self._hub.due_s, *(session.due_s for session in self._sessions), self._path_s)
        due_s = min(due_s, *(opening.due_s for opening in self._openings if not opening.is_ready), due_s)
        if any(session.is_restless for session in self._sessions):
            due_s = min(due_s, now_s + _RESTLESS_S)
        return max(0.0, due_s - now_s)

    def _look(self, now_s: float) -> None:
        """What is due, and who can have a place."""
        self._hub.look(now_s)
        for session in self._sessions:
            session.look(now_s)
        self._bury()
        if now_s >= self._rest_s:
            self._rest_s = _NEVER
            self._remark_registration(self._reader.give_up())
        for opening in self._openings:
            if opening.due_s <= now_s and not opening.is_ready:
                opening.attempt(now_s)
        self._admit(now_s)
        if now_s >= self._path_s:
            self._path_s = now_s + _PATH_EVERY_S
            self._look_after_path()

    def _look_after_path(self) -> None:
        """It may have been removed, and be another one after this."""
        self._loop.forget(self._registrations.descriptor)  # as is to be done before it is closed; `_listen` watches it
        if self._registrations.look():
            self._reader = RegistrationReader()

    def _bury(self) -> None:
        """Take those away that are over."""
        for session in self._sessions:
            if session.over:
                if session.reason:
                    self._remarks.say(f"pipe session of {session.name}: {session.reason}; ended")
                else:
                    log.info("pipe session of %s ended", session.name)
        self._sessions = [session for session in self._sessions if not session.over]

    def _admit(self, now_s: float) -> None:
        """Give places to those whose pipes are open, and send away who cannot be served."""
        waiting: list[Opening] = []
        for opening in self._openings:
            if opening.is_hopeless:
                self._remarks.say(f"pipe session of {opening.name}: {opening.problem}; refused")
                opening.refuse()
            elif opening.is_ready and len(self._sessions) < self._most:
                log.info("pipe session of %s begins", opening.name)
                self._sessions.append(Session(opening, self._hub, self._loop, now_s))
            else:
                waiting.append(opening)
        self._openings = waiting

    # Registrations

    def _has_room(self) -> bool:
        """Whether another registration may be read. Those who have opened their pipes and wait count as if they had their place."""
        ready = sum(opening.is_ready for opening in self._openings)
        return len(self._sessions) + ready < self._most and len(self._openings) - ready < _OPENINGS_MOST

    def _listen(self) -> None:
        """To the registration pipe, while there is room."""
        if not self._has_room() or self._registrations.descriptor < 0:
            self._loop.forget(self._registrations.descriptor)
            self._rest_s = _NEVER
            return
        self._loop.watch(self._registrations.descriptor, READ, self._on_registrations)
        if not self._reader.begun:
            self._rest_s = _NEVER
        elif self._rest_s == _NEVER:
            self._rest_s = time.monotonic() + _REST_LIMIT_S

    def _on_registrations(self, events: int) -> None:
        for _ in range(_MESSAGES_A_TURN):
            try:
                registration = self._reader.take()
            except BadMessage as problem:
                self._remark_registration(problem)
                continue
            if registration is not None:
                self._rest_s = _NEVER
                self._openings.append(Opening(registration, self._is_in_use, time.monotonic()))
                if not self._has_room():
                    return
                continue
            try:
                self._reader.feed(os.read(self._registrations.descriptor, self._reader.wanted))
            except BlockingIOError:
                return

    def _remark_registration(self, problem: BadMessage) -> None:
        self._remarks.say(f"registration pipe: {problem}")

    def _is_in_use(self, identity: tuple[int, int]) -> bool:
        return (
            identity == self._registrations.identity
            or any(identity in session.identities for session in self._sessions)
            or any(identity in opening.identities for opening in self._openings)
        )


def _drain(descriptor: int) -> None:
    try:
        while os.read(descriptor, 512):
            continue
    except BlockingIOError:
        return
