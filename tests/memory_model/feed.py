"""What may never happen to those who listen to the feed of changes. As scenarios.py."""

from __future__ import annotations

from collections.abc import Iterator

from explorer import Load, Outcome, Steps, Store, Swap, death_states
from owners import FREE, OLD, give, take
from protocol import ACQ_REL, GARBAGE, Code, begin, end, publish_told
from scenarios import Memory, judged, scenario

CELLS = 2  # of the ring; an event takes one
INTENT: Memory = {"operation": None, "intent slot": None, "intent new": None, "intent feed": 0}


def read_event(code: Code, at: int) -> Steps:
    """The event of that number; None when there is none yet, or it may have been overwritten."""
    head = yield Load("head", code.order("read_event: head"))
    if head == at or head - at > CELLS - 1:
        return None
    event = yield Load(f"cell {at % CELLS}")
    yield from code.fence("read_event: fence")
    return None if (yield Load("head")) - at > CELLS - 1 else event


def tell(code: Code, number: int, slot: str) -> Steps:
    """A change of a slot with its event."""
    yield Store(f"cell {number % CELLS}", number)
    yield from publish_told(code, f"change {number}", slot, number, number + 1)


@scenario
def told_of_a_change(code: Code) -> Iterator[str]:
    """Who was told of a change reads the whole event, and then the change."""
    memory: Memory = {**INTENT, "head": 0, "cell 0": GARBAGE, "cell 1": GARBAGE, "slot": None}

    def owner() -> Steps:
        yield from begin(code, "change 0")
        yield from tell(code, 0, "slot")
        yield from end(code)

    def listener() -> Steps:
        head = yield Load("head", code.order("read_event: head"))
        event = yield from read_event(code, 0)
        return head == 1 and (event, (yield Load("slot"))) not in ((0, 0), (None, 0))

    return judged(memory, [owner, listener], [0], lambda o: "told before it was so" if o.results[1] else None)


@scenario
def ring_goes_round(code: Code) -> Iterator[str]:
    """An event that is being overwritten is never taken for whole."""
    memory: Memory = {**INTENT, "head": 0, "cell 0": GARBAGE, "cell 1": GARBAGE, "slot": None}

    def owner() -> Steps:
        yield from begin(code, "change 0")
        for number in range(3):
            yield from tell(code, number, "slot")
        yield from end(code)

    def wrong(o: Outcome) -> str | None:
        return None if o.results[1] in (None, 0) else "another event under its number"

    return judged(memory, [owner, lambda: read_event(code, 0)], [0], wrong)


@scenario
def going_to_sleep(code: Code) -> Iterator[str]:
    """A listener says that it sleeps, then looks; a writer tells, then looks whether somebody sleeps. One of them sees the other."""

    def writer() -> Steps:
        yield Store("head", 1, code.order("announce: head"))
        yield from code.full_fence("announce: fence")
        return (yield Load("waiting")) == 1

    def listener() -> Steps:
        yield Store("waiting", 1)
        yield from code.full_fence("sleep_until_news: fence")
        return (yield Load("head", code.order("read_event: head"))) == 1

    memory: Memory = {"head": 0, "waiting": 0, "full fences": None}
    return judged(memory, [writer, listener], [], lambda o: None if any(o.results) else "asleep, and nobody knows")


@scenario
def beginning_to_listen(code: Code) -> Iterator[str]:
    """Who takes the lease, then the lock, is told of whatever an owner changes after it."""

    def owner() -> Steps:
        if not (yield from take(code, OLD)):
            return None
        listened = yield Load("lease")
        yield Store("slot", 1)
        if listened:
            yield Store("head", 1, code.order("announce: head"))
        yield from give(code)
        return listened

    def listener() -> Steps:
        yield Swap("lease", 1, ACQ_REL, 0)
        if not (yield from take(code, ("slot 2", 1))):
            return None
        copied = yield Load("slot")
        head = yield Load("head")
        yield from give(code)
        return copied, head

    def wrong(o: Outcome) -> str | None:
        told, mine = o.results
        if told is None or mine is None:
            return None
        return "changed after the copy, and not told" if mine[0] == 0 and not told else None

    memory: Memory = {"lock": FREE, "lease": 0, "slot": 0, "head": 0}
    return judged(memory, [owner, listener], [], wrong)


@scenario
def death_with_an_event(code: Code) -> Iterator[str]:
    """An eviction and a store, each with its event. Killed anywhere: the next owner tells of what took effect, and of nothing else."""
    memory: Memory = {**INTENT, "head": 0, "cell 0": GARBAGE, "cell 1": GARBAGE, "victim": "V", "slot": None}

    def owner() -> Steps:
        yield from begin(code, "store")
        yield from tell(code, 0, "victim")
        yield from tell(code, 1, "slot")
        yield from end(code)

    for m in death_states(memory, owner):
        head = m["head"]
        operation = m["operation"] or ""
        at = m["intent slot"]
        if operation and not operation.endswith(" done") and at is not None and m[at] == m["intent new"]:
            head = max(head, m["intent feed"])
        for number, place in enumerate(("victim", "slot")):
            if (m[place] == number) != (head > number):
                yield f"change {number} {'without an event' if m[place] == number else 'told, but not made'}: {m}"
            if head > number and m[f"cell {number}"] != number:
                yield f"event {number} is not whole: {m}"
