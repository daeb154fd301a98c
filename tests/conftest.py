"""Isolation of the whole run, leak checks, servers shared by the tests of one process, and no skips where CI=true."""

from __future__ import annotations

import os
import tempfile
import uuid
from collections.abc import Callable, Iterator

import pytest
from support.isolation import RUN_VARIABLE, enter_own_namespace, ipc_ids, leaked, processes_of_run
from support.servers import Daemon, Memcached
from support.waiting import until

_own_namespace = pytest.StashKey[bool]()
_ids_before = pytest.StashKey[dict[str, set[int]]]()


def pytest_configure(config: pytest.Config) -> None:
    config.stash[_own_namespace] = enter_own_namespace()
    config.stash[_ids_before] = ipc_ids()
    os.environ[RUN_VARIABLE] = uuid.uuid4().hex


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Nothing the tests made may be left: no segment, no semaphore set, no process."""
    config = session.config
    remains: list[object] = []
    if config.stash[_own_namespace] or not hasattr(config, "workerinput"):
        remains += [f"{kind} {ids}" for kind, ids in leaked(config.stash[_ids_before]).items()]
    remains += processes_of_run(os.environ[RUN_VARIABLE]).items()
    if remains:
        raise pytest.UsageError(f"left behind by the tests: {remains}")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Iterator[None]:
    """In CI everything must run: a skip is a failure there."""
    report = yield
    if report.skipped and os.environ.get("CI") == "true" and not hasattr(report, "wasxfail"):
        report.outcome = "failed"
        report.longrepr = f"skipped in CI: {report.longrepr}"
    return report


@pytest.fixture(scope="session", autouse=True)
def _state_directory() -> Iterator[None]:
    """No test touches the tables of the user who runs it."""
    with tempfile.TemporaryDirectory(prefix="mstables") as directory:
        os.environ["MEMCACHE_SHM_DIR"] = directory
        yield
        del os.environ["MEMCACHE_SHM_DIR"]


@pytest.fixture(scope="session")
def daemon_with(_state_directory: None) -> Iterator[Callable[..., Daemon]]:
    """A function that gives the daemon with these options and workers, started once a test process."""
    running: dict[tuple[object, ...], Daemon] = {}

    def give(*options: str, workers: int = 1) -> Daemon:
        key = (workers, *options)
        if key not in running or running[key].process.poll() is not None:
            running[key] = Daemon(*options, workers=workers)
        return running[key]

    yield give
    for daemon in running.values():
        daemon.stop()


@pytest.fixture(scope="session")
def memcached_with() -> Iterator[Callable[..., Memcached]]:
    """The same for Debian's memcached."""
    running: dict[tuple[str, ...], Memcached] = {}

    def give(*options: str) -> Memcached:
        if options not in running:
            running[options] = Memcached(*options)
        return running[options]

    yield give
    for server in running.values():
        server.stop()


@pytest.fixture
def no_leaks() -> Iterator[None]:
    """This very test leaves no segment, no semaphore set and no process behind."""
    ids = ipc_ids()
    processes = processes_of_run(os.environ[RUN_VARIABLE]).keys()
    yield
    until(lambda: not leaked(ids), "segments and semaphore sets to go", 3.0)
    until(lambda: processes_of_run(os.environ[RUN_VARIABLE]).keys() <= processes, "processes to go", 3.0)
