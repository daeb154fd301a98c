"""Names of tables: create, attach, claim for a daemon, remove.

A name is taken by its state file (`statefile`), and changes hands under its lock file (`namelock`):

    open_or_create   a program: takes the table that is there or makes one; never removes it
    claim            a daemon: the same, and nobody else serves the name as long as its process lives
    attach           a reader or writer of what is there; needs no lock, since state files appear whole
    remove           retires and removes the table, then the name

Who removes: `Claim.release` removes a table that a daemon made (this one, or a killed or `--keep` predecessor whose table
it adopted), never one that a program made by `open`: that is what `made_by` records.

A successor is announced in the table that it replaces: who still has that one mapped changes over at its next call.
"""

from __future__ import annotations

import os

from memcache_shm.errors import LayoutError, TableExistsError, TableNotFoundError, TableRemovedError
from memcache_shm.storage import following, making, statefile
from memcache_shm.storage.claiming import Claim
from memcache_shm.storage.creating import Fill, create, follow, send_away
from memcache_shm.storage.geometry import Geometry
from memcache_shm.storage.leftovers import remove_leftovers
from memcache_shm.storage.namelock import NameLock
from memcache_shm.storage.statefile import State
from memcache_shm.storage.table import Table

DEFAULT_MODE = 0o600


# Attaching


def attach(name: str, *, readonly: bool = False, user: str | int | None = None, directory: str | None = None) -> tuple[Table, State]:
    """The table of that name in `directory`, else in `user`'s, else in one's own or root's.

    Raises TableNotFoundError, TableRemovedError (the name is there, the segment is not), LayoutError, PermissionError.
    """
    statefile.check_name(name)
    directories = [directory] if directory is not None else statefile.search_directories(user)
    denied = []
    for place in directories:
        try:
            state = statefile.read_state(place, name)
        except PermissionError:
            denied.append(place)
            continue
        found = _attach_newest(state, readonly)
        if found is not None:
            return found
    if denied:
        raise PermissionError(f"table {name!r} in {denied[0]} is not for user {os.geteuid()}; ask its owner for another --mode")
    raise TableNotFoundError(f"no table {name!r} in {' or '.join(directories)}; start a daemon or call open()")


def _attach_newest(state: State | None, readonly: bool) -> tuple[Table, State] | None:
    while state is not None:
        try:
            return attach_state(state, readonly), state
        except TableRemovedError:
            # It may have been replaced after its state was read: then the name leads to another one now, or to none.
            newer = statefile.read_state(state.directory, state.name)
            if newer is not None and newer.uuid == state.uuid:
                raise
            state = newer
    return None


def attach_state(state: State, readonly: bool) -> Table:
    """The table that `state` tells of. TableNotFoundError (another IPC namespace), TableRemovedError, LayoutError, PermissionError."""
    if not state.in_this_namespace:
        raise TableNotFoundError(
            f"table {state.name!r} is in another IPC namespace ({state.ipc_namespace});"
            " let both containers share one, or use another MEMCACHE_SHM_DIR"
        )
    try:
        table = Table.attach(state.shmid, state.semid, state.uuid, readonly=readonly)
    except TableRemovedError:
        raise _removed_error(state.name) from None
    if table.retired:
        # Attaching by id works until the last of those who had it attached when it was removed detaches.
        table.close()
        raise _removed_error(state.name)
    return table


def _removed_error(name: str) -> TableRemovedError:
    return TableRemovedError(
        f"the memory of table {name!r} was removed (ipcrm, a logout with logind's RemoveIPC, or its daemon is just ending);"
        f" open() or a daemon makes a new one, 'memcache-shm rm {name}' forgets the name"
    )


# Creating


def open_or_create(
    name: str,
    geometry: Geometry,
    *,
    any_geometry: bool = False,
    mode: int = DEFAULT_MODE,
    evict: bool = True,
) -> tuple[Table, State]:
    """The table of that name in one's own directory, made with `geometry` when there is none.

    An existing one of another geometry: TableExistsError, or taken as it is with `any_geometry`. TableRemovedError while a
    daemon of that name has lost its table and is about to make a new one.
    """
    statefile.check_name(name)
    directory = statefile.own_directory()
    found = _attach_existing(directory, name)
    if found is None:
        _refuse_own_claim(directory, name)
        statefile.make_directory(directory, mode)
        with NameLock(directory, name, mode) as lock:
            found = _attach_existing(directory, name)
            if found is None:
                _leave_to_daemon(lock, name)
                found = create(directory, name, geometry, mode, evict, made_by="open")
    table, state = found
    if not any_geometry:
        _check_same(table, state, geometry)
    return found


def _leave_to_daemon(lock: NameLock, name: str) -> None:
    pid = lock.daemon_pid()
    if pid is not None:
        raise TableRemovedError(
            f"the memory of table {name!r} was removed from outside; {_daemon(pid)} makes a new one within seconds: try again, or stop it"
        )


def _attach_existing(directory: str, name: str) -> tuple[Table, State] | None:
    """The table that the name leads to; None when there is none, or none any more."""
    state = statefile.read_state(directory, name)
    if state is None:
        return None
    try:
        return attach_state(state, readonly=False), state
    except TableRemovedError:
        return None


def _check_same(table: Table, state: State, geometry: Geometry) -> None:
    if _asked(table.geometry) != _asked(geometry):
        table.close()
        raise _differs(state.name, table.geometry.describe(), geometry.describe())


def _differs(name: str, has: str, wanted: str) -> TableExistsError:
    return TableExistsError(
        f"table {name!r} exists with {has}, not {wanted}; ask for the same, choose another name,"
        f" or save it with 'memcache-shm backup {name} FILE' and remove it with 'memcache-shm rm {name}'"
    )


def _asked(geometry: Geometry) -> dict[str, int]:
    """What the user asked for: the number of shards follows from the CPUs of the moment and may differ."""
    return {name: number for name, number in geometry.to_dict().items() if name != "shards"}


# Daemons


def claim(
    name: str,
    geometry: Geometry,
    *,
    mode: int = DEFAULT_MODE,
    evict: bool = True,
    follows: bool = False,
    fill: Fill | None = None,
    socket: str = "",
) -> Claim:
    """Take `name` for this process: its table if it is there with the same geometry, else a new one; with `follows` one that only who keeps
    it in step may change (see following.pyx).

    `fill` puts items into each one that is made, now or by `recreate`, unless it follows, and before anybody can find it. Who is killed
    amid that leaves a table without a name, which the next one clears away. `socket` is the absolute path of the daemon's UNIX socket.
    Raises TableExistsError when another daemon serves it or the table differs, LayoutError when it is of another version, what `fill` does.
    """
    statefile.check_name(name)
    directory = statefile.own_directory()
    statefile.make_directory(directory, mode)
    _refuse_own_claim(directory, name)
    lock = NameLock(directory, name, mode)
    try:
        if not lock.claim():
            _refuse_served(lock, name)
        found = _attach_existing(directory, name)
        if found is None:
            first = follow if follows else fill
            table, state = create(directory, name, geometry, mode, evict, made_by="daemon", fill=first, socket=socket)
        else:
            table, state = _adopt(*found, geometry, mode, evict, follows, socket)
        lock.unlock()
    except BaseException:
        if lock.daemon_pid() is None and not os.path.exists(statefile.state_path(directory, name)):
            lock.discard()  # nothing has come of it
        lock.close()
        raise
    return Claim(lock, table, state, found is not None, fill)


def _adopt(table: Table, state: State, geometry: Geometry, mode: int, evict: bool, follows: bool, socket: str) -> tuple[Table, State]:
    _check_same(table, state, geometry)
    for has, wanted in ((_eviction(state.evict), _eviction(evict)), (_permissions(state.mode), _permissions(mode))):
        if has != wanted:
            table.close()
            raise _differs(state.name, has, wanted)
    table.sweep()  # nobody may have looked after the dead since its last daemon died
    state = statefile.write_state(state.directory, state.with_owner(served=True, socket=socket))
    if follows:
        following.follow(table)
    return table, state


def _eviction(evict: bool) -> str:
    return "eviction on" if evict else "eviction off (-M)"


def _permissions(mode: int) -> str:
    return f"--mode {mode:04o}"


def _refuse_served(lock: NameLock, name: str) -> None:
    pid = lock.daemon_pid()
    if pid is not None:
        raise _served_error(name, pid)


def _refuse_own_claim(directory: str, name: str) -> None:
    """Opening the lock file of one's own claim would end the claim (see `namelock`)."""
    state = statefile.read_state(directory, name)
    if state is not None and state.served and state.owner_is_me:
        raise _served_error(name, os.getpid())


def _served_error(name: str, pid: int) -> TableExistsError:
    return TableExistsError(f"table {name!r} is served by {_daemon(pid)}; stop it, or choose another name")


def _daemon(pid: int) -> str:
    return f"the daemon with pid {pid}" if pid else "a daemon in another PID namespace"


# Removing


def remove(name: str) -> None:
    """Retire and remove the table of that name in one's own directory, and the name.

    Attached processes keep a mapping that answers TableRemovedError. Raises TableExistsError while a daemon serves it,
    TableNotFoundError, PermissionError.
    """
    statefile.check_name(name)
    directory = statefile.own_directory()
    if name not in {*statefile.names_in(directory), *making.unfinished(directory)}:
        raise TableNotFoundError(f"no table {name!r} in {directory}; 'memcache-shm ls' shows what there is")
    _refuse_own_claim(directory, name)
    with NameLock(directory, name) as lock:
        _refuse_served(lock, name)
        making.clear(directory, name)
        state = statefile.read_state(directory, name)
        if state is not None and state.in_this_namespace:
            _destroy(state)
        statefile.drop_state(directory, name)
        lock.discard()


def _destroy(state: State) -> None:
    try:
        table = Table.attach(state.shmid, state.semid, state.uuid)
    except (TableRemovedError, LayoutError):
        send_away(state)
        remove_leftovers(state)
        return
    table.destroy()
    table.close()
