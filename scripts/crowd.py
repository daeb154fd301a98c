"""`make crowd`: many clients at once on a daemon of their own, each inserting, reading and deleting thousands of keys, pipelined.

Each reply is compared byte by byte with the one that is due: values name client, key and round, and requests have tokens that come back. A
reply that is lost, doubled, or another client's is found where it comes. The exit status is 1 when one was wrong, or a client failed.
"""

from __future__ import annotations

import argparse
import multiprocessing
import random
import sys
import time
from collections.abc import Iterator, Sequence
from multiprocessing.connection import wait
from multiprocessing.context import ForkProcess
from multiprocessing.sharedctypes import RawArray, RawValue
from multiprocessing.synchronize import Barrier
from threading import BrokenBarrierError
from typing import Any, NamedTuple

from bench_report import Progress

from memcache_shm.cli.arguments import whole
from memcache_shm.client.addresses import Address
from memcache_shm.client.wire import connect
from memcache_shm.errors import MemcacheError
from memcache_shm.ops.private_daemon import DOORS, PrivateDaemon

CLIENTS_MOST, KEYS_MOST, WORKERS_MOST = 4096, 10_000_000, 64
TIMEOUT_S = 30.0  # of a client's wait, for its start as well: a reply that is lost is noticed by it
KEYS_AT_ONCE = 64  # of a client, whose operations are mixed
ROUNDS = 2  # values of a key, one after the other
LARGE_EVERY = 400  # inserts: then a value of up to LARGE_BYTES
LARGE_BYTES = 20_000
PAD_BYTES = 100
LOOK_S = 0.2
SHOWN_BYTES = 40  # of a wrong reply, on each side of the first difference
TOLD = 3  # clients whose failure is told
FORK = multiprocessing.get_context("fork")


class WrongReplyError(Exception):
    """Of the server; the text says what was due."""


class Batch(NamedTuple):
    """What is sent at once, and the reply that is due to it."""

    operations: int
    requests: bytes
    replies: bytes


class Script:
    """The operations of one client: each key is inserted and read ROUNDS times, deleted, looked for, mixed by chance with others."""

    def __init__(self, client: int, keys: int, seed: int) -> None:
        self._client = client
        self._keys = keys
        self._chance = random.Random(seed)
        self._token = 0

    def __iter__(self) -> Iterator[Batch]:
        for first in range(0, self._keys, KEYS_AT_ONCE):
            waiting = {key: self._life(key) for key in range(first, min(first + KEYS_AT_ONCE, self._keys))}
            order = [key for key in waiting for _ in range(2 * ROUNDS + 2)]
            self._chance.shuffle(order)
            pairs = [next(waiting[key]) for key in order]
            yield Batch(len(pairs), b"".join(request for request, _ in pairs), b"".join(reply for _, reply in pairs))

    def _life(self, number: int) -> Iterator[tuple[bytes, bytes]]:
        """Requests and replies of one key."""
        key = b"%d:%d" % (self._client, number)
        for turn in range(ROUNDS):
            value = self._value(key, turn)
            token = self._next_token()
            yield b"ms %b %d O%b\r\n%b\r\n" % (key, len(value), token, value), b"HD O%b\r\n" % token
            token = self._next_token()
            yield b"mg %b v k O%b\r\n" % (key, token), b"VA %d k%b O%b\r\n%b\r\n" % (len(value), key, token, value)
        token = self._next_token()
        yield b"md %b k O%b\r\n" % (key, token), b"HD k%b O%b\r\n" % (key, token)
        token = self._next_token()
        yield b"mg %b v k O%b\r\n" % (key, token), b"EN k%b O%b\r\n" % (key, token)

    def _value(self, key: bytes, turn: int) -> bytes:
        size = self._chance.randrange(LARGE_BYTES) if self._chance.randrange(LARGE_EVERY) == 0 else self._chance.randrange(PAD_BYTES)
        return b"%b:%d:" % (key, turn) + b"." * size

    def _next_token(self) -> bytes:
        self._token += 1
        return b"%d.%d" % (self._client, self._token)


class Talk:
    """A connection whose replies are compared. One batch is in the server's hands while the replies to its predecessor are read."""

    def __init__(self, address: Address) -> None:
        self._sock = connect(address, TIMEOUT_S)
        self._due: list[Batch] = []

    def send(self, batch: Batch) -> int:
        """Send it; how many operations were answered meanwhile."""
        self._sock.sendall(batch.requests)
        self._due.append(batch)
        return self._take() if len(self._due) > 1 else 0

    def finish(self) -> int:
        """Take what is left; how many operations that were. WrongReplyError, also when the server has said more than it should."""
        done = sum(self._take() for _ in range(len(self._due)))
        self.send(Batch(0, b"mn\r\n", b"MN\r\n"))
        self._take()
        return done

    def close(self) -> None:
        self._sock.close()

    def _take(self) -> int:
        batch = self._due.pop(0)
        size = len(batch.replies)
        received = bytearray()
        while len(received) < size:
            piece = self._sock.recv(size - len(received))
            if not piece:
                raise WrongReplyError(f"the connection was closed after {len(received)} of {size} bytes of replies")
            received += piece
        if received != batch.replies:
            at = next(n for n, (a, b) in enumerate(zip(received, batch.replies, strict=True)) if a != b)
            part = slice(max(0, at - SHOWN_BYTES), at + SHOWN_BYTES)
            raise WrongReplyError(f"due was {batch.replies[part]!r}, received {bytes(received[part])!r}")
        return batch.operations


def client(number: int, options: argparse.Namespace, address: Address, together: Barrier, begun_s: Any, done: Any) -> None:
    """A client's process; its exit status is 1 when something was wrong, and a line says what. None begins where one cannot."""
    try:
        talk = Talk(address)
        together.wait(TIMEOUT_S)
        for batch in Script(number, options.keys, options.seed + number):
            done[number] += talk.send(batch)
        done[number] += talk.finish()
        talk.close()
    except BrokenBarrierError:  # not all came: those who could not have told why
        sys.exit(1)
    except (WrongReplyError, MemcacheError, OSError) as error:
        done[-1] += 1
        if done[-1] <= TOLD:
            print(f"crowd: client {number}: {error or type(error).__name__}", file=sys.stderr)
        if not begun_s.value:
            together.abort()
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)


def crowd(options: argparse.Namespace, address: Address, progress: Progress) -> tuple[int, float | None, int]:
    """Operations that were answered, the seconds that took (None: they did not begin), and how many clients failed."""
    done = RawArray("Q", options.clients + 1)  # of each client, and last how many have told what was wrong
    begun_s = RawValue("d")  # 0: not yet. Noted by the last who comes: this process may wake late
    together = FORK.Barrier(options.clients, lambda: setattr(begun_s, "value", time.monotonic()))
    rest = options, address, together, begun_s, done
    clients = [FORK.Process(target=client, args=(number, *rest)) for number in range(options.clients)]
    try:
        progress.say(f"starting {options.clients} clients")
        for process in clients:
            process.start()
        watch(clients, done, options.clients * options.keys * (2 * ROUNDS + 2), progress)
        took_s = time.monotonic() - begun_s.value if begun_s.value else None
    finally:
        for process in clients:
            if process.pid is not None:
                process.terminate()  # who is done already does not notice
                process.join()
    return sum(done[:-1]), took_s, sum(process.exitcode != 0 for process in clients)


def watch(clients: Sequence[ForkProcess], done: Any, total: int, progress: Progress) -> None:
    """Wait for the end of all."""
    waiting = [process.sentinel for process in clients]
    while waiting:
        ended = wait(waiting, LOOK_S)
        waiting = [sentinel for sentinel in waiting if sentinel not in ended]
        progress.say(f"{sum(done[:-1]):,} of {total:,} operations, {len(waiting)} clients at work")


def main() -> int:
    options = read_options()
    progress = Progress()
    try:
        room = ["-m", "256", "-c", str(options.clients + 100), "--channels", str(options.clients)]
        with PrivateDaemon(room, options.workers) as daemon:
            answered, took_s, failed = crowd(options, daemon.address(options.door), progress)
    except (MemcacheError, OSError) as error:
        progress.done()
        print(f"crowd: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        progress.done()
        return 130
    progress.done()
    headline = f"{options.clients} clients, {options.keys} keys each, {options.door}"
    if took_s is None:
        print(f"{headline}: they did not begin; {failed} clients FAILED")
        return 1
    remark = f"{failed} clients FAILED (--seed {options.seed})" if failed else "no reply lost or swapped"
    print(f"{headline}: {answered:,} operations in {took_s:.1f} s, {answered / took_s:,.0f} a second; {remark}")
    return 1 if failed else 0


def read_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="crowd", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clients", type=whole(1, CLIENTS_MOST), default=64, help="processes with a connection each (default 64)")
    parser.add_argument("--keys", type=whole(1, KEYS_MOST), default=2000, help="of each client (default 2000)")
    parser.add_argument("--door", choices=DOORS, default="channel", help="(default channel)")
    parser.add_argument("-t", "--workers", type=whole(1, WORKERS_MOST), default=2, help="of the daemon (default 2)")
    parser.add_argument("--seed", type=int, default=random.randrange(1 << 32), help="of the order of operations (default: by chance)")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
