"""The command line: a verb, or without one the daemon. Modules are imported when their verb is asked for."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Sequence

from memcache_shm.cli.messages import EXIT_FAILURE, EXIT_USAGE, UsageError, error
from memcache_shm.errors import IllegalInputError, MemcacheError


def main(words: Sequence[str] | None = None) -> int:
    """Run the command in `words` (sys.argv by default); the exit status: 0 done, 1 failed, 2 wrong usage."""
    if words is None:
        words = sys.argv[1:]
        if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
            # A KeyboardInterrupt amid an import may get lost (in a weakref callback); dying at once cannot.
            signal.signal(signal.SIGINT, signal.SIG_DFL)
    command, rest = (VERBS[words[0]][0], words[1:]) if words and words[0] in VERBS else (_serve, words)
    try:
        status = command(rest)
        print(end="", flush=True)  # a reader that is gone is noticed here, not at the interpreter's end
        return status
    except (UsageError, IllegalInputError) as problem:
        error(str(problem))
        return EXIT_USAGE
    except MemcacheError as problem:
        error(str(problem))
    except BrokenPipeError:  # as with '| head': what is left in the buffer goes nowhere
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except OSError as problem:
        error(f"{problem.filename}: {problem.strerror}" if problem.filename else problem.strerror or str(problem))
    return EXIT_FAILURE


def _serve(words: Sequence[str]) -> int:
    from memcache_shm.cli.options import parse

    options = parse(words, "".join(f"  {verb:<12}{help_line}\n" for verb, (_, help_line) in VERBS.items()))
    from memcache_shm.cli.serve import serve  # after the options: --help needs no server

    return serve(options)


def _ls(words: Sequence[str]) -> int:
    from memcache_shm.cli.tables import ls

    return ls(words)


def _rm(words: Sequence[str]) -> int:
    from memcache_shm.cli.tables import rm

    return rm(words)


def _ping(words: Sequence[str]) -> int:
    from memcache_shm.cli.ping import main as ping

    return ping(words)


def _promote(words: Sequence[str]) -> int:
    from memcache_shm.cli.promote import main as promote

    return promote(words)


def _check(words: Sequence[str]) -> int:
    from memcache_shm.cli.check import main as check

    return check(words)


def _map(words: Sequence[str]) -> int:
    from memcache_shm.cli.map import main as map_

    return map_(words)


def _console(words: Sequence[str]) -> int:
    from memcache_shm.cli.console import main as console

    return console(words)


def _mirror(words: Sequence[str]) -> int:
    from memcache_shm.cli.mirror import main as mirror

    return mirror(words)


def _client(words: Sequence[str]) -> int:
    from memcache_shm.cli.client import main as client

    return client(words)


def _run(words: Sequence[str]) -> int:
    from memcache_shm.cli.run import main as run

    return run(words)


def _backup(words: Sequence[str]) -> int:
    from memcache_shm.cli.backup import main as backup

    return backup(words)


def _restore(words: Sequence[str]) -> int:
    from memcache_shm.cli.restore import main as restore

    return restore(words)


def _pipe_client(words: Sequence[str]) -> int:
    from memcache_shm.cli.pipe_client import main as pipe_client

    return pipe_client(words)


def _bench(words: Sequence[str]) -> int:
    from memcache_shm.cli.bench import main as bench

    return bench(words)


VERBS: dict[str, tuple[Callable[[Sequence[str]], int], str]] = {
    "console": (_console, "look at a table and change it, by hand or from a script"),
    "mirror": (_mirror, "print what changes in a table, as it happens"),
    "client": (_client, "insert, read and delete keys of a daemon, one behind the other"),
    "run": (_run, "carry out job files: many keys in one step, backups"),
    "backup": (_backup, "write a table, or that of any memcached, into a file"),
    "restore": (_restore, "put a backup into a table"),
    "pipe-client": (_pipe_client, "hear of changes over named pipes (--fifo)"),
    "ls": (_ls, "list the tables and how they stand"),
    "rm": (_rm, "remove tables"),
    "promote": (_promote, "make a table independent that follows another"),
    "check": (_check, "verify every invariant of a table, and mend it"),
    "map": (_map, "show what fills a table, as a picture"),
    "bench": (_bench, "compare the doors of a table on this machine"),
    "ping": (_ping, "ask a daemon or a table whether it answers"),
}
