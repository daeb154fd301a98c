"""The processor time of a whole daemon, from /proc."""

from __future__ import annotations

import os
from collections.abc import Iterable


def daemon_seconds(supervisor: int, workers: Iterable[int]) -> tuple[float, float]:
    """User and system time so far: of the supervisor, of its workers, and of those it has reaped. A step is 1/100 s (a clock tick)."""
    own = _ticks(supervisor)
    user, system = own[0] + own[2], own[1] + own[3]
    for pid in workers:
        one = _ticks(pid)
        user += one[0]
        system += one[1]
    per_second = os.sysconf("SC_CLK_TCK")
    return user / per_second, system / per_second


def _ticks(pid: int) -> tuple[int, int, int, int]:
    """utime, stime, cutime, cstime (proc(5)); zeros for a process that is gone."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            fields = file.read().rpartition(b")")[2].split()
    except OSError:
        return 0, 0, 0, 0
    return int(fields[11]), int(fields[12]), int(fields[13]), int(fields[14])
