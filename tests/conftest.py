"""Isolation of the whole run, leak checks, servers shared by the tests of one process, and no skips where CI=true."""

from __future__ import annotations

import os
import tempfile
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from support.isolation import RUN_VARIABLE, enter_own_namespace, ipc_ids, leaked, processes_of_run
from support.servers import Daemon, Memcached
from support.tls import Certificate, make_certificate
from support.waiting import until

from memcache_shm.storage import registry, statefile

RUN = uuid.uuid4().hex
OWN_NAMESPACE = pytest.StashKey[bool]()
IDS_BEFORE = pytest.StashKey[dict[str, set[int]]]()
REMAINS = pytest.StashKey[list[str]]()


def pytest_configure(config: pytest.Config) -> None:
    config.stash[OWN_NAMESPACE] = enter_own_namespace()
    config.stash[IDS_BEFORE] = ipc_ids()
    config.stash[REMAINS] = []
    os.environ[RUN_VARIABLE] = RUN


@pytest.hookimpl(tryfirst=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    """Nothing the tests made may be left: no segment, no semaphore set, no process. Processes of xdist's report to the first one."""
    config = session.config
    remains = config.stash[REMAINS]
    if _namespace_is_ours(config):
        remains += [f"{kind} {sorted(ids)}" for kind, ids in leaked(config.stash[IDS_BEFORE]).items()]
    if not config.pluginmanager.hasplugin("dsession"):  # the first of several: those see to their own
        remains += [f"process {pid}: {command}" for pid, command in processes_of_run(RUN).items()]
    if hasattr(config, "workerinput"):
        config.workeroutput["remains"] = remains
    elif remains:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    """A process of xdist's has ended: what it left behind fails the whole run."""
    node.config.stash[REMAINS] += getattr(node, "workeroutput", {}).get("remains", [])


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    for line in terminalreporter.config.stash[REMAINS]:
        terminalreporter.write_line(f"left behind by the tests: {line}", red=True)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Iterator[None]:
    """In CI everything must run: a skip is a failure there."""
    report = yield
    if report.skipped and os.environ.get("CI") == "true" and not hasattr(report, "wasxfail"):
        report.outcome = "failed"
        report.longrepr = f"skipped in CI: {report.longrepr}"
    return report


def _namespace_is_ours(config: pytest.Config) -> bool:
    """No other process makes segments where these tests look: a namespace of their own, or a run in one process."""
    return config.stash[OWN_NAMESPACE] or not hasattr(config, "workerinput")


@pytest.fixture(scope="session", autouse=True)
def _isolation() -> Iterator[None]:
    """No test touches the tables of the user who runs it."""
    with tempfile.TemporaryDirectory(prefix="mstables") as directory:
        os.environ["MEMCACHE_SHM_DIR"] = directory
        yield
        del os.environ["MEMCACHE_SHM_DIR"]


@pytest.fixture
def state_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Where this test's tables are; they are removed at its end."""
    directory = tmp_path / "tables"
    monkeypatch.setenv("MEMCACHE_SHM_DIR", str(directory))
    yield directory
    for name in statefile.names_in(str(directory)):
        registry.remove(name)


@pytest.fixture(scope="session")
def daemon_with(_isolation: None) -> Iterator[Callable[..., Daemon]]:
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


@pytest.fixture
def daemon(daemon_with: Callable[..., Daemon]) -> Iterator[Daemon]:
    """The usual one, with an empty table and one worker, which the test may not harm. (Modules whose tests need another have their own.)"""
    daemon = daemon_with("-m", "64")
    daemon.flush()
    with daemon.unharmed():
        yield daemon


@pytest.fixture(scope="session")
def certificate(_isolation: None) -> Iterator[Certificate]:
    """For localhost, made for this run."""
    with tempfile.TemporaryDirectory(prefix="mscert") as directory:
        yield make_certificate(Path(directory), "localhost")


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
def no_leaks(pytestconfig: pytest.Config) -> Iterator[None]:
    """This very test leaves no segment, no semaphore set and no process behind."""
    ids = ipc_ids()
    processes = processes_of_run(RUN).keys()
    yield
    until(lambda: processes_of_run(RUN).keys() <= processes, "processes to go", 3.0)
    if _namespace_is_ours(pytestconfig):
        until(lambda: not leaked(ids), "segments and semaphore sets to go", 3.0)
