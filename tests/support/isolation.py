"""A System V IPC namespace, a state directory and an environment mark of this process's own, and what was left behind in them.

With a namespace of its own each test process sees only the segments and semaphore sets that its tests made, however many
run at once. Where the right for it is missing, only the process that started the session compares, before and after.
"""

from __future__ import annotations

import ctypes
import os
from pathlib import Path

RUN_VARIABLE = "MEMCACHE_SHM_TEST_RUN"  # in the environment of every process a test starts
RESOURCE_TRACKER = "multiprocessing.resource_tracker"  # the standard library's, ends after the process that started it
_CLONE_NEWIPC = 0x08000000  # <linux/sched.h>
_ID_COLUMN = 1  # of /proc/sysvipc/{shm,sem}: key, id, ...


def enter_own_namespace() -> bool:
    """Give this thread and all it starts a fresh IPC namespace; False where that needs more rights."""
    libc = ctypes.CDLL(None, use_errno=True)
    return libc.unshare(_CLONE_NEWIPC) == 0


def ipc_ids() -> dict[str, set[int]]:
    """The ids of all segments and semaphore sets in the namespace, as the kernel lists them."""
    return {kind: _ids(kind) for kind in ("shm", "sem")}


def _ids(kind: str) -> set[int]:
    lines = Path(f"/proc/sysvipc/{kind}").read_text().splitlines()[1:]
    return {int(line.split()[_ID_COLUMN]) for line in lines}


def leaked(before: dict[str, set[int]]) -> dict[str, set[int]]:
    """What `ipc_ids` lists now and did not list `before`."""
    now = ipc_ids()
    return {kind: now[kind] - before[kind] for kind in now if now[kind] - before[kind]}


def processes_of_run(run: str) -> dict[int, str]:
    """Command lines by pid of the living processes that carry this run's mark, this process left out."""
    mark = f"{RUN_VARIABLE}={run}".encode()
    found = {}
    for directory in Path("/proc").glob("[0-9]*"):
        try:
            marked = mark in (directory / "environ").read_bytes().split(b"\0")
            command = (directory / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
        except OSError:
            continue  # ended meanwhile, or another user's
        if marked:
            found[int(directory.name)] = command
    found.pop(os.getpid(), None)
    return {pid: command for pid, command in found.items() if RESOURCE_TRACKER not in command}


def is_running(pid: int) -> bool:
    """Whether the process lives; one that ended and waits for a (new) parent to notice does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def sleeps(pid: int) -> bool:
    """Whether a process waits for something."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "S"


def children(pid: int) -> dict[int, str]:
    """State letters (R, S, Z, ...) of the living and the unreaped children of a process, by pid."""
    found = {}
    for directory in Path("/proc").glob("[0-9]*"):
        try:
            fields = (directory / "stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[1]) == pid:
            found[int(directory.name)] = fields[0]
    return found
