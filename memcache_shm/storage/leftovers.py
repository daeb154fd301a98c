"""Remove by number what a table left that can no longer be attached: another layout, or half of it gone.

Ids are given out again by the kernel, so nothing is removed before it was recognised: a segment by the table's uuid in
its first page, a semaphore set by its row in /proc/sysvipc/sem (proc(5)).
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable

import sysv_ipc  # type: ignore[import-not-found]  # an extension module without a stub

from memcache_shm.storage.statefile import State

_HEADER_BYTES = 4096  # the header with the uuid is in the first page
_CREATED_WITHIN_S = 5  # from the set's last change by semctl, its creation, to the state file


def kernel_rows(kind: str) -> list[dict[str, int]]:
    """The kernel's list of segments ("shm") or semaphore sets ("sem") in this IPC namespace, by column name."""
    with open(f"/proc/sysvipc/{kind}", encoding="ascii") as table:
        columns = table.readline().split()
        return [dict(zip(columns, map(int, line.split()), strict=True)) for line in table]


def remove_leftovers(state: State) -> None:
    """Remove the segment and the semaphore set of `state` as far as they exist and are its own. Raises PermissionError."""
    try:
        if _segment_is_of(state):
            remove_objects([state.shmid], [])
        if _semaphores_are_of(state):
            remove_objects([], [state.semid])
    except sysv_ipc.PermissionsError:
        raise PermissionError(f"table {state.name!r} belongs to another user; only they or root can remove it") from None


def remove_objects(segments: Iterable[int], sets: Iterable[int]) -> None:
    """Remove them by id; what somebody else has removed meanwhile is as good. Raises sysv_ipc.PermissionsError."""
    for shmid in segments:
        with contextlib.suppress(sysv_ipc.ExistentialError):
            sysv_ipc.remove_shared_memory(shmid)
    for semid in sets:
        with contextlib.suppress(sysv_ipc.ExistentialError):
            sysv_ipc.remove_semaphore(semid)


def _segment_is_of(state: State) -> bool:
    if not any(row["shmid"] == state.shmid and row["cuid"] == state.uid for row in kernel_rows("shm")):
        return False  # gone, or the id is another user's by now
    try:
        segment = sysv_ipc.attach(state.shmid, None, sysv_ipc.SHM_RDONLY)
    except (sysv_ipc.ExistentialError, ValueError):
        return False
    try:
        return bytes.fromhex(state.uuid) in segment.read(min(_HEADER_BYTES, segment.size))
    finally:
        segment.detach()


def _semaphores_are_of(state: State) -> bool:
    for row in kernel_rows("sem"):
        if row["semid"] == state.semid:
            age_s = abs(row["ctime"] - state.created)
            return row["key"] == 0 and row["cuid"] == state.uid and age_s <= _CREATED_WITHIN_S
    return False
