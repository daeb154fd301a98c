"""`memcache-shm pipe-client`: a session with a daemon or a job runner over named pipes."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from collections.abc import Sequence
from types import FrameType
from typing import NoReturn

from memcache_shm.cli.arguments import Parser
from memcache_shm.cli.messages import EXIT_FAILURE, EXIT_OK, PROGRAM, error, note
from memcache_shm.cli.unbuffered import write
from memcache_shm.errors import MemcacheError
from memcache_shm.ops.client_pipes import ID_MAX_BYTES
from memcache_shm.ops.pipe_client import Face, PipeClient
from memcache_shm.ops.pipe_messages import NAMES, TEXT_MAX_BYTES
from memcache_shm.ops.quoting import harmless

_HELP = f"""\
Hear of changes of single keys over named pipes. PATH is the registration pipe of a
daemon or a job runner (--fifo PATH); ID is a name of your own for three pipes,
/tmp/memcache_shm-ID.req, .res and .not, which are made and removed again (those of a
client that was killed are replaced). While all
places are taken (--fifo-sessions) it waits for one.

Commands come from standard input, one a line; # begins a comment:

  SUBSCRIBE [key]     be told of its changes; the brackets are part of the command
  UNSUBSCRIBE [key]   no more
  DELAY ms            wait, and go on hearing of changes
  DISCONNECT          end; so does the end of the input

Printed are the answers, and (key,value) for each change. A value is cut to {TEXT_MAX_BYTES} bytes;
DELETED means that the key went, and with it the subscription.
"""
_RESULTS = f"""\
results: connect 0, or 1 refused (the server's log says why); subscribe 1, or 0 there is
no such key; unsubscribe 0, or 1 there was no such subscription; disconnect 0

exit status: 0 done, also when the server ends the session; 1 there is no server, or it
left an operation unanswered; 2 wrong usage. An ID has up to {ID_MAX_BYTES} letters and digits.

examples:
  {PROGRAM} --fifo /tmp/cache.fifo &
  printf 'SUBSCRIBE [news]\\nDELAY 60000\\n' | {PROGRAM} pipe-client 1 /tmp/cache.fifo
  {PROGRAM} pipe-client me /tmp/cache.fifo
"""
_ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class _Ended(BaseException):
    """By a signal."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


def main(words: Sequence[str]) -> int:
    """A session. 0; 1 when something stayed unanswered. MemcacheError when there is no server."""
    parser = Parser(f"{PROGRAM} pipe-client", _HELP, _RESULTS)
    parser.add_argument("identity", metavar="ID", help="a name for the pipes, another one for each client")
    parser.add_argument("path", metavar="PATH", help="the registration pipe")
    space = parser.parse_args(words)
    if sys.stdin is None or sys.stdout is None:  # '<&-', '>&-'
        raise MemcacheError(f"standard {'input' if sys.stdin is None else 'output'} is closed; a session needs both")
    previous = {number: signal.signal(number, _end) for number in _ENDING}
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, _ENDING)  # but for the session itself: no pipe is left behind that was just made
    try:
        return _hold(PipeClient(space.identity, space.path, Face(_print_answer, _print_notification, _complain)))
    except _Ended as end:
        signal.signal(end.number, signal.SIG_DFL)
        os.kill(os.getpid(), end.number)  # held back until the mask is as it was
        return EXIT_FAILURE
    finally:
        for number, handler in previous.items():
            if signal.getsignal(number) is _end:
                signal.signal(number, handler)
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)


def _hold(client: PipeClient) -> int:
    with client:
        try:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, _ENDING)
            answered = client.run(sys.stdin.fileno())
        finally:
            signal.pthread_sigmask(signal.SIG_BLOCK, _ENDING)
    if client.was_ended:
        note("the server ended the session")
    return EXIT_OK if answered else EXIT_FAILURE


def _end(number: int, frame: FrameType | None) -> NoReturn:
    raise _Ended(number)


def _print_answer(result: int, code: int) -> None:
    _print(b"Server returned %d for operation: %b" % (result, NAMES[code].encode()))


def _print_notification(key: bytes, value: bytes) -> None:
    line = b"(%b,%b)" % (key, value)
    if sys.stdout.isatty():  # which must not obey a value
        line = harmless(line.decode("utf-8", "surrogateescape"), sys.stdout.encoding).encode(sys.stdout.encoding)
    _print(line)


def _complain(problem: str) -> None:
    """Of a command. That it cannot be told is no reason to end the session."""
    with contextlib.suppress(OSError):
        error(problem)


def _print(line: bytes) -> None:
    """At once, whatever standard output is."""
    try:
        write(sys.stdout, line + b"\n")
    except BrokenPipeError:
        raise
    except OSError as problem:
        raise MemcacheError(f"standard output: {problem.strerror}; the session is ended") from None
