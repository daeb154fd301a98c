"""The client's side of a session over named pipes: commands in, answers and notifications out.

    commands (a descriptor) --> one at a time: request pipe --> server
                                               answers      <-- response pipe
                                notifications, at any time  <-- notification pipe

It waits for all of them at once. The server's end is the end of the response pipe; before the first answer, that nobody reads the
registration pipe any more.
"""

from __future__ import annotations

import errno
import os
import re
import select
import stat
import time
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType

from memcache_shm.errors import MemcacheError
from memcache_shm.ops.client_pipes import ClientPipes
from memcache_shm.ops.pipe_messages import (
    ANSWER_BYTES,
    CONNECT,
    DISCONNECT,
    DONE,
    NOTIFICATION_BYTES,
    SUBSCRIBE,
    TEXT_MAX_BYTES,
    UNSUBSCRIBE,
    Registration,
    Request,
    decode_notification,
    encode_connect,
    encode_request,
)

_LINE_MAX_BYTES = 4096
_READ_BYTES = 65536
_LAST_S = 1.0  # for notifications behind the answer to `disconnect`
_COMMAND = re.compile(rb"(?P<word>[A-Z]+)(?:\s+(?P<rest>.*?))?\s*", re.DOTALL)
_IN_BRACKETS = re.compile(rb"\[(.*)\]", re.DOTALL)
_NEVER = float("inf")


@dataclass(frozen=True)
class Face:
    """Where it goes what comes."""

    answered: Callable[[int, int], None]  # result, code
    notified: Callable[[bytes, bytes], None]  # key, value
    complain: Callable[[str], None]  # about a command


class BadCommand(Exception):
    """A line that is no command; the text says why."""


def read_command(line: bytes) -> Request | float | None:
    """What a line asks for: a request, seconds to wait, or nothing. BadCommand."""
    text = line.strip()
    if not text or text.startswith(b"#"):
        return None
    match = _COMMAND.fullmatch(text)
    word, rest = (match["word"], match["rest"]) if match else (b"", None)
    if word == b"DISCONNECT" and rest is None:
        return Request(DISCONNECT, b"")
    if word == b"DELAY" and rest is not None and re.fullmatch(rb"[0-9]{1,9}", rest):
        return int(rest) / 1000
    code = {b"SUBSCRIBE": SUBSCRIBE, b"UNSUBSCRIBE": UNSUBSCRIBE}.get(word)
    key = _IN_BRACKETS.fullmatch(rest or b"")
    if code is None or key is None:
        raise BadCommand("no command; there are SUBSCRIBE [key], UNSUBSCRIBE [key], DELAY ms, DISCONNECT")
    if not 1 <= len(key[1]) <= TEXT_MAX_BYTES or b"\0" in key[1]:
        raise BadCommand(f"a key has 1 to {TEXT_MAX_BYTES} bytes, none of them NUL")
    return Request(code, key[1])


class PipeClient:
    """One session, inside of a `with`, which makes the three pipes and removes them. Raises IllegalInputError for an identity that cannot
    be part of their names, MemcacheError."""

    def __init__(self, identity: str, path: str, face: Face) -> None:
        self._path = path
        self._face = face
        self._pipes = ClientPipes(identity)
        self._registration = -1
        self._poll = select.poll()
        self._answers = bytearray()
        self._notifications = bytearray()
        self._commands = bytearray()
        self._commands_end = False
        self._line_number = 0
        self._ended = False  # the server has closed the responses
        self._left = False  # `disconnect` was answered

    def __enter__(self) -> PipeClient:
        try:
            self._open_registration()
            self._pipes.make(owner=os.fstat(self._registration).st_uid)
            self._poll.register(self._pipes.responses, select.POLLIN)
            self._poll.register(self._pipes.notifications, select.POLLIN)
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Close and remove the pipes; the server sees that as a disconnect if it can be told."""
        if self._pipes.requests >= 0 and not self._ended:
            self._try_to_say(encode_request(Request(DISCONNECT, b"")))
        self._pipes.close()
        if self._registration >= 0:
            os.close(self._registration)
            self._registration = -1

    def run(self, commands: int) -> bool:
        """Carry out the commands that come from the descriptor until they end, by DISCONNECT or otherwise. False: the server refused the
        session, or ended it and left an operation unanswered."""
        self._register()
        if self._answer(CONNECT) != DONE:
            return False
        self._poll.unregister(self._registration)  # from now on the responses tell whether there is a server
        while not self._ended:
            line = self._next_line(commands)
            if line is None:
                return self._ended or self._disconnect()
            self._line_number += 1
            try:
                command = read_command(line)
            except BadCommand as problem:
                self._face.complain(f"line {self._line_number}: {problem}")
                continue
            if isinstance(command, float):
                self._wait(command)
            elif command is not None and command.code == DISCONNECT:
                return self._disconnect()
            elif command is not None and self._ask(command) is None:
                return False
        return True

    @property
    def was_ended(self) -> bool:
        """Whether the server closed the session without being asked."""
        return self._ended and not self._left

    # Asking

    def _open_registration(self) -> None:
        try:
            self._registration = os.open(self._path, os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError as error:
            if error.errno == errno.ENXIO:
                raise MemcacheError(f"nobody serves {self._path}; start 'memcache-shm --fifo {self._path}'") from None
            raise MemcacheError(f"{self._path}: {error.strerror}; it is the PATH of a daemon's --fifo PATH") from None
        if not stat.S_ISFIFO(os.fstat(self._registration).st_mode):
            raise MemcacheError(f"{self._path} is no named pipe; it is the PATH of a daemon's --fifo PATH")

    def _register(self) -> None:
        """Write the message; as long as the pipe is full others wait as well."""
        message = encode_connect(Registration(*(os.fsencode(path) for path in self._pipes.paths)))
        while True:
            try:
                os.write(self._registration, message)
            except BlockingIOError:
                self._poll.register(self._registration, select.POLLOUT)
                self._poll.poll()
            except BrokenPipeError:
                raise MemcacheError(f"{self._path}: its server ended; try again when it is back") from None
            else:
                self._poll.register(self._registration, 0)  # POLLERR alone: nobody reads it any more
                return

    def _ask(self, request: Request) -> int | None:
        """The result; None: the session ended before."""
        self._try_to_say(encode_request(request))
        return self._answer(request.code)

    def _disconnect(self) -> bool:
        self._left = self._ask(Request(DISCONNECT, b"")) is not None
        self._wait(_LAST_S)
        return self._left

    def _try_to_say(self, message: bytes) -> None:
        try:
            os.write(self._pipes.requests, message)
        except OSError:
            self._ended = True  # a pipe of ours that nobody reads any more, full

    def _answer(self, code: int) -> int | None:
        """Await an answer, and tell it."""
        while len(self._answers) < ANSWER_BYTES and not self._ended:
            self._turn(_NEVER)
        if len(self._answers) < ANSWER_BYTES:
            return None
        answered, result = self._answers[:ANSWER_BYTES]
        del self._answers[:ANSWER_BYTES]
        if answered != code:
            raise MemcacheError(f"{self._path}: its server answered to operation {answered} in place of {code}; is it another version?")
        self._face.answered(result, code)
        return result

    def _wait(self, for_s: float) -> None:
        until_s = time.monotonic() + for_s
        while not self._ended and time.monotonic() < until_s:
            self._turn(until_s)

    def _next_line(self, commands: int) -> bytes | None:
        """None at the end of the commands, and of the session."""
        while not self._ended:
            line, newline, rest = self._commands.partition(b"\n")
            if newline or (self._commands_end and line):
                self._commands = rest
                return bytes(line)
            if self._commands_end:
                return None
            if len(self._commands) > _LINE_MAX_BYTES:
                del self._commands[_LINE_MAX_BYTES:]  # of a line that is none: enough to say so
            self._turn(_NEVER, commands)
        return None

    # One wait for everything

    def _turn(self, until_s: float, commands: int = -1) -> None:
        """Take what is there, or comes by then."""
        if commands >= 0:
            self._poll.register(commands, select.POLLIN)
        limit_ms = None if until_s == _NEVER else max(0.0, until_s - time.monotonic()) * 1000
        events = dict(self._poll.poll(limit_ms))
        if commands >= 0:
            self._poll.unregister(commands)
        if self._pipes.notifications in events:
            self._take_notifications()
        if self._pipes.responses in events:
            self._take_answers()
        if self._registration in events and not self._ended:  # before the first answer: nobody reads registrations any more
            raise MemcacheError(f"{self._path}: its server ended before it answered; try again when it is back")
        if commands in events:
            self._take_commands(commands)

    def _take_notifications(self) -> None:
        data = _read(self._pipes.notifications)
        if data == b"":
            self._poll.modify(self._pipes.notifications, 0)
        self._notifications += data or b""
        while len(self._notifications) >= NOTIFICATION_BYTES:
            self._face.notified(*decode_notification(bytes(self._notifications[:NOTIFICATION_BYTES])))
            del self._notifications[:NOTIFICATION_BYTES]

    def _take_answers(self) -> None:
        data = _read(self._pipes.responses)
        if data == b"":
            self._ended = True
            self._take_notifications()
        self._answers += data or b""

    def _take_commands(self, commands: int) -> None:
        data = os.read(commands, _READ_BYTES)
        self._commands_end = not data
        self._commands += data


def _read(descriptor: int) -> bytes | None:
    """None when there is nothing now; empty at the end."""
    try:
        return os.read(descriptor, _READ_BYTES)
    except BlockingIOError:
        return None
