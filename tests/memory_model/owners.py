"""What may never happen between owners of a shard, to a shard whose owner dies, and to slots that hits store into. As scenarios.py."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from explorer import Blocked, Load, Location, Order, Outcome, Program, Steps, Store, Swap, Value, death_states
from protocol import ACQUIRE, RELEASE, Code, Entry, Hit, Split, begin, end, fill, get, note_hit, publish, record, shrink, table
from scenarios import HOSTILE, OTHER, SLOT, Memory, bad_read, judged, scenario, two_buckets

FREE = 0
OLD = ("slot 1", 1)  # a lock word: process slot and epoch
NEW = ("slot 1", 2)  # the same process slot, claimed anew
ANOTHER = ("slot 2", 1)
EVICTED = 22  # a slot


# --- the lock --------------------------------------------------------------------------------------------------------------------------


def take(code: Code, word: Value, expected: Value = FREE) -> Steps:
    """Whether the lock word was swapped."""
    return (yield Swap("lock", word, code.order("take: swap"), expected)) == expected


def give(code: Code) -> Steps:
    yield Swap("lock", FREE, code.order("give: exchange"))


@scenario
def handing_over(code: Code) -> Iterator[str]:
    """Two owners, one after the other: the second sees all that the first did, and no intent."""

    def owner(me: Value) -> Steps:
        if not (yield from take(code, me)):
            raise Blocked
        left = yield Load("operation", code.order("enter: operation"))
        yield from begin(code, "store")
        items = yield Load("items")
        yield Store("items", items + 1)
        yield from end(code)
        yield from give(code)
        return left

    def wrong(o: Outcome) -> str | None:
        if o.memory["items"] != 2:
            return "what the first owner did was lost"
        return None if o.results == (None, None) else "an intent that had been cleared"

    return judged(table(lock=FREE, items=0), [lambda: owner(OLD), lambda: owner(ANOTHER)], [], wrong)


def is_dead(code: Code, word: Value) -> Steps:
    """locks.owner_state; the kernel orders its own operations on a semaphore."""
    if word[1] != (yield Load("epoch", code.order("owner_state: epoch"))):
        return True
    return (yield Load("semaphore", ACQUIRE)) == 1


def try_once(code: Code) -> Steps:
    """Whether the waiter took the lock from an owner it holds for dead."""
    word = yield Load("lock", code.order("try_once: word"))
    if word == FREE or not (yield from is_dead(code, word)):
        return False
    return (yield from take(code, ANOTHER, word))


def claim(code: Code) -> Steps:
    """The kernel gives a process slot that is free to a new process."""
    if (yield Swap("semaphore", 0, Order.ACQ_REL, 1)) != 1:
        raise Blocked
    yield Store("epoch", 2, code.order("claim: epoch"))


@scenario
def a_living_owner(code: Code) -> Iterator[str]:
    """A process that has just claimed its slot takes the lock; a waiter must not take the slot's former epoch for a death."""

    def owner() -> Steps:
        yield from claim(code)
        yield from take(code, NEW)

    return judged(
        table(lock=FREE, epoch=1, semaphore=1),
        [owner, lambda: try_once(code)],
        [],
        lambda o: "a living owner's lock" if o.results[1] else None,
    )


@scenario
def a_dead_owner(code: Code) -> Iterator[str]:
    """An owner dies. A waiter and the next claimer of its process slot both try to take over: one does, and sees all that was done."""

    def owner() -> Steps:
        yield from begin(code, "store")
        yield Store("items", 7)
        yield Store("semaphore", 1, RELEASE)

    def found(won: bool) -> Steps:
        if not won:
            return None
        return (yield Load("operation", code.order("enter: operation"))), (yield Load("items"))

    def waiter() -> Steps:
        return (yield from found((yield from try_once(code))))

    def claimer() -> Steps:
        yield from claim(code)
        word = yield Load("lock", code.order("inherit: word"))
        return (yield from found(word == OLD and (yield from take(code, NEW, word))))

    def wrong(o: Outcome) -> str | None:
        winners = [r for r in o.results if r is not None]
        if len(winners) > 1:
            return "two owners"
        return None if winners in ([], [("store", 7)]) else "what the dead owner had done was not seen"

    return judged(table(lock=OLD, epoch=1, semaphore=0, items=0), [owner, waiter, claimer], [], wrong)


def announced(code: Code, store: str, load: str) -> Iterator[str]:
    """One word says that others may be read."""

    def maker() -> Steps:
        yield Store("what it announces", 1)
        yield Store("word", 1, code.order(store))

    def user() -> Steps:
        return (yield Load("word", code.order(load))) == 1 and (yield Load("what it announces")) == 0

    memory: Memory = {"word": 0, "what it announces": 0}
    return judged(memory, [maker, user], [], lambda o: "used before it was made" if o.results[1] else None)


@scenario
def a_process_slot_for_all_threads(code: Code) -> Iterator[str]:
    return announced(code, "claim: fork count", "ready: fork count")


@scenario
def a_new_segment(code: Code) -> Iterator[str]:
    return announced(code, "segment: magic", "check_header: magic")


@scenario
def touched(code: Code) -> Iterator[str]:
    """Who was told of a touch sees the new expiry."""

    def owner() -> Steps:
        yield Store("expiry", 2, code.order("renew: expiry"))
        yield Store("told", 1, RELEASE)

    def reader() -> Steps:
        return (yield Load("told", ACQUIRE)) == 1 and (yield Load("expiry")) == 1

    return judged({"expiry": 1, "told": 0}, [owner, reader], [], lambda o: "the old expiry" if o.results[1] else None)


# --- death ------------------------------------------------------------------------------------------------------------------------------


@scenario
def death_anywhere(code: Code) -> Iterator[str]:
    """K is overwritten, with an eviction on the way, then another item is deleted. Killed anywhere, in any order of stores that a
    compiler may choose, the intent tells."""
    slots = {SLOT: Entry(0), OTHER: Entry(8), EVICTED: Entry(12)}
    memory = table(record(0, "K", 1), slots, {"used 0": 1, "used 4": 0, "items": 3, "lock": FREE}, version=1)

    def owner() -> Steps:
        yield from take(code, OLD)
        yield from begin(code, "store")
        yield Store("used 4", 1)
        yield from publish(code, "evict", EVICTED, 0)
        yield Store("items", 2)
        yield Store("version", 2, code.order("write_record: version"))
        yield from fill(code, 4, "K", 2)
        yield from publish(code, "store", SLOT, Entry(4))
        yield Store("used 0", 0)
        yield from end(code)
        yield from give(code)
        yield from take(code, OLD)
        yield from begin(code, "delete")
        yield from publish(code, "delete", OTHER, 0)
        yield Store("items", 1)
        yield from end(code)

    for m in death_states(memory, owner):
        text = misleading(m)
        if text:
            yield text


def misleading(m: Memory) -> str | None:
    """What a next owner would take wrongly from what a death left."""
    operation = (m["operation"] or "").removesuffix(" done")
    items = 1 + (m[OTHER] != 0) + (m[EVICTED] != 0)
    whole = m["used 0"] == (m[SLOT] == Entry(0)) and m["used 4"] == (m[SLOT] == Entry(4)) and m["items"] == items
    if not whole and not operation:
        return "a change half done that no intent tells of"
    done = operation != (m["operation"] or "")
    if m["intent slot"] is not None and operation and not done and (m["intent slot"], m["intent new"]) not in INTENTS.values():
        return "an intent mixed of two"
    if m[SLOT] == Entry(4) and (m[5], m[6], m[7], m[4]) != ("K", ("K", 2), ("K", 2), 2):
        return "a record published before it was whole"
    if m[4] == 2 and m["version"] < 2:
        return "a version used before it was counted"
    return miscounted(m, operation)


INTENTS: dict[str, tuple[Location, Value]] = {"evict": (EVICTED, 0), "store": (SLOT, Entry(4)), "delete": (OTHER, 0)}


def miscounted(m: Memory, operation: str) -> str | None:
    """recovery.published against what is in the slot."""
    for name, (slot, word) in INTENTS.items():
        if operation == name:
            at = m["intent slot"]
            told = m["operation"].endswith(" done") or (at is not None and m[at] == m["intent new"])
            if told != (m[slot] == word):
                return "a change wrongly taken for completed or cancelled"
    return None


# --- hits -------------------------------------------------------------------------------------------------------------------------------


def hitting(code: Code) -> Steps:
    """A get that leaves its trace in the slot word."""
    read = yield from get(code)
    if isinstance(read, Hit):
        yield from note_hit(code, read.slot, 0)
    return read


def hits(code: Code, memory: Memory, owner: Program, versions: set[int], after: dict[Location, Callable[[Value], bool]]) -> Iterator[str]:
    def wrong(o: Outcome) -> str | None:
        if not all(right(o.memory[location]) for location, right in after.items()):
            return "a hit undid a store"
        return bad_read(o.results[1], versions, False) or bad_read(o.results[2], versions, False)

    return judged(memory, [owner, lambda: hitting(code), lambda: get(code)], [0], wrong)


@scenario
def hit_and_overwrite(code: Code) -> Iterator[str]:
    memory = table(record(0, "K", 1), {SLOT: Entry(0), OTHER: 0})

    def owner() -> Steps:
        yield from begin(code, "store")
        yield from fill(code, 4, "K", 2)
        yield from publish(code, "store", SLOT, Entry(4))

    return hits(code, memory, owner, {1, 2}, {SLOT: lambda word: word.granule == 4})


@scenario
def hit_and_merge(code: Code) -> Iterator[str]:
    """The slot that was hit becomes bytes of a value."""

    def owner() -> Steps:
        yield from shrink(code, Split(1, 2), OTHER, 24, Entry(0))
        yield from fill(code, 22, "M", 6, HOSTILE)

    return hits(code, two_buckets(Entry(0)), owner, {5}, {24: lambda bytes_: bytes_ == HOSTILE})
