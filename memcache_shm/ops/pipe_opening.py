"""A client that has registered, and whose pipes are opened: one side by us, the other by it, in any order, neither waiting for the other.

The reading side of the requests opens at once, which lets a client go on that waits there; the writing sides open as soon as the client has
opened its own. Who has died meanwhile never does: it costs a few descriptors for some seconds.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable

from memcache_shm.ops.pipe_messages import CONNECT, REFUSED, Registration, encode_answer
from memcache_shm.ops.pipe_paths import BadPipe, Pipe, find_pipe, shown_path

#: How long a client may take to open its side of a pipe.
OPEN_LIMIT_S = 5.0
_RETRY_FIRST_S = 0.001
_RETRY_MOST_S = 0.05

InUse = Callable[[tuple[int, int]], bool]  # whether a pipe is another session's, or the registration pipe itself


class Opening:
    """The pipes of one client. `problem` says why they are no use; then only the responses are opened, to say so."""

    def __init__(self, registration: Registration, in_use: InUse, now_s: float) -> None:
        self.name = shown_path(registration.requests)
        self.problem: str | None = None
        self.requests = -1
        self.responses = -1
        self.notifications = -1
        self.due_s = now_s
        self._limit_s = now_s + OPEN_LIMIT_S
        self._retry_s = _RETRY_FIRST_S
        self._pipes: list[Pipe | None] = [self._find(path) for path in registration]
        found = [pipe for pipe in self._pipes if pipe is not None]
        self.identities = frozenset(pipe.identity for pipe in found)
        if self.problem is None:
            self._judge(found, in_use)
        if any(in_use(identity) for identity in self.identities):
            self._let_go()  # not even to say so: it would be read by somebody else

    def _find(self, path: bytes) -> Pipe | None:
        try:
            return find_pipe(path)
        except BadPipe as problem:
            self.problem = self.problem or str(problem)
            return None

    def _judge(self, found: list[Pipe], in_use: InUse) -> None:
        if len(self.identities) < len(found):
            self.problem = "two of its pipes are the same"
        elif len({pipe.owner for pipe in found}) > 1:
            self.problem = "its pipes are not all of one owner"
        elif any(in_use(identity) for identity in self.identities):
            self.problem = "one of its pipes is in use already"

    @property
    def is_ready(self) -> bool:
        """Whether a session can begin. The notifications may still be missing: some clients open them after the answer to `connect`."""
        return self.problem is None and self.requests >= 0 and self.responses >= 0

    @property
    def is_hopeless(self) -> bool:
        """Whether nothing can come of it but that it is said."""
        return self.problem is not None and (self.responses >= 0 or self._pipes[1] is None)

    def attempt(self, now_s: float) -> None:
        """Open what can be opened by now; `due_s` is when to try the next time."""
        if self.problem is None:
            self.requests = self._open(self.requests, 0, Pipe.open_to_read)
            self.notifications = self._open(self.notifications, 2, Pipe.open_to_write)
        self.responses = self._open(self.responses, 1, Pipe.open_to_write)
        if now_s >= self._limit_s and self.problem is None and not self.is_complete:
            self.problem = f"it did not open its side of a pipe within {OPEN_LIMIT_S:.0f} s"
        if self.is_complete or (now_s >= self._limit_s and self.problem is not None and self.responses < 0):
            self._let_go()
        self.due_s = now_s + self._retry_s
        self._retry_s = min(2 * self._retry_s, _RETRY_MOST_S)

    def begin(self, now_s: float) -> None:
        """It has a place: what is missing may take as long again, however long it waited for that."""
        self._limit_s = now_s + OPEN_LIMIT_S
        self._retry_s = _RETRY_FIRST_S

    def _open(self, descriptor: int, which: int, how: Callable[[Pipe], int | None]) -> int:
        """The descriptor of a pipe; -1: not yet, or, with a `problem`, never."""
        pipe = self._pipes[which]
        if descriptor >= 0 or pipe is None:
            return descriptor
        try:
            opened = how(pipe)
        except BadPipe as problem:
            self.problem = self.problem or f"one of its pipes {problem}"
            self._pipes[which] = None
            pipe.close()
            return -1
        return -1 if opened is None else opened

    @property
    def is_complete(self) -> bool:
        """Whether all three are open."""
        return self.is_ready and self.notifications >= 0

    def refuse(self) -> None:
        """Say that nothing comes of it, where that can be said, and let go."""
        if self.responses >= 0:
            with contextlib.suppress(OSError):  # it is gone, or its pipe is full of something else: there is nobody to tell
                os.write(self.responses, encode_answer(CONNECT, REFUSED))
        self.close()

    def close(self) -> None:
        """Close all."""
        self._let_go()
        for descriptor in (self.requests, self.responses, self.notifications):
            if descriptor >= 0:
                os.close(descriptor)
        self.requests = self.responses = self.notifications = -1

    def _let_go(self) -> None:
        """Of the pipes that are not open."""
        for pipe in self._pipes:
            if pipe is not None:
                pipe.close()
        self._pipes = [None, None, None]
