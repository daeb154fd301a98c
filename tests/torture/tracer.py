"""Single-stepping from Python: the C helper compiled and bound, and one operation's trace.

A trace tells, for each instruction of a call, where it is and what it changed in the segment. Two traces of the same call tell which
words are never the same twice (clock readings, the child's own process slot), so that a killed run can be compared with them.
"""

from __future__ import annotations

import ctypes
import functools
import mmap
import os
import subprocess
import tempfile
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

STOPPED = 1
FINISHED = 0
MOST_STEPS = 1_000_000
MOST_CHANGES = 400_000
REFUSED = -2
STRAYING = 1_000_000  # the cost of a step in the clock's code: what comes after it is reached in another way
FAILED_CALL = 1
_SOURCE = Path(__file__).with_name("tracer.c")


class Range(ctypes.Structure):
    """Addresses of one watched library's code."""

    _fields_ = [("start", ctypes.c_uint64), ("end", ctypes.c_uint64)]


class Change(ctypes.Structure):
    """A word of the segment that has another value from kill point `step` on."""

    _fields_ = [("step", ctypes.c_uint32), ("word", ctypes.c_uint32), ("value", ctypes.c_uint64)]


@functools.cache
def load_helper() -> ctypes.PyDLL:
    """Compile and load the C helper. PyDLL: the GIL is kept, so that a forked child has it."""
    with tempfile.TemporaryDirectory(prefix="tracer") as directory:
        library = os.path.join(directory, "tracer.so")
        command = [os.environ.get("CC", "cc"), "-O2", "-shared", "-fPIC", "-o", library, str(_SOURCE)]
        subprocess.run(command, check=True, timeout=60)
        helper = ctypes.PyDLL(library)
    pointer, u64 = ctypes.c_void_p, ctypes.c_uint64
    long_pointer = ctypes.POINTER(ctypes.c_long)
    for name, result, arguments in (
        ("spawn", ctypes.c_int, []),
        ("finish", None, [ctypes.c_int]),
        ("step_in", ctypes.c_int, [ctypes.c_int, pointer, ctypes.c_int, pointer, ctypes.c_int]),
        (
            "trace",
            ctypes.c_long,
            [ctypes.c_int, pointer, ctypes.c_int, pointer, pointer, u64, pointer, ctypes.c_long, pointer, ctypes.c_long, long_pointer],
        ),
        ("run_to", ctypes.c_int, [ctypes.c_int, u64, u64]),
        ("step_to", ctypes.c_int, [ctypes.c_int, u64, u64]),
        ("step_until", ctypes.c_int, [ctypes.c_int, pointer]),
        ("complete", ctypes.c_int, [ctypes.c_int]),
        ("destroy", ctypes.c_int, [ctypes.c_int]),
        ("attach", ctypes.c_int, [ctypes.c_int]),
        ("walk", ctypes.c_long, [ctypes.c_int, ctypes.c_long, pointer]),
        ("apply", ctypes.c_long, [pointer, pointer, ctypes.c_long, ctypes.c_long, ctypes.c_uint32]),
        ("differs", ctypes.c_long, [pointer, pointer, pointer, u64]),
        ("map_segment", pointer, [ctypes.c_int]),
        ("unmap_segment", ctypes.c_int, [pointer]),
    ):
        function = getattr(helper, name)
        function.restype, function.argtypes = result, arguments
    return helper


def _unforked(size_bytes: int) -> mmap.mmap:
    """Memory that children do not get: every fork would copy its page tables."""
    memory = mmap.mmap(-1, size_bytes)
    memory.madvise(mmap.MADV_DONTFORK)
    return memory


def code_of(*parts: str, pid: int | str = "self") -> list[tuple[int, int]]:
    """Where in a process the executable code of the libraries lies whose path contains one of `parts`."""
    found = []
    for line in Path(f"/proc/{pid}/maps").read_text().splitlines():
        fields = line.split(maxsplit=5)
        if len(fields) == 6 and "x" in fields[1] and any(part in fields[5] for part in parts):
            start, end = fields[0].split("-")
            found.append((int(start, 16), int(end, 16)))
    return found


@dataclass
class Trace:
    """One call, instruction by instruction."""

    rips: list[int]  # by kill point: the instruction that comes next
    changes: ctypes.Array[Change]
    n_changes: int
    status: int  # of the call: 0, or FAILED_CALL
    visits: list[int] = field(default_factory=list)  # how to get to a kill point: this many visits ...
    anchor: list[int] = field(default_factory=list)  # ... of the instruction at that kill point, then single steps
    in_clock: list[bool] = field(default_factory=list)

    def plan(self) -> None:
        """For each kill point the cheapest way there: visits by debug register, then single steps. The clock's own code is no place
        to count visits at: how often it loops is up to the moment."""
        clock = code_of("[vdso]")
        self.in_clock = [any(start <= rip < end for start, end in clock) for rip in self.rips]
        seen: Counter[int] = Counter()
        cost, anchor = 0, 0
        self.visits, self.anchor = [0], [0]
        for k, rip in enumerate(self.rips[1:], 1):
            repeated = rip == self.rips[k - 1]  # a string instruction repeating itself: a debug register stops before the first round only
            seen[rip] += not repeated or k == 1
            cost += STRAYING if self.in_clock[k] else 1
            if not repeated and not self.in_clock[k] and seen[rip] <= cost:
                cost, anchor = seen[rip], k
            self.visits.append(seen[rip])
            self.anchor.append(anchor)

    def steps_with_changes(self) -> list[int]:
        return sorted({self.changes[i].step for i in range(self.n_changes)})


class Tracer:
    """Runs a call in children that are forked from this process and stopped where wanted."""

    def __init__(self, watched: str, segment: int, size_bytes: int) -> None:
        self.helper = load_helper()
        ranges = code_of(watched)
        self.ranges = (Range * len(ranges))(*ranges)
        self.segment = segment
        self.size_bytes = size_bytes
        self.is_typical: Callable[[int], bool] = lambda pid: True  # whether a child of this pid takes the same way as the others
        self._rips = (ctypes.c_uint64 * MOST_STEPS).from_buffer(_unforked(8 * MOST_STEPS))
        self._changes = (Change * MOST_CHANGES).from_buffer(_unforked(ctypes.sizeof(Change) * MOST_CHANGES))
        self.plain = False  # no debug registers here: step every instruction

    def spawn(self, call: Callable[[], Any], arrange: Callable[[int], None] | None = None) -> int:
        """A stopped child that is about to make the call."""
        while True:
            pid: int = self.helper.spawn()
            if pid == 0:
                self._run(call)
            if pid < 0:
                raise OSError("no child can be forked and traced here")
            if self.is_typical(pid):
                break
            self.helper.destroy(pid)
        if arrange:
            arrange(pid)
        return pid

    def _run(self, call: Callable[[], Any]) -> None:
        """In the child, which does not come back."""
        try:
            call()
        except BaseException as error:  # noqa: BLE001 - told by the exit status and here
            os.write(2, f"in the traced call: {error!r}\n".encode())
            self.helper.finish(FAILED_CALL)
        self.helper.finish(0)

    def trace(self, call: Callable[[], Any], arrange: Callable[[int], None] | None = None, entries: Sequence[int] = ()) -> Trace:
        """Step through the whole call. `entries`: where its window begins, when that is known."""
        pid = self.spawn(call, arrange)
        shadow = ctypes.create_string_buffer(ctypes.string_at(self.segment, self.size_bytes), self.size_bytes)
        rips, changes = self._rips, self._changes
        n_changes = ctypes.c_long()
        try:
            entered = self._step_in(pid, entries)
            if entered == FINISHED and entries:
                self.helper.destroy(pid)
                ctypes.memmove(self.segment, shadow, self.size_bytes)
                return self.trace(call, arrange)
            if entered != STOPPED:
                raise RuntimeError("the call never came into the watched libraries")
            n = self.helper.trace(
                pid,
                self.ranges,
                len(self.ranges),
                self.segment,
                shadow,
                self.size_bytes,
                rips,
                MOST_STEPS,
                changes,
                MOST_CHANGES,
                n_changes,
            )
        except BaseException:
            self.helper.destroy(pid)
            raise
        if n < 0:
            self.helper.destroy(pid)
            raise RuntimeError(f"the call could not be traced to its end ({n})")
        status = self.helper.complete(pid)
        if ctypes.string_at(self.segment, self.size_bytes) != shadow.raw:
            raise RuntimeError("the window ended before the last change")
        kept = (Change * n_changes.value)()
        ctypes.memmove(kept, changes, ctypes.sizeof(kept))
        return Trace(rips[:n], kept, n_changes.value, status)

    def _step_in(self, pid: int, entries: Sequence[int] = ()) -> int:
        known = (ctypes.c_uint64 * len(entries))(*entries)
        result: int = self.helper.step_in(pid, self.ranges, len(self.ranges), known, 0 if self.plain else len(known))
        return result

    def kill_at(self, trace: Trace, k: int, call: Callable[[], Any], arrange: Callable[[int], None] | None = None) -> bool:
        """Kill a fresh child at kill point `k`; False when it did not come there (its way was another, for a clock's sake)."""
        pid = self.spawn(call, arrange)
        try:
            return bool(self._go(pid, trace, k) == STOPPED)
        finally:
            if self.helper.destroy(pid) != 0:
                raise RuntimeError(f"the child ended before it was killed at {k}")

    def stop_at(self, trace: Trace, k: int, call: Callable[[], Any]) -> int:
        """A child that stands at kill point `k` of the trace, or at its end when it took another way; its pid."""
        pid = self.spawn(call)
        self._go(pid, trace, k)
        return pid

    def kill_once(self, address: int, call: Callable[[], Any]) -> int:
        """Kill a child as soon as the 32-bit word at this address of the segment is not 0; its pid."""
        pid = self.spawn(call)
        reached = self.helper.step_until(pid, address)
        self.helper.destroy(pid)
        assert reached == STOPPED, "the call ended before the word changed"
        return pid

    def _go(self, pid: int, trace: Trace, k: int) -> int:
        if self.plain:
            result = self._step_in(pid)
            return self.helper.step_to(pid, k, trace.rips[k]) if result == STOPPED else result
        result = self.helper.run_to(pid, trace.rips[0], 1)
        if result == REFUSED:
            self.plain = True
            return self._go(pid, trace, k)
        if result != STOPPED or k == 0:
            return result
        at = trace.anchor[k]
        if at > 0:
            result = self.helper.step_to(pid, 1, trace.rips[1])  # off the first instruction, which may come again
            if result == STOPPED and at > 1:
                result = self.helper.run_to(pid, trace.rips[at], trace.visits[at])
        return self.helper.step_to(pid, k - at, trace.rips[k]) if result == STOPPED else result
