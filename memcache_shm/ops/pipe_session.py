"""One client's session over its three pipes: requests in, answers and notifications out, nothing ever waited for.

Requests are read only while the answers are taken, so a client that does not read its answers is not heard. Notifications that it does not
take wait here by their keys: the newest value of each, so there are never more than it has keys, but for those that have gone.
"""

from __future__ import annotations

import contextlib
import os
import time
from typing import Protocol

from memcache_shm.errors import BusyError
from memcache_shm.ops.descriptor_loop import BROKEN, ENDED, READ, WRITE, DescriptorLoop
from memcache_shm.ops.pipe_messages import (
    CONNECT,
    DISCONNECT,
    DONE,
    IS_SUBSCRIBED,
    NO_SUCH_KEY,
    NOT_SUBSCRIBED,
    SUBSCRIBE,
    WAS_SUBSCRIBED,
    BadMessage,
    Request,
    encode_answer,
    encode_notification,
    take_request,
)
from memcache_shm.ops.pipe_opening import Opening

#: How long the rest of a message may take, and the last answer.
REST_LIMIT_S = 5.0
#: Notifications that wait; who lets more of them wait reads none.
BACKLOG_MOST = 8192
_READ_BYTES = 1024
_NEVER = float("inf")


class Subscriptions(Protocol):
    """Who hears of which keys."""

    def subscribe(self, who: Session, key: bytes) -> bool:
        """Whether the key is there, and is subscribed. BusyError: that cannot be said yet, ask again."""

    def unsubscribe(self, who: Session, key: bytes) -> bool:
        """Whether it was subscribed."""

    def leave(self, who: Session) -> None:
        """End all of them."""


class Session:
    """From the answer to `connect` on. `over` is set at its end, and `reason` says why if that is not by `disconnect` or from here."""

    def __init__(self, opening: Opening, subscriptions: Subscriptions, loop: DescriptorLoop, now_s: float) -> None:
        self.name = opening.name
        self.identities = opening.identities
        self.over = False
        self.reason = ""
        self.keys: set[bytes] = set()  # that it has subscribed; kept by `subscriptions`
        self._opening = opening
        self._subscriptions = subscriptions
        self._loop = loop
        self._input = bytearray()
        self._waiting: Request | None = None  # a request that could not be done yet
        self._answer = b""  # that was not taken yet
        self._leaving = False  # after the answer the session ends
        self._limit_s = _NEVER  # of the rest of a message, or of the last answer
        self._backlog: dict[tuple[bytes, bool], bytes] = {}  # by key, and whether it is gone: whole notifications
        self._notifies = opening.notifications >= 0  # its notification pipe is watched
        opening.begin(now_s)
        loop.watch(opening.requests, READ, self._on_requests)
        loop.watch(opening.responses, 0, self._on_responses)
        if self._notifies:
            loop.watch(opening.notifications, 0, self._on_notifications)
        self._say(CONNECT, DONE)

    @property
    def is_restless(self) -> bool:
        """Whether `look` is to be called soon again."""
        return self._waiting is not None or not self._notifies

    @property
    def due_s(self) -> float:
        """When `look` is to be called at the latest."""
        return self._limit_s

    def look(self, now_s: float) -> None:
        """What is done by the clock."""
        if not self._notifies and not self.over:
            self._open_notifications(now_s)
        if self._waiting is not None and not self.over:
            self._work()
        if not self.over and now_s >= self._limit_s:
            what = "did not take its last answer" if self._leaving else "sent a part of a message only"
            self.end(f"{what} within {REST_LIMIT_S:.0f} s")

    def notify(self, key: bytes, value: bytes | None) -> None:
        """Tell a value, None when the key is gone; `flush` sends it."""
        gone = value is None
        if gone:
            self._backlog.pop((key, False), None)
        self._backlog[key, gone] = encode_notification(key, value)

    def flush(self) -> None:
        """Send what it takes of what waits."""
        if self.over:
            return
        try:
            while self._notifies and self._backlog:
                entry = next(iter(self._backlog))
                os.write(self._opening.notifications, self._backlog[entry])
                del self._backlog[entry]
        except BlockingIOError:
            self._loop.watch(self._opening.notifications, WRITE, self._on_notifications)
        except OSError:
            self._part("its notifications have no reader any more")
            return
        else:
            if self._notifies:
                self._loop.watch(self._opening.notifications, 0, self._on_notifications)
        if len(self._backlog) > BACKLOG_MOST:
            self.end(f"more than {BACKLOG_MOST} notifications wait that it does not read")

    def _open_notifications(self, now_s: float) -> None:
        opening = self._opening
        if now_s >= opening.due_s:
            opening.attempt(now_s)
        if opening.problem is not None:
            self.end(opening.problem)
        elif opening.is_complete:
            self._notifies = True
            self.flush()

    def end(self, reason: str = "") -> None:
        """Close all; a reason is one for the log."""
        if self.over:
            return
        self.over = True
        self.reason = reason
        self._subscriptions.leave(self)
        for descriptor in (self._opening.requests, self._opening.responses, self._opening.notifications):
            self._loop.forget(descriptor)
        self._opening.close()

    # Events

    def _on_requests(self, events: int) -> None:
        try:
            data = os.read(self._opening.requests, _READ_BYTES)
        except BlockingIOError:
            return
        except OSError as error:
            self.end(f"its requests cannot be read: {error.strerror}")
            return
        if not data and events & ENDED:
            self.end("it is gone without disconnect" if not self._input else "it is gone amid a message")
            return
        self._input += data
        self._work()

    def _on_responses(self, events: int) -> None:
        if events & BROKEN:
            self._part("its responses have no reader any more")
        elif self._answer and self._send_answer():
            self._work()

    def _on_notifications(self, events: int) -> None:
        if events & BROKEN:
            self._part("its notifications have no reader any more")
        else:
            self.flush()

    def _part(self, reason: str) -> None:
        """It has closed a pipe: one that sent `disconnect` just before did well."""
        with contextlib.suppress(OSError):  # BlockingIOError, as a rule: there was nothing more
            self._input += os.read(self._opening.requests, _READ_BYTES)
        with contextlib.suppress(BadMessage):
            while (request := take_request(self._input)) is not None:
                self._leaving |= request.code == DISCONNECT
        self.end("" if self._leaving else reason)

    # Requests

    def _work(self) -> None:
        """Do what was asked, as long as the answers are taken."""
        while not self.over and not self._answer and not self._leaving:
            request = self._waiting
            if request is None:
                try:
                    request = take_request(self._input)
                except BadMessage as problem:
                    self.end(f"a bad message: {problem}")
                    return
            if request is None:
                break
            self._do(request)
            if self._waiting is not None:
                break
        self._settle()

    def _settle(self) -> None:
        """After a look at the requests: whether more are read, and until when something has to come."""
        if self.over:
            return
        if self._waiting is not None or self._answer:
            self._loop.forget(self._opening.requests)
            if not self._leaving:
                self._limit_s = _NEVER
        else:
            self._loop.watch(self._opening.requests, READ, self._on_requests)
            self._limit_s = time.monotonic() + REST_LIMIT_S if self._input else _NEVER

    def _do(self, request: Request) -> None:
        code, key = request
        self._waiting = None
        if code == DISCONNECT:
            self._leaving = True
            self._limit_s = time.monotonic() + REST_LIMIT_S
            self._say(code, DONE)
        elif code == SUBSCRIBE:
            try:
                self._say(code, IS_SUBSCRIBED if self._subscriptions.subscribe(self, key) else NO_SUCH_KEY)
            except BusyError:
                self._waiting = request
        else:
            was = self._subscriptions.unsubscribe(self, key)
            self._backlog.pop((key, False), None)
            self._say(code, WAS_SUBSCRIBED if was else NOT_SUBSCRIBED)

    def _say(self, code: int, result: int) -> None:
        if self.over:
            return
        self._answer = encode_answer(code, result)
        self._send_answer()

    def _send_answer(self) -> bool:
        """Whether it was taken; the session goes on."""
        try:
            os.write(self._opening.responses, self._answer)
        except BlockingIOError:
            self._loop.watch(self._opening.responses, WRITE, self._on_responses)
            return False
        except OSError:
            self._part("its responses have no reader any more")
            return False
        self._answer = b""
        self._loop.watch(self._opening.responses, 0, self._on_responses)
        if self._leaving:
            self.flush()
            self.end()
        return not self.over
