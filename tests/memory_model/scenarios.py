"""What may never happen, each with the smallest history of a shard that could make it happen.

A scenario takes the code (or a mutant of it) and yields a text for every execution that breaks its promise.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import islice

from explorer import Blocked, Load, Location, Machine, Outcome, Program, Steps, Store, Value
from protocol import (
    ACQUIRE,
    MISS,
    NOW,
    RELEASE,
    VOID,
    Code,
    Entry,
    Hit,
    Link,
    Split,
    begin,
    bump,
    compact,
    end,
    extend,
    fill,
    flush_due,
    get,
    grow,
    is_whole,
    publish,
    record,
    shrink,
    table,
)  # fmt: skip

Memory = dict[Location, Value]
Scenario = Callable[[Code], Iterator[str]]
SCENARIOS: dict[str, Scenario] = {}  # filled by the decorator, here and in deaths.py and owners.py
SLOT, OTHER = 20, 21  # the slots of bucket 0
STALE = record(12, "K", 1)  # an old record of K whose granules are free but still whole
HOSTILE = Entry(12)  # a value whose bytes look like a slot word that leads there


def scenario(function: Callable[..., Iterator[str]]) -> Callable[..., Iterator[str]]:
    SCENARIOS[function.__name__] = function
    return function


def first_violation(scenario: Scenario, code: Code) -> str | None:
    return next(islice(scenario(code), 1), None)


def judged(memory: Memory, programs: list[Program], owners: list[int], wrong: Callable[[Outcome], str | None]) -> Iterator[str]:
    for outcome in Machine(memory, programs, owners).executions():
        text = wrong(outcome)
        if text:
            yield f"{text}: {outcome.results}"


def bad_read(read: Value, versions: set[int], may_miss: bool) -> str | None:
    """What is wrong with a get of K: `versions` are those that K had while it ran."""
    if read == MISS:
        return None if may_miss else "a key that is there was missed"
    if isinstance(read, Hit):
        if not is_whole(read, "K"):
            return "torn"
        if read.version not in versions:
            return "a value that K had not"
    return None


def reading(code: Code, memory: Memory, owner: Program, versions: set[int], may_miss: bool = False) -> Iterator[str]:
    return judged(memory, [owner, lambda: get(code)], [0], lambda o: bad_read(o.results[1], versions, may_miss))


# --- get against overwrite and reuse ---------------------------------------------------------------------------------------------------


@scenario
def overwrite(code: Code) -> Iterator[str]:
    """K is overwritten twice, back into its first granule, so that its slot word repeats; then L takes the granule between."""
    memory = table(record(0, "K", 1), {SLOT: 0, OTHER: Entry(0)})

    def owner() -> Steps:
        yield from begin(code, "store")
        yield from fill(code, 4, "K", 2)
        yield from publish(code, "store", OTHER, Entry(4))
        yield from begin(code, "store")
        yield from fill(code, 0, "K", 3)
        yield from publish(code, "store", OTHER, Entry(0))
        yield from begin(code, "store")
        yield from fill(code, 4, "L", 4)
        yield from publish(code, "store", SLOT, Entry(4))

    return reading(code, memory, owner, {1, 2, 3})


@scenario
def repeated_word(code: Code) -> Iterator[str]:
    """K's slot word comes back after J was where the word leads: J's version must not be taken for what is there now."""
    memory = table(record(0, "K", 5), record(4, "J", 2), {SLOT: Entry(0), OTHER: Entry(4)})

    def owner() -> Steps:
        yield from begin(code, "store")
        yield from fill(code, 8, "K", 6)
        yield from publish(code, "store", SLOT, Entry(8))
        yield from fill(code, 0, "J", 2)
        yield from publish(code, "move", OTHER, Entry(0))
        yield from publish(code, "delete", OTHER, 0)
        yield from fill(code, 0, "K", 7)
        yield from publish(code, "store", SLOT, Entry(0))

    return reading(code, memory, owner, {5, 6, 7})


@scenario
def word_repeated_twice(code: Code) -> Iterator[str]:
    """K goes to and fro between two granules: the version 0 of one filling must not be taken for that of the next."""
    memory = table(record(0, "K", 5), {SLOT: Entry(0), OTHER: 0})

    def owner() -> Steps:
        yield from begin(code, "store")
        for granule, version in ((8, 6), (0, 7), (8, 8), (0, 9)):
            yield from fill(code, granule, "K", version)
            yield from publish(code, "store", SLOT, Entry(granule))

    return reading(code, memory, owner, {5, 6, 7, 8, 9})


@scenario
def reuse_within_an_operation(code: Code) -> Iterator[str]:
    """K is overwritten and, by the same operation, J moves into K's old granule (to make way for the index)."""
    memory = table(record(0, "K", 1), record(8, "J", 2), {SLOT: Entry(0), OTHER: Entry(8)})

    def owner() -> Steps:
        yield from begin(code, "store")
        yield from fill(code, 4, "K", 3)
        yield from publish(code, "store", SLOT, Entry(4))
        yield from fill(code, 0, "J", 2)
        yield from publish(code, "move", OTHER, Entry(0))

    return reading(code, memory, owner, {1, 3})


@scenario
def eviction_for_a_record(code: Code) -> Iterator[str]:
    """K is evicted and L, for whom that was done, begins in the middle of where K was."""
    memory = table(record(4, "K", 1), {SLOT: Entry(4), OTHER: 0})

    def owner() -> Steps:
        yield from begin(code, "store")
        yield from publish(code, "evict", SLOT, 0)
        yield from fill(code, 6, "L", 2)
        yield from publish(code, "store", OTHER, Entry(6))

    return reading(code, memory, owner, {1}, may_miss=True)


@scenario
def move_for_a_node(code: Code) -> Iterator[str]:
    """K is moved and an overflow node laid over the middle of where it was."""
    memory = table(record(4, "K", 1), record(0, "L", 2), {SLOT: Entry(4), OTHER: Entry(0)})

    def owner() -> Steps:
        yield from begin(code, "store")
        yield from fill(code, 8, "K", 1)
        yield from publish(code, "move", SLOT, Entry(8))
        yield from extend(code, OTHER, Entry(0), 6)

    return reading(code, memory, owner, {1})


@scenario
def two_gets(code: Code) -> Iterator[str]:
    """A process that saw the new value of K does not see the old one again."""
    memory = table(record(0, "K", 1), {SLOT: Entry(0), OTHER: 0})

    def owner() -> Steps:
        yield from begin(code, "store")
        yield from fill(code, 4, "K", 2)
        yield from publish(code, "store", SLOT, Entry(4))
        yield from end(code)

    def reader() -> Steps:
        return (yield from get(code)), (yield from get(code))

    def wrong(o: Outcome) -> str | None:
        first, second = o.results[1]
        if isinstance(first, Hit) and isinstance(second, Hit) and second.version < first.version:
            return "the past came back"
        return bad_read(first, {1, 2}, False) or bad_read(second, {1, 2}, False)

    return judged(memory, [owner, reader], [0], wrong)


# --- get against the index -------------------------------------------------------------------------------------------------------------


@scenario
def split_a_bucket(code: Code) -> Iterator[str]:
    """K moves into a new bucket whose memory was a value that looks like slots."""
    memory = table(record(0, "K", 5), record(4, "L", 2), STALE, {SLOT: Entry(4), OTHER: Entry(0), 24: HOSTILE, 25: HOSTILE})

    def owner() -> Steps:
        yield from grow(code, Split(1, 1), OTHER, 24, Entry(0))

    return reading(code, memory, owner, {5})


def two_buckets(word: Value) -> Memory:
    memory = table(record(0, "K", 5), record(4, "L", 2), STALE, {SLOT: Entry(4), OTHER: 0, 24: word, 25: 0})
    return memory | {"split": Split(1, 2), "directory 1": 24}


@scenario
def merge_buckets(code: Code) -> Iterator[str]:
    """K moves into its buddy bucket; the memory it was in becomes a value that looks like slots."""

    def owner() -> Steps:
        yield from shrink(code, Split(1, 2), OTHER, 24, Entry(0))
        yield from fill(code, 22, "M", 6, HOSTILE)

    return reading(code, two_buckets(Entry(0)), owner, {5})


@scenario
def merge_and_split(code: Code) -> Iterator[str]:
    """K moves to its buddy bucket and back into a chunk elsewhere: as many buckets as before, but another generation."""

    def owner() -> Steps:
        yield from shrink(code, Split(1, 2), OTHER, 24, Entry(0))
        yield from grow(code, Split(2, 1), OTHER, 28, Entry(0))

    return reading(code, two_buckets(Entry(0)) | {28: HOSTILE, 29: HOSTILE}, owner, {5})


@scenario
def overflow(code: Code) -> Iterator[str]:
    """K moves from a bucket's last slot into a new node whose memory was a value that looks like slots."""
    memory = table(record(0, "K", 5), record(4, "L", 2), STALE, {SLOT: Entry(4), OTHER: Entry(0), 30: HOSTILE, 31: HOSTILE})

    def owner() -> Steps:
        yield from begin(code, "store")
        yield from extend(code, OTHER, Entry(0), 30)

    return reading(code, memory, owner, {5})


@scenario
def compaction(code: Code) -> Iterator[str]:
    """K moves from a node into a gap before it; the node's memory becomes a value that looks like slots."""
    memory = table(record(0, "K", 5), STALE, {SLOT: 0, OTHER: Link(30), 30: Entry(0), 31: 0})

    def owner() -> Steps:
        yield from begin(code, "delete")
        yield from compact(code, Split(1, 1), SLOT, OTHER, Entry(0))
        yield from fill(code, 28, "M", 6, HOSTILE)

    return reading(code, memory, owner, {5})


@scenario
def compaction_of_others(code: Code) -> Iterator[str]:
    """As before, but K was deleted long ago: it must not come back by a value that looks like its slot."""
    memory = table(record(4, "L", 2), STALE, {SLOT: 0, OTHER: Link(30), 30: Entry(4), 31: 0})

    def owner() -> Steps:
        yield from begin(code, "delete")
        yield from compact(code, Split(1, 1), SLOT, OTHER, Entry(4))
        yield from fill(code, 28, "M", 6, HOSTILE)

    return reading(code, memory, owner, set(), may_miss=True)


@scenario
def compaction_of_the_last(code: Code) -> Iterator[str]:
    """A node's one entry, K, takes the place of the link that led to it, there being no gap."""
    memory = table(record(0, "K", 5), record(4, "L", 2), STALE, {SLOT: Entry(4), OTHER: Link(30), 30: Entry(0), 31: 0})

    def owner() -> Steps:
        yield from begin(code, "delete")
        yield from bump(code, Split(1, 1))
        yield Store(OTHER, Entry(0), code.order("compact: link"))
        yield from bump(code, Split(2, 1))
        yield from fill(code, 28, "M", 6, HOSTILE)

    return reading(code, memory, owner, {5})


# --- flush_all -------------------------------------------------------------------------------------------------------------------------


def enter_flush(code: Code, newest: int) -> Steps:
    """recovery.enter, its second half: the first writer past a deadline notes it."""
    deadline = yield from flush_due(code)
    if not deadline:
        return
    yield from begin(code, "flush")
    yield Store("cutoff", newest)
    if not code.keeps("enter: deadline read once"):
        deadline = yield Load("deadline")
    yield from publish(code, "flush", "applied", deadline)
    yield from end(code)


@scenario
def flush(code: Code, overwrites: bool = True) -> Iterator[str]:
    """One process flushes and tells a reader of it; another notes the flush in the shard, overwrites K, and asks for a flush later."""
    memory = table(record(0, "K", 1), {SLOT: Entry(0), OTHER: 0, "header lock": 0, "told": 0})

    def first() -> Steps:
        yield Store("deadline", NOW - 1, code.order("flush: deadline"))
        yield Store("header lock", 1, RELEASE)
        yield Store("told", 1, RELEASE)

    def second() -> Steps:
        if (yield Load("header lock", ACQUIRE)) == 0:
            raise Blocked
        yield from enter_flush(code, 1)
        if overwrites:
            yield from begin(code, "store")
            yield from fill(code, 4, "K", 2)
            yield from publish(code, "store", SLOT, Entry(4))
            yield from end(code)
        yield Store("deadline", NOW + 1, code.order("flush: deadline"))

    def reader() -> Steps:
        told = yield Load("told", ACQUIRE)
        return told, (yield from get(code, flushes=True))

    def wrong(o: Outcome) -> str | None:
        told, read = o.results[2]
        if told and isinstance(read, Hit) and read.version == 1:
            return "a flushed value"
        if read == (VOID, 2):
            return "a value stored after the flush was taken for flushed"
        return bad_read(read, {1, 2}, False)

    return judged(memory, [first, second, reader], [0, 1], wrong)


@scenario
def flush_and_delayed_flush(code: Code) -> Iterator[str]:
    """As before, but nobody stores K anew: a reader that sees the later deadline must not forget the flush it knows of."""
    return flush(code, overwrites=False)


@scenario
def flush_settled_by_another(code: Code) -> Iterator[str]:
    """As before, but the process that asks for the later flush did not note the first one itself: it only saw that somebody had."""
    memory = table(record(0, "K", 1), {SLOT: Entry(0), OTHER: 0, "header lock": 0, "told": 0})

    def first() -> Steps:
        yield Store("deadline", NOW - 1, code.order("flush: deadline"))
        yield Store("told", 1, RELEASE)
        yield Store("header lock", 1, RELEASE)

    def second() -> Steps:
        if (yield Load("header lock", ACQUIRE)) == 0:
            raise Blocked
        yield from enter_flush(code, 1)

    def third() -> Steps:
        if (yield Load("header lock", ACQUIRE)) == 0 or (yield Load("applied")) != NOW - 1:
            raise Blocked
        yield Store("deadline", NOW + 1, code.order("flush: deadline"))

    def reader() -> Steps:
        return (yield Load("told", ACQUIRE)) == 1 and isinstance((yield from get(code, flushes=True)), Hit)

    return judged(memory, [first, second, third, reader], [0, 1, 2], lambda o: "a flushed value" if o.results[3] else None)


@scenario
def flush_replaced_as_it_falls_due(code: Code) -> Iterator[str]:
    """While the shard's owner notes a flush that has just fallen due, its deadline is replaced by a later one."""

    def owner() -> Steps:
        yield from enter_flush(code, 1)

    def other() -> Steps:
        yield Store("deadline", NOW + 1, code.order("flush: deadline"))

    def wrong(o: Outcome) -> str | None:
        return "a flush noted before its time" if o.memory["applied"] == NOW + 1 else None

    return judged(table(deadline=NOW - 1), [owner, other], [], wrong)
