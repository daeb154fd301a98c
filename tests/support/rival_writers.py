"""Writers that change keys of a table beside its jobs, each by another door, one key a command."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Protocol

import memcache_shm
from support.client import Client
from support.servers import Daemon


class Rival(Protocol):
    """One door: single keys, and the reply is waited for."""

    def get(self, key: bytes) -> bytes | None: ...

    def set(self, key: bytes, value: bytes) -> object: ...


@contextmanager
def rival(door: str, daemon: Daemon) -> Iterator[Rival]:
    """Through the door "attached", "tcp" or "unix" of the daemon."""
    if door == "attached":
        with memcache_shm.attach(daemon.name) as cache:
            yield cache
    else:
        with Client(daemon, door) as client:
            yield client


@contextmanager
def working(work: Callable[[threading.Event], None]) -> Iterator[None]:
    """`work` in a thread until the end of the context, which sets the event that it is given. Its failure is the test's."""
    over = threading.Event()
    failures: list[BaseException] = []

    def run() -> None:
        try:
            work(over)
        except BaseException as failure:  # noqa: BLE001  # whatever it is
            failures.append(failure)

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
    if failures:
        raise failures[0]
