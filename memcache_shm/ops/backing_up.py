"""The process that does what a client's command `backup` asks for, started by its worker: one file in the daemon's directory.

It prints ``OK <items> <bytes>``, or the reason why not. It ends with the worker, and leaves no half file then either.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
import sys
from collections.abc import Iterator, Sequence
from types import FrameType
from typing import NoReturn

from memcache_shm.client.local import attach_local
from memcache_shm.errors import BackupError, MemcacheError
from memcache_shm.ops import backups
from memcache_shm.ops.whole_file import remove_leftovers
from memcache_shm.server.loop import die_with_parent

DONE = 0
FAILED = 1


def command(name: str) -> list[str]:
    """What to start, without its last three words (see `main`), for the table `name`. Nothing is imported from the working directory."""
    root = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    program = "import sys; sys.path[0] = sys.argv.pop(1); from memcache_shm.ops.backing_up import main; sys.exit(main(sys.argv[1:]))"
    return [sys.executable, "-c", program, root, name]


def main(words: Sequence[str]) -> int:
    """The table's name, the worker's pid, the directory, the file's name. The exit status: 0 when the file is whole."""
    name, parent, directory, file = words
    for number in (signal.SIGINT, signal.SIGHUP, signal.SIGUSR1):  # of a terminal: the supervisor decides about them
        signal.signal(number, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, _leave)
    die_with_parent(signal.SIGTERM)
    if os.getppid() != int(parent):
        return FAILED
    try:
        print(_back_up(name, directory, file))
    except (MemcacheError, MemoryError, OSError) as error:
        print(str(error) or type(error).__name__)
        return FAILED
    return DONE


def _back_up(name: str, directory: str, file: str) -> str:
    path = os.path.join(directory, file)
    with _only_one(directory), contextlib.closing(attach_local(name)) as cache:
        remove_leftovers(path)
        saved = backups.save(cache, path, follows_links=False)
    return f"OK {saved.items} {saved.bytes}"


@contextlib.contextmanager
def _only_one(directory: str) -> Iterator[None]:
    """No other backup of any worker or daemon into that directory runs meanwhile: BackupError."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise BackupError("busy: a backup is running, try again later") from None
        yield
    finally:
        os.close(descriptor)


def _leave(number: int, frame: FrameType | None) -> NoReturn:
    raise SystemExit(FAILED)
