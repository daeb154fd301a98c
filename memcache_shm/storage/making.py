"""A note about the table that is being made, so that what a killed maker leaves behind is found again.

Segment and semaphores have no name of their own (IPC_PRIVATE); until the state file is in place nothing leads to them. So
their maker first writes down what it is about to make and which objects there were before:

    .NAME.making   a state file without ids, plus the ids before; written and dropped under the flock of NAME.lock

Who has the flock and finds a note knows that its writer is dead, and removes what only that process can have left: the kernel
tells an object's size and maker (of a semaphore set: who gave it its values), and that nobody has it attached.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass

from memcache_shm.errors import LayoutError
from memcache_shm.storage import semaphores, statefile
from memcache_shm.storage.geometry import Geometry
from memcache_shm.storage.leftovers import kernel_rows, remove_objects
from memcache_shm.storage.statefile import State

_SUFFIX = ".making"
_AT_ONCE_S = 2  # from the note to the semaphore set; without values, only the time tells whose it is


@dataclass(frozen=True)
class _Note:
    """What a maker wrote down: the table to be, and the ids that are none of its."""

    state: State
    segments_before: frozenset[int]
    sets_before: frozenset[int]


def begin(directory: str, state: State) -> None:
    """Write the note; `state` has no ids yet. The caller holds the flock, and has cleared what an earlier note told of."""
    content = json.loads(state.to_json())
    content["segments_before"] = [row["shmid"] for row in kernel_rows("shm")]
    content["sets_before"] = [row["semid"] for row in kernel_rows("sem")]
    descriptor = os.open(_path(directory, state.name), os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(json.dumps(content))


def end(directory: str, name: str) -> None:
    """Drop the note, if there is one: the state file is in place, or nothing was made. The caller holds the flock."""
    try:
        os.unlink(_path(directory, name))
    except FileNotFoundError:
        return  # as nearly always


def clear(directory: str, name: str) -> None:
    """Remove what the writer of the note made before it died, and the note. The caller holds the flock."""
    note = _read(directory, name)
    if note is not None and note.state.in_this_namespace:
        named = list(_named(directory))
        remove_objects(_segments_of(note) - {state.shmid for state in named}, _sets_of(note) - {state.semid for state in named})
    end(directory, name)


def unfinished(directory: str) -> dict[str, State]:
    """The tables that have a note: their makers are at it this moment, or were killed."""
    found = {}
    for entry in statefile.entries(directory):
        if entry.startswith(".") and entry.endswith(_SUFFIX):
            note = _read(directory, entry[1 : -len(_SUFFIX)])
            if note is not None:
                found[note.state.name] = note.state
    return found


def _path(directory: str, name: str) -> str:
    return os.path.join(directory, f".{name}{_SUFFIX}")


def _read(directory: str, name: str) -> _Note | None:
    """The note about `name`. One that was cut short tells that nothing was made: the objects come after it."""
    path = _path(directory, name)
    try:
        with open(path, encoding="utf-8") as file:
            text = file.read()
        content = json.loads(text)
        return _Note(State.from_json(text, path), frozenset(content["segments_before"]), frozenset(content["sets_before"]))
    except (FileNotFoundError, PermissionError, ValueError, KeyError, TypeError, LayoutError):
        return None


def _named(directory: str) -> Iterator[State]:
    """Every state in the directory that can be read."""
    for name in statefile.names_in(directory):
        try:
            state = statefile.read_state(directory, name)
        except (LayoutError, PermissionError):
            continue  # of another version or user, and so not by the process of the note
        if state is not None:
            yield state


def _segments_of(note: _Note) -> set[int]:
    """Segments that the dead maker made and nobody has attached."""
    maker = {"key": 0, "cpid": note.state.pid, "cuid": note.state.uid, "nattch": 0}
    maker["size"] = Geometry.from_dict(note.state.geometry).segment_bytes
    return {row["shmid"] for row in kernel_rows("shm") if maker.items() <= row.items()} - note.segments_before


def _sets_of(note: _Note) -> set[int]:
    """Semaphore sets to which the dead maker, and nobody else, gave values; or nobody, when it died right before that."""
    count = Geometry.from_dict(note.state.geometry).plan.process_slots
    maker = {"key": 0, "cuid": note.state.uid, "nsems": count}
    found = set()
    for row in kernel_rows("sem"):
        if maker.items() <= row.items() and row["semid"] not in note.sets_before:
            users = semaphores.users(row["semid"], count)
            at_once = 0 <= row["ctime"] - int(note.state.created) <= _AT_ONCE_S
            if users == {note.state.pid} or (users == {0} and at_once):
                found.add(row["semid"])
    return found
