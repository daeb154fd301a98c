"""What may never happen when an owner dies after any of its steps, the next one repairs, and readers read on. As scenarios.py."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from explorer import Blocked, Load, Machine, Outcome, Program, Steps, Store
from protocol import (
    ACQUIRE,
    RELEASE,
    Code,
    Entry,
    Link,
    Split,
    begin,
    compact,
    end,
    fill,
    get,
    grow,
    publish,
    rebuild,
    record,
    shrink,
    table,
)
from scenarios import HOSTILE, OTHER, SLOT, STALE, Memory, bad_read, judged, scenario, two_buckets


def dying(program: Program, steps: int, number: int) -> Program:
    """The program killed after so many steps; then the kernel, as the dead process, gives its semaphore back."""

    def killed() -> Steps:
        inner, read = program(), None
        operation = next(inner)
        for _ in range(steps):
            read = yield operation
            try:
                operation = inner.send(read)
            except StopIteration:
                break
        yield Store("semaphore", number, RELEASE)

    return killed


def repaired(
    code: Code,
    memory: Memory,
    owner: Program,
    versions: set[int],
    reuse: Callable[[Split], Steps],
    may_miss: bool = False,
    twice: bool = False,
) -> Iterator[str]:
    """A reader beside an owner that dies after each of its steps, the next owner's repair (`twice`: which also dies after each of its
    steps), and an operation that reuses memory."""
    memory = memory | {"semaphore": 0}

    def repairer(deaths: int) -> Steps:
        if (yield Load("semaphore", ACQUIRE)) != deaths:
            raise Blocked
        if (yield Load("operation", code.order("enter: operation"))) is not None:
            yield from rebuild(code)
        yield from begin(code, "store")
        yield from reuse((yield Load("split")))

    def wrong(o: Outcome) -> str | None:
        return bad_read(o.results[-1], versions, may_miss)

    def rest(*dead: Program) -> Iterator[str]:
        owners = [*dead, lambda: repairer(len(dead))]
        return judged(memory, [*owners, lambda: get(code)], list(range(len(owners))), wrong)

    for steps in range(length_of(memory, [owner]) + 1):
        killed = dying(owner, steps, 1)
        if not twice:
            yield from rest(killed)
            continue
        for more in range(1, length_of(memory, [killed, lambda: repairer(1)]) + 1):
            yield from rest(killed, dying(lambda: repairer(1), more, 2))


def length_of(memory: Memory, programs: list[Program]) -> int:
    """Steps of the last program when they run one after the other."""
    steps = 0

    def counted() -> Steps:
        nonlocal steps
        inner, read = programs[-1](), None
        operation, steps = next(inner), 0
        while True:
            read = yield operation
            steps += 1
            try:
                operation = inner.send(read)
            except StopIteration:
                return

    list(Machine(memory, [*programs[:-1], counted], range(len(programs))).executions())
    return steps


@scenario
def death_in_a_split(code: Code) -> Iterator[str]:
    memory = table(record(0, "K", 5), record(4, "L", 2), STALE, {SLOT: Entry(4), OTHER: Entry(0), 24: HOSTILE, 25: HOSTILE})

    def reuse(split: Split) -> Steps:
        if split.buckets == 1:
            yield from fill(code, 22, "M", 6, HOSTILE)

    return repaired(code, memory, lambda: grow(code, Split(1, 1), OTHER, 24, Entry(0)), {5}, reuse)


@scenario
def death_in_a_merge(code: Code) -> Iterator[str]:
    def reuse(split: Split) -> Steps:
        if split.buckets == 1:
            yield from fill(code, 22, "M", 6, HOSTILE)

    return repaired(code, two_buckets(Entry(0)), lambda: shrink(code, Split(1, 2), OTHER, 24, Entry(0)), {5}, reuse)


@scenario
def death_in_a_compaction(code: Code, key: str = "K", twice: bool = False) -> Iterator[str]:
    memory = table(record(0, key, 5), STALE, {SLOT: 0, OTHER: Link(30), 30: Entry(0), 31: 0})

    def owner() -> Steps:
        yield from begin(code, "delete")
        yield from compact(code, Split(1, 1), SLOT, OTHER, Entry(0))

    def reuse(_: Split) -> Steps:
        if (yield Load(OTHER)) == 0:
            yield from fill(code, 28, "M", 6, HOSTILE)

    return repaired(code, memory, owner, {5} if key == "K" else set(), reuse, may_miss=key != "K", twice=twice)


@scenario
def death_in_a_compaction_of_others(code: Code) -> Iterator[str]:
    return death_in_a_compaction(code, "L")


@scenario
def death_in_a_compaction_and_in_its_repair(code: Code) -> Iterator[str]:
    return death_in_a_compaction(code, twice=True)


@scenario
def death_in_an_overwrite(code: Code) -> Iterator[str]:
    memory = table(record(0, "K", 1), {SLOT: Entry(0), OTHER: 0})

    def owner() -> Steps:
        yield from begin(code, "store")
        yield from fill(code, 4, "K", 2)
        yield from publish(code, "store", SLOT, Entry(4))
        yield from end(code)

    def reuse(_: Split) -> Steps:
        free = 0 if (yield Load(SLOT)) == Entry(4) else 4
        yield from fill(code, free, "L", 3)
        yield from publish(code, "store", OTHER, Entry(free))

    return repaired(code, memory, owner, {1, 2}, reuse)
