"""Whoever makes, claims, gives up or removes a name may be killed at any moment: the next open works, one table is left, nothing nameless.

Each operation is killed after every eighth system call (after every one in the long run), then several processes at random moments.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import random
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import sysv_ipc
from support.isolation import ipc_ids, leaked
from support.kills import killed_after

from memcache_shm.errors import BusyError, TableExistsError, TableNotFoundError, TableRemovedError
from memcache_shm.storage import inventory, making, registry, statefile
from memcache_shm.storage.geometry import Geometry
from memcache_shm.storage.inventory import Status

GEOMETRY = Geometry.by_elements(16, 100)
NAME = "app"
PROCESSES = 3
KILLS = 60
Step = Callable[[], None]


@pytest.fixture
def directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, no_leaks: None) -> str:
    path = str(tmp_path / "tables")
    monkeypatch.setenv("MEMCACHE_SHM_DIR", path)
    return path


@pytest.fixture
def alone() -> bool:
    """Whether nobody else makes objects where these tests look: in a namespace of their own, or with one process of tests."""
    ours, parents = (os.readlink(f"/proc/{who}/ns/ipc") for who in ("self", os.getppid()))
    return ours != parents or "PYTEST_XDIST_WORKER" not in os.environ


def _open() -> None:
    registry.open_or_create(NAME, GEOMETRY)[0].close()


def _remove() -> None:
    registry.remove(NAME)


def _serve(keep: bool = False) -> None:
    registry.claim(NAME, GEOMETRY).release(keep=keep)


def _keep() -> None:
    _serve(keep=True)


def _nothing() -> None:
    """A name that nobody has used yet."""


def _removed_from_outside() -> None:
    table, state = registry.open_or_create(NAME, GEOMETRY)
    table.close()
    sysv_ipc.remove_shared_memory(state.shmid)


def _lose() -> None:
    """As ipcrm does, at any moment: in the midst of what others do with the table."""
    state = statefile.read_state(statefile.own_directory(), NAME)
    if state is not None:
        with contextlib.suppress(sysv_ipc.ExistentialError):
            sysv_ipc.remove_semaphore(state.semid)
        with contextlib.suppress(sysv_ipc.ExistentialError):
            sysv_ipc.remove_shared_memory(state.shmid)


def _half_made() -> None:
    """A maker was killed when its objects were there and the state file was not."""
    before = ipc_ids()
    pid = os.fork()
    if pid == 0:
        statefile.write_state = lambda *_: os.kill(os.getpid(), signal.SIGKILL)  # type: ignore[assignment,return-value]
        _open()
    assert os.waitpid(pid, 0)[1] == signal.SIGKILL
    assert leaked(before).keys() == {"shm", "sem"}
    assert NAME in making.unfinished(statefile.own_directory())
    assert NAME not in statefile.names_in(statefile.own_directory())


every_operation = pytest.mark.parametrize(
    ("before", "operation"),
    [
        (_nothing, _open),
        (_removed_from_outside, _open),
        (_half_made, _open),
        (_nothing, _serve),
        (_open, _serve),
        (_keep, _serve),
        (_nothing, _keep),
        (_open, _remove),
        (_half_made, _remove),
        (_removed_from_outside, _remove),
    ],
    ids=lambda step: step.__name__.strip("_"),
)


@every_operation
def test_killed_after_every_eighth_system_call(before: Step, operation: Step, directory: str, alone: bool) -> None:
    _kill_after_calls(before, operation, directory, alone, random.randrange(8), 8)


@pytest.mark.torture
@every_operation
def test_killed_after_every_system_call(before: Step, operation: Step, directory: str, alone: bool) -> None:
    _kill_after_calls(before, operation, directory, alone, 0, 1)


def _kill_after_calls(before: Step, operation: Step, directory: str, alone: bool, first: int, step: int) -> None:
    empty = ipc_ids()
    for calls in itertools.count(first, step):
        before()
        killed = killed_after(operation, calls)
        table, state = registry.open_or_create(NAME, GEOMETRY)
        table.close()
        assert statefile.names_in(directory) == [NAME]
        if alone:
            assert leaked(empty) == {"shm": {state.shmid}, "sem": {state.semid}}, f"killed after {calls} system calls"
        _remove()
        assert os.listdir(directory) == []
        if alone:
            assert leaked(empty) == {}, f"killed after {calls} system calls"
        if not killed:
            break
    assert calls > 20


def test_a_killed_maker_is_listed_and_removed(directory: str) -> None:
    _half_made()
    (entry,) = inventory.list_tables()
    assert (entry.state.name, entry.status, entry.table) == (NAME, Status.UNFINISHED, None)
    registry.remove(NAME)
    assert inventory.list_tables() == []
    with pytest.raises(TableNotFoundError):
        registry.remove(NAME)


def test_only_what_the_dead_maker_made_is_removed(directory: str) -> None:
    """Tables of the same size that are older, or are another process's, stay; so does a note that is no note."""
    older, _ = registry.open_or_create("older", GEOMETRY)
    older.close()
    _half_made()
    younger, _ = registry.open_or_create("younger", GEOMETRY)
    younger.close()
    _remove()
    Path(directory, f".{NAME}.making").write_text('{"version": 1, "na')
    _open()
    for name in ("older", "younger", NAME):
        registry.attach(name)[0].close()
        registry.remove(name)
    assert os.listdir(directory) == []


def _come_and_go(seed: int) -> None:
    """One of several processes that use the name; an error that nobody may get ends it with status 1."""
    chance = random.Random(seed)
    while True:
        with contextlib.suppress(TableExistsError, TableNotFoundError, TableRemovedError, BusyError):
            chance.choice((_open, _open, _serve, _serve, _keep, _remove, _lose))()


def _fork(seed: int) -> int:
    pid = os.fork()
    if pid:
        return pid
    try:
        _come_and_go(seed)
    finally:
        os._exit(1)


@pytest.fixture
def processes(directory: str) -> Iterator[list[int]]:
    """Pids of several that come and go; who replaces one puts the new pid in its place."""
    pids = [_fork(seed) for seed in range(PROCESSES)]
    yield pids
    for pid in pids:
        with contextlib.suppress(ProcessLookupError, ChildProcessError):
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)


def _storm(processes: list[int], rounds: int) -> None:
    seed = random.randrange(2**32)
    chance = random.Random(seed)
    for turn in range(rounds):
        time.sleep(chance.random() * 0.005)  # the moment of the kill
        place = chance.randrange(PROCESSES)
        assert os.waitpid(processes[place], os.WNOHANG) == (0, 0), f"it met an error, seed {seed}, round {turn}"
        os.kill(processes[place], signal.SIGKILL)
        os.waitpid(processes[place], 0)
        processes[place] = _fork(chance.randrange(2**32))
        with contextlib.suppress(TableExistsError, TableRemovedError, BusyError):  # served by one of the others, or crowded out
            _open()


def test_killed_at_random_moments(processes: list[int], directory: str) -> None:
    _storm(processes, KILLS)
    _the_next_finds_order(processes, directory)


@pytest.mark.torture
def test_killed_at_many_random_moments(processes: list[int], directory: str) -> None:
    end = time.monotonic() + float(os.environ.get("TORTURE_S", "60"))
    while time.monotonic() < end:
        _storm(processes, KILLS)
    _the_next_finds_order(processes, directory)


def _the_next_finds_order(processes: list[int], directory: str) -> None:
    for pid in processes:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    processes.clear()
    _open()
    assert statefile.names_in(directory) == [NAME]
    _remove()
    assert os.listdir(directory) == []
