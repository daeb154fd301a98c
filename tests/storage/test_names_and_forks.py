"""A child that is forked while another thread is in a critical section of a name does not keep it."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from memcache_shm.storage import namelock, registry, statefile
from memcache_shm.storage.geometry import Geometry

GEOMETRY = Geometry.by_elements(16, 100)
ROUNDS = 100


@pytest.fixture
def directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    path = str(tmp_path / "tables")
    monkeypatch.setenv("MEMCACHE_SHM_DIR", path)
    yield path
    for name in statefile.names_in(path):
        registry.remove(name)


@pytest.fixture
def child_that_stays() -> Iterator[Callable[[], None]]:
    """A function that forks a child which lives until the test's end."""
    theirs, ours = os.pipe()
    children = []

    def fork() -> None:
        pid = os.fork()
        if pid == 0:
            os.close(ours)
            os.read(theirs, 1)
            os._exit(0)
        children.append(pid)

    yield fork
    os.close(ours)
    os.close(theirs)
    for pid in children:
        os.waitpid(pid, 0)


def test_a_forked_child_holds_no_name(
    no_leaks: None, directory: str, monkeypatch: pytest.MonkeyPatch, child_that_stays: Callable[[], None]
) -> None:
    monkeypatch.setattr(namelock, "WAIT_LIMIT_S", 1.0)
    problems: list[BaseException] = []
    stop = threading.Event()

    def come_and_go() -> None:
        try:
            while not stop.is_set():
                table, _ = registry.open_or_create("app", GEOMETRY)
                table.close()
                registry.remove("app")
        except Exception as problem:  # noqa: BLE001  # told below
            problems.append(problem)

    thread = threading.Thread(target=come_and_go)
    thread.start()
    for _ in range(ROUNDS):
        if thread.is_alive():
            child_that_stays()
    stop.set()
    thread.join()
    assert problems == []
