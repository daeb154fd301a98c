"""Names of tables: who may make, claim and remove them, and what kills leave behind."""

from __future__ import annotations

import json
import os
import signal
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import sysv_ipc

from memcache_shm.errors import BusyError, LayoutError, MemcacheError, TableExistsError, TableNotFoundError, TableRemovedError
from memcache_shm.storage import inventory, leftovers, namelock, registry, statefile
from memcache_shm.storage.geometry import Geometry
from memcache_shm.storage.inventory import Status
from memcache_shm.storage.namelock import NameLock

GEOMETRY = Geometry.by_elements(16, 100)
OTHER = Geometry.by_elements(17, 100)

CLAIMER = """
import signal, sys
from memcache_shm.storage import registry
from memcache_shm.storage.geometry import Geometry
claim = registry.claim(sys.argv[1], Geometry.by_elements(16, 100))
print("claimed", claim.adopted, claim.table.uuid, flush=True)
sys.stdin.readline()
claim.release(keep=len(sys.argv) > 2)
"""


@pytest.fixture
def directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    path = str(tmp_path / "tables")
    monkeypatch.setenv("MEMCACHE_SHM_DIR", path)
    yield path
    for name in statefile.names_in(path):
        registry.remove(name)


class Daemon:
    """A process that claims a name until `end` or `kill`."""

    def __init__(self, name: str, *options: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", CLAIMER, name, *options], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert self.process.stdout is not None
        _, adopted, self.uuid = self.process.stdout.readline().split()
        self.adopted = adopted == "True"

    def end(self) -> None:
        self.process.communicate("\n")
        assert self.process.returncode == 0

    def kill(self) -> None:
        self.process.kill()
        self.process.communicate()


def ids_exist(state: statefile.State) -> tuple[bool, bool]:
    """Whether segment and semaphore set of `state` are known to the kernel."""
    found = []
    for kind, column, number in (("shm", "shmid", state.shmid), ("sem", "semid", state.semid)):
        header, *rows = Path(f"/proc/sysvipc/{kind}").read_text().splitlines()
        place = header.split().index(column)
        found.append(any(int(row.split()[place]) == number for row in rows))
    return found[0], found[1]


def status_of(name: str) -> Status:
    (status,) = [entry.status for entry in inventory.list_tables() if entry.state.name == name]
    return status


def test_create_attach_remove(directory: str) -> None:
    made, state = registry.open_or_create("app", GEOMETRY)
    assert state.made_by == "open"
    assert ids_exist(state) == (True, True)
    attached, same = registry.attach("app")
    assert same == state
    assert attached.uuid == made.uuid
    assert attached.geometry == GEOMETRY
    registry.remove("app")
    assert made.retired
    assert ids_exist(state)[1] is False
    made.close()
    attached.close()
    assert ids_exist(state) == (False, False)
    assert os.listdir(directory) == []
    with pytest.raises(TableNotFoundError):
        registry.attach("app")


def test_second_opener_gets_the_same(directory: str) -> None:
    first, _ = registry.open_or_create("app", GEOMETRY)
    second, _ = registry.open_or_create("app", GEOMETRY)
    third, _ = registry.open_or_create("app", OTHER, any_geometry=True)
    assert first.uuid == second.uuid == third.uuid
    with pytest.raises(TableExistsError, match=r"16 elements.*not 17 elements.*rm app"):
        registry.open_or_create("app", OTHER)


def test_openers_race_for_one_table(directory: str) -> None:
    script = (
        "import sys\nfrom memcache_shm.storage import registry\nfrom memcache_shm.storage.geometry import Geometry\n"
        "sys.stdin.readline()\nprint(registry.open_or_create('app', Geometry.by_elements(16, 100))[0].uuid)"
    )
    racers = [subprocess.Popen([sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(4)]
    for racer in racers:
        assert racer.stdin is not None
        racer.stdin.write("\n")
        racer.stdin.flush()
    assert len({racer.communicate()[0] for racer in racers}) == 1


def test_modes_of_files_and_directory(directory: str) -> None:
    registry.open_or_create("mine", GEOMETRY)
    assert stat.S_IMODE(os.stat(directory).st_mode) == 0o700
    _, state = registry.open_or_create("shared", GEOMETRY, mode=0o640)
    assert stat.S_IMODE(os.stat(directory).st_mode) == 0o750
    modes = {name: stat.S_IMODE(os.stat(os.path.join(directory, name)).st_mode) for name in os.listdir(directory)}
    assert modes == {"mine.json": 0o600, "mine.lock": 0o600, "shared.json": 0o640, "shared.lock": 0o640}
    registry.open_or_create("another", GEOMETRY)
    assert stat.S_IMODE(os.stat(directory).st_mode) == 0o750
    assert state.mode == 0o640


def test_daemon_removes_what_it_made(directory: str) -> None:
    daemon = Daemon("app")
    _, state = registry.attach("app")
    assert state.served
    assert state.pid == daemon.process.pid
    assert status_of("app") is Status.SERVED
    daemon.end()
    assert os.listdir(directory) == []
    assert ids_exist(state)[1] is False


def test_second_daemon_is_refused_with_the_pid(directory: str) -> None:
    daemon = Daemon("app")
    for call in (lambda: registry.claim("app", GEOMETRY), lambda: registry.remove("app")):
        with pytest.raises(TableExistsError, match=f"pid {daemon.process.pid}"):
            call()
    assert status_of("app") is Status.SERVED
    daemon.end()


def test_own_claim_survives_use_of_the_registry(directory: str) -> None:
    claim = registry.claim("app", GEOMETRY)
    registry.open_or_create("app", GEOMETRY)
    registry.attach("app")
    assert status_of("app") is Status.SERVED
    for call in (lambda: registry.claim("app", GEOMETRY), lambda: registry.remove("app")):
        with pytest.raises(TableExistsError, match=f"pid {os.getpid()}"):
            call()
    refused = subprocess.run([sys.executable, "-c", CLAIMER, "app"], input="\n", capture_output=True, text=True, check=False)
    assert f"served by the daemon with pid {os.getpid()}" in refused.stderr
    claim.release()
    assert os.listdir(directory) == []


def test_killed_daemon_is_succeeded(directory: str) -> None:
    first = Daemon("app")
    first.kill()
    assert status_of("app") is Status.LEFT_BEHIND
    with pytest.raises(TableExistsError, match="rm app"):
        registry.claim("app", OTHER)
    with pytest.raises(TableExistsError, match=r"eviction on, not eviction off \(-M\).*backup app.*rm app"):
        registry.claim("app", GEOMETRY, evict=False)
    second = Daemon("app")
    assert second.adopted
    assert second.uuid == first.uuid
    second.end()
    assert os.listdir(directory) == []


def test_kept_table_is_taken_over(directory: str) -> None:
    first = Daemon("app", "keep")
    first.end()
    assert status_of("app") is Status.KEPT
    second = Daemon("app")
    assert (second.adopted, second.uuid) == (True, first.uuid)
    second.end()
    assert os.listdir(directory) == []


def test_daemon_never_removes_what_open_made(directory: str) -> None:
    table, _ = registry.open_or_create("app", GEOMETRY)
    assert status_of("app") is Status.OPEN
    daemon = Daemon("app")
    assert daemon.adopted
    assert status_of("app") is Status.SERVED
    daemon.end()
    assert status_of("app") is Status.OPEN
    assert not table.retired


def test_segment_removed_from_outside(directory: str) -> None:
    table, state = registry.open_or_create("app", GEOMETRY)
    table.close()
    sysv_ipc.remove_shared_memory(state.shmid)
    assert ids_exist(state) == (False, True)
    assert status_of("app") is Status.GONE
    with pytest.raises(TableRemovedError, match="rm app"):
        registry.attach("app")
    _, anew = registry.open_or_create("app", GEOMETRY)
    assert anew.uuid != state.uuid
    assert ids_exist(state) == (False, False), "the old semaphores went, too"


def test_removed_from_outside_while_its_leftovers_are_seen_to(directory: str, monkeypatch: pytest.MonkeyPatch) -> None:
    table, state = registry.open_or_create("app", GEOMETRY)
    table.close()
    for remove, number in ((sysv_ipc.remove_shared_memory, state.shmid), (sysv_ipc.remove_semaphore, state.semid)):
        remove(number)
    with monkeypatch.context() as patch:  # recognised, and gone right after that
        patch.setattr(leftovers, "_segment_is_of", lambda state: True)
        patch.setattr(leftovers, "_semaphores_are_of", lambda state: True)
        _, anew = registry.open_or_create("app", GEOMETRY)
    assert ids_exist(anew) == (True, True)


def test_a_daemon_that_lost_its_table_has_the_name_still(directory: str) -> None:
    """No program makes a table that the daemon would not serve: it makes a new one itself."""
    daemon = Daemon("app")
    table, state = registry.attach("app")
    table.close()
    sysv_ipc.remove_shared_memory(state.shmid)
    with pytest.raises(TableRemovedError, match=f"pid {daemon.process.pid} makes a new one.*try again"):
        registry.open_or_create("app", GEOMETRY)
    for call in (lambda: registry.claim("app", GEOMETRY), lambda: registry.remove("app")):
        with pytest.raises(TableExistsError, match=f"pid {daemon.process.pid}"):
            call()
    daemon.end()
    assert os.listdir(directory) == []


def test_remove_after_removal_from_outside(directory: str) -> None:
    table, state = registry.open_or_create("app", GEOMETRY)
    table.close()
    sysv_ipc.remove_shared_memory(state.shmid)
    registry.remove("app")
    assert ids_exist(state) == (False, False)
    assert os.listdir(directory) == []


def test_retired_table_is_replaced(directory: str) -> None:
    table, state = registry.open_or_create("app", GEOMETRY)
    table.retire()
    with pytest.raises(TableRemovedError):
        registry.attach("app")
    anew, _ = registry.open_or_create("app", GEOMETRY)
    assert anew.uuid != table.uuid
    table.close()
    assert ids_exist(state) == (False, False)


def test_foreign_ids_are_left_alone(directory: str) -> None:
    table, state = registry.open_or_create("app", GEOMETRY)
    mine, theirs = registry.open_or_create("other", GEOMETRY)
    table.destroy()
    table.close()
    # as if the kernel had given our ids out again
    content = json.loads(state.to_json()) | {"shmid": theirs.shmid, "semid": theirs.semid, "created": state.created - 60}
    Path(directory, "app.json").write_text(json.dumps(content))
    assert status_of("app") is Status.GONE
    registry.remove("app")
    assert ids_exist(theirs) == (True, True)
    assert not mine.retired


def test_half_made_name_is_no_obstacle(directory: str) -> None:
    os.mkdir(directory)
    Path(directory, "app.lock").touch()
    with pytest.raises(TableNotFoundError):
        registry.remove("app")
    table, _ = registry.open_or_create("app", GEOMETRY)
    assert not table.retired


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"version": 99}', '{"version": 1}'])
def test_unreadable_state_file(directory: str, text: str) -> None:
    os.mkdir(directory)
    path = Path(directory, "app.json")
    path.write_text(text)
    for call in (lambda: registry.attach("app"), lambda: registry.claim("app", GEOMETRY), lambda: registry.remove("app")):
        with pytest.raises(LayoutError, match=r"app\.json.*delete the file"):
            call()
    assert inventory.list_tables() == []
    path.unlink()


def test_other_namespace(directory: str) -> None:
    table, state = registry.open_or_create("app", GEOMETRY)
    content = json.loads(state.to_json()) | {"ipc_namespace": "ipc:[1]"}
    path = Path(directory, "app.json")
    path.write_text(json.dumps(content))
    for call in (lambda: registry.attach("app"), lambda: registry.open_or_create("app", GEOMETRY)):
        with pytest.raises(TableNotFoundError, match="IPC namespace"):
            call()
    path.write_text(state.to_json())
    assert not table.retired


def test_lock_file_replaced_while_waiting(directory: str) -> None:
    """Who waits for a lock file that its owner unlinks gets a new file, not the dead one."""
    statefile.make_directory(directory, 0o600)
    script = (
        "import os, sys\nfrom memcache_shm.storage import namelock, statefile\nprint('waiting', flush=True)\n"
        "with namelock.NameLock(sys.argv[1], 'app'): os.stat(statefile.lock_path(sys.argv[1], 'app'))"
    )
    first = NameLock(directory, "app")
    with subprocess.Popen([sys.executable, "-c", script, directory], stdout=subprocess.PIPE) as waiter:
        assert waiter.stdout is not None
        waiter.stdout.readline()
        first.discard()
        first.close()
    assert waiter.returncode == 0


def test_stopped_holder_does_not_block_for_ever(directory: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(namelock, "WAIT_LIMIT_S", 0.1)
    statefile.make_directory(directory, 0o600)
    with NameLock(directory, "app"), pytest.raises(BusyError, match=r"app\.lock"):
        registry.open_or_create("app", GEOMETRY)


def test_stopped_daemon_still_has_its_name(directory: str) -> None:
    daemon = Daemon("app")
    os.kill(daemon.process.pid, signal.SIGSTOP)
    with pytest.raises(TableExistsError, match="served"):
        registry.claim("app", GEOMETRY)
    os.kill(daemon.process.pid, signal.SIGCONT)
    daemon.end()


def test_default_directory_of_another_user_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("MEMCACHE_SHM_DIR", raising=False)
    prefix = str(tmp_path / "memcache_shm-")
    monkeypatch.setattr(statefile, "_DEFAULT_PREFIX", prefix)
    link = Path(prefix + str(os.geteuid()))
    link.symlink_to(tmp_path)
    with pytest.raises(MemcacheError, match="not a directory of user"):
        registry.open_or_create("app", GEOMETRY)
    link.unlink()
    link.mkdir(mode=0o777)
    link.chmod(0o777)
    with pytest.raises(MemcacheError, match="only they can write"):
        registry.open_or_create("app", GEOMETRY)
    assert statefile.own_directory() == str(link)
    assert statefile.search_directories(user=12345) == [prefix + "12345"]
    assert statefile.search_directories(user="root") == [prefix + "0"]


def test_state_directory_that_is_a_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.touch()
    monkeypatch.setenv("MEMCACHE_SHM_DIR", str(path))
    with pytest.raises(MemcacheError, match="MEMCACHE_SHM_DIR"):
        registry.open_or_create("app", GEOMETRY)
    monkeypatch.setenv("MEMCACHE_SHM_DIR", str(path / "below"))
    with pytest.raises(MemcacheError, match="set MEMCACHE_SHM_DIR"):
        registry.open_or_create("app", GEOMETRY)


def test_table_that_may_not_be_read(directory: str, monkeypatch: pytest.MonkeyPatch) -> None:
    registry.open_or_create("app", GEOMETRY)

    def refuse(directory: str, name: str) -> None:
        raise PermissionError(13, "Permission denied")

    with monkeypatch.context() as patch, pytest.raises(PermissionError, match=r"'app'.*--mode"):
        patch.setattr(statefile, "read_state", refuse)
        registry.attach("app")
