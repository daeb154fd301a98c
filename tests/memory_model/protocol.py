"""The storage layer's protocols as programs for the explorer, and every place in them that orders memory.

A program follows the function of its name in memcache_shm/storage line by line, as far as shared memory goes. Memory is a row of
8-byte cells (records and index alike, since the one becomes the other) plus a shard's control words. A record is four cells: version,
key, and two of the value, each holding (key, version), so that a mixture shows. All keys have one tag and all slot words
the same version bits: what takes chance or 1024 overwrites in the product happens at once here.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

from explorer import Fence, Load, Location, Order, Steps, Store, Swap, Value

RELAXED, ACQUIRE, RELEASE, ACQ_REL = Order.RELAXED, Order.ACQUIRE, Order.RELEASE, Order.ACQ_REL
MISS, RETRY, VOID = "miss", "retry", "void"
GARBAGE = "bytes of something else"
RECORD = 4  # cells
BUCKET = 2  # slots of a bucket or a node
NOW = 10  # the table clock: deadlines up to it are due

# Places that order memory, "function: what". In the sources each is one load_acquire, store_release, fence or swap.
PLACES = {
    "look: split": ACQUIRE,
    "look: slot": ACQUIRE,
    "look: version": ACQUIRE,
    "bucket_at: directory": ACQUIRE,
    "same_record: fence": ACQUIRE,
    "same_record: slot": ACQUIRE,
    "unchanged: fence": ACQUIRE,
    "flush_due: deadline": ACQUIRE,
    "flush_due: applied": ACQUIRE,
    "void_reason: cutoff": ACQUIRE,
    "fill: fence": RELEASE,
    "fill: version": RELEASE,
    "begin: operation": RELEASE,
    "begin: fence": RELEASE,
    "note: operation": RELEASE,
    "note: slot": RELEASE,
    "note: fence": RELEASE,
    "publish: slot": RELEASE,
    "done: fence": RELEASE,
    "end: operation": RELEASE,
    "write_record: version": RELEASE,
    "renew: expiry": RELEASE,
    "bump: split": RELEASE,
    "bump: fence": RELEASE,
    "take_chunk: directory": RELEASE,
    "put_entry: slot": RELEASE,
    "extend: link": RELEASE,
    "drop_movers: slot": RELEASE,
    "move_into_gaps: slot": RELEASE,
    "compact: link": RELEASE,
    "rebuild_bucket: slot": RELEASE,
    "enter: operation": ACQUIRE,
    "flush: deadline": RELEASE,
    "take: swap": ACQ_REL,
    "give: exchange": ACQ_REL,
    "try_once: word": ACQUIRE,
    "owner_state: epoch": ACQUIRE,
    "claim: epoch": RELEASE,
    "inherit: word": ACQUIRE,
    "claim: fork count": RELEASE,
    "ready: fork count": ACQUIRE,
    "segment: magic": RELEASE,
    "check_header: magic": ACQUIRE,
    "announce: head": RELEASE,
    "announce: fence": ACQ_REL,
    "read_event: head": ACQUIRE,
    "read_event: fence": ACQUIRE,
    "sleep_until_news: fence": ACQ_REL,
}

# Steps whose order or presence matters though they are no fences: a model that leaves one out must fail too.
RULES = {
    "split word: generation",
    "compact: first bump",
    "compact: second bump",
    "rebuild: first bump",
    "note_hit: by swap",
    "void_reason: cutoff last",
    "enter: deadline read once",
    "unchanged: split read again",
    "same_record: version read again",
    "same_record: never for version 0",
    "same_record: slot read again",
    "look: last slot loaded once",
    "look: miss confirmed by slot and version",
}


class Code:
    """The orders and rules of the product, less those that a mutant gives up."""

    def __init__(self, without: Iterable[str] = ()) -> None:
        self.without = frozenset(without)
        unknown = self.without - PLACES.keys() - RULES - {f"{place}, {half}" for place in PLACES for half in ("ACQUIRE", "RELEASE")}
        assert not unknown, f"no such place or rule: {unknown}"

    def order(self, place: str) -> Order:
        """The order of a place; a mutant may also give up one half of a swap: "take: swap, ACQUIRE"."""
        order = PLACES[place]
        if place in self.without:
            return RELAXED
        for half in (ACQUIRE, RELEASE):
            if f"{place}, {half.name}" in self.without:
                order &= ~half
        return order

    def keeps(self, rule: str) -> bool:
        assert rule in RULES
        return rule not in self.without

    def fence(self, place: str) -> Steps:
        if place not in self.without:
            yield Fence(PLACES[place])

    def full_fence(self, place: str) -> Steps:
        """A sequentially consistent fence: without promises it is a swap of one word that all such fences share."""
        if place not in self.without:
            yield Swap("full fences", None, PLACES[place])


class Entry(NamedTuple):  # a slot word that leads to a record
    granule: int
    hits: int = 0


class Link(NamedTuple):  # a slot word that leads to an overflow node
    node: int


class Split(NamedTuple):
    generation: int
    buckets: int


class Hit(NamedTuple):  # what a get returns
    version: Value
    value: tuple[Value, Value]
    slot: Location


def record(at: int, key: str, version: int) -> dict[Location, Value]:
    """The cells of a whole record."""
    return {at: version, at + 1: key, at + 2: (key, version), at + 3: (key, version)}


def is_whole(hit: Hit, key: str) -> bool:
    return hit.value == ((key, hit.version), (key, hit.version))


def home(key: str, buckets: int) -> int:
    """Key "K" moves to the second bucket as soon as there is one; all others stay."""
    return 1 if buckets == 2 and key == "K" else 0


CONTROL: dict[Location, Value] = {
    "split": Split(1, 1), "directory 0": 20, "directory 1": None,
    "cutoff": 0, "applied": 0, "deadline": 0, "version": 9,
    "intent slot": None, "intent new": None, "operation": None,
}  # fmt: skip


def table(*parts: dict[Location, Value], **control: Value) -> dict[Location, Value]:
    """A shard: its control words, cells 0 to 31 of garbage, and what is put over them."""
    memory: dict[Location, Value] = {**CONTROL, **{name.replace("_", " "): value for name, value in control.items()}}
    memory |= dict.fromkeys(range(32), GARBAGE)
    for part in parts:
        memory |= part
    return memory


# --- reader.pyx ---------------------------------------------------------------------------------------------------------------------


def same_record(code: Code, slot: Location, word: Entry, stamp: Value) -> Steps:
    if stamp == 0 and code.keeps("same_record: never for version 0"):
        return False
    yield from code.fence("same_record: fence")
    if code.keeps("same_record: slot read again"):
        again = yield Load(slot, code.order("same_record: slot"))
        if not isinstance(again, Entry) or again.granule != word.granule:
            return False
    return not code.keeps("same_record: version read again") or (yield Load(word.granule)) == stamp


def look(code: Code, key: str) -> Steps:
    """(outcome, split): the slot, word and stamp of a hit, or MISS or RETRY."""
    split = yield Load("split", code.order("look: split"))
    slots = yield Load(f"directory {home(key, split.buckets)}", code.order("bucket_at: directory"))
    while isinstance(slots, int):
        for slot in range(slots, slots + BUCKET):
            word = yield Load(slot, code.order("look: slot"))
            if not isinstance(word, Entry):
                continue
            stamp = yield Load(word.granule, code.order("look: version"))
            if not isinstance(stamp, int) or stamp == 0 or (yield Load(word.granule + 1)) != key:
                if code.keeps("look: miss confirmed by slot and version") and not (yield from same_record(code, slot, word, stamp)):
                    return RETRY, split
                continue
            return (slot, word, stamp), split
        if not code.keeps("look: last slot loaded once"):
            word = yield Load(slots + BUCKET - 1, ACQUIRE)
        slots = word.node if isinstance(word, Link) else None
    return MISS, split


def unchanged(code: Code, split: Split) -> Steps:
    yield from code.fence("unchanged: fence")
    if not code.keeps("unchanged: split read again"):
        return True
    again = yield Load("split")
    return again == split if code.keeps("split word: generation") else again.buckets == split.buckets


def flush_due(code: Code) -> Steps:
    """The deadline that has passed and is not noted yet, else 0."""
    deadline = yield Load("deadline", code.order("flush_due: deadline"))
    if deadline == 0 or deadline == (yield Load("applied", code.order("flush_due: applied"))):
        return 0
    return deadline if deadline <= NOW else 0


def is_void(code: Code, stamp: int) -> Steps:
    if code.keeps("void_reason: cutoff last"):
        return (yield from flush_due(code)) != 0 or stamp <= (yield Load("cutoff", code.order("void_reason: cutoff")))
    return stamp <= (yield Load("cutoff", code.order("void_reason: cutoff"))) or (yield from flush_due(code)) != 0


def get(code: Code, key: str = "K", flushes: bool = False) -> Steps:
    """One try of find, copy and confirm: a Hit, MISS, VOID or RETRY."""
    found, split = yield from look(code, key)
    if found == RETRY:
        return RETRY
    if found == MISS:
        return MISS if (yield from unchanged(code, split)) else RETRY
    slot, word, stamp = found
    if flushes and (yield from is_void(code, stamp)):
        return (VOID, stamp)
    value = (yield Load(word.granule + 2)), (yield Load(word.granule + 3))
    if not (yield from same_record(code, slot, word, stamp)) or not (yield from unchanged(code, split)):
        return RETRY
    return Hit(stamp, value, slot)


def note_hit(code: Code, slot: Location, granule: int) -> Steps:
    word = yield Load(slot)
    if not isinstance(word, Entry) or word.granule != granule:
        return
    if code.keeps("note_hit: by swap"):
        yield Swap(slot, word._replace(hits=word.hits + 1), RELAXED, word)
    else:
        yield Store(slot, word._replace(hits=word.hits + 1))


# --- records.pyx, recovery.pxd ------------------------------------------------------------------------------------------------------


def fill(code: Code, at: int, key: str, version: int, value: Any = None) -> Steps:
    yield Store(at, 0)
    yield from code.fence("fill: fence")
    yield Store(at + 1, key)
    yield Store(at + 2, value or (key, version))
    yield Store(at + 3, value or (key, version))
    yield Store(at, version, code.order("fill: version"))


def begin(code: Code, operation: str) -> Steps:
    yield Store("intent slot", None)
    yield Store("operation", operation, code.order("begin: operation"))
    yield from code.fence("begin: fence")


def end(code: Code) -> Steps:
    yield Store("operation", None, code.order("end: operation"))


def note(code: Code, operation: str, slot: Location, new: Value) -> Steps:
    yield Store("intent new", new)
    yield Store("intent slot", slot, code.order("note: slot"))
    yield Store("operation", operation, code.order("note: operation"))


def done(code: Code, operation: str) -> Steps:
    yield from code.fence("done: fence")
    yield Store("operation", f"{operation} done")


def publish(code: Code, operation: str, slot: Location, new: Value) -> Steps:
    yield from note(code, operation, slot, new)
    yield Store(slot, new, code.order("publish: slot"))
    yield from done(code, operation)


def publish_told(code: Code, operation: str, slot: Location, new: Value, head: int) -> Steps:
    """With an event that lies ready behind the feed's head."""
    yield from code.fence("note: fence")
    yield Store("intent feed", head)
    yield from note(code, operation, slot, new)
    yield Store(slot, new, code.order("publish: slot"))
    yield from announce(code, head)
    yield from done(code, operation)


def announce(code: Code, head: int) -> Steps:
    yield Store("head", head, code.order("announce: head"))


# --- index.pyx: the operations of an owner, who knows what memory holds --------------------------------------------------------------


def clear(first: int, cells: int = BUCKET) -> Steps:
    """memset"""
    for cell in range(first, first + cells):
        yield Store(cell, 0)


def bump(code: Code, after: Split) -> Steps:
    yield Store("split", Split(after.generation + 1, after.buckets), code.order("bump: split"))
    yield from code.fence("bump: fence")


def put_entry(code: Code, slot: int, word: Value) -> Steps:
    yield Store(slot, word, code.order("put_entry: slot"))


def extend(code: Code, tail: int, entry: Entry, node: int) -> Steps:
    yield from clear(node)
    yield Store(node, entry)
    yield Store(tail, Link(node), code.order("extend: link"))


def grow(code: Code, before: Split, mover: int, chunk: int, word: Entry, new_chunk: bool = True) -> Steps:
    """Split bucket 0, where the slot `mover` holds the word of K; bucket 1 lies at `chunk`."""
    yield from begin(code, "split")
    yield from clear(chunk)
    if new_chunk:
        yield Store("directory 1", chunk, code.order("take_chunk: directory"))
    yield from put_entry(code, chunk, word)
    yield from publish(code, "split", "split", Split(before.generation + 1, 2))
    yield Store(mover, 0, code.order("drop_movers: slot"))


def shrink(code: Code, before: Split, gap: int, chunk: int, word: Entry) -> Steps:
    """Merge bucket 1, at `chunk`, which holds the word of K, into bucket 0."""
    yield from begin(code, "merge")
    yield from put_entry(code, gap, word)
    yield from publish(code, "merge", "split", Split(before.generation + 1, 1))
    yield from clear(chunk)


def compact(code: Code, before: Split, gap: int, tail: int, word: Entry) -> Steps:
    """Bring the one entry of the node behind `tail` into `gap` and take the node off the path."""
    after = before
    yield Store(gap, word, code.order("move_into_gaps: slot"))
    if code.keeps("compact: first bump"):
        yield from bump(code, after)
        after = Split(after.generation + 1, after.buckets)
    yield Store(tail, 0, code.order("compact: link"))
    if code.keeps("compact: second bump"):
        yield from bump(code, after)


def rebuild(code: Code) -> Steps:
    """What the next owner does to a shard whose owner died inside: slots that are not at home, or twice, are cleared."""
    split = yield Load("split")
    yield from begin(code, "repair")
    if code.keeps("rebuild: first bump"):
        yield from bump(code, split)
        split = Split(split.generation + 1, split.buckets)
    met: set[int] = set()
    for bucket in range(split.buckets):
        slots = yield Load(f"directory {bucket}")
        while isinstance(slots, int):
            for slot in range(slots, slots + BUCKET):
                word = yield Load(slot)
                if not isinstance(word, Entry):
                    continue
                if word.granule in met or home((yield Load(word.granule + 1)), split.buckets) != bucket:
                    yield Store(slot, 0, code.order("rebuild_bucket: slot"))
                else:
                    met.add(word.granule)
            link = yield Load(slots + BUCKET - 1)
            slots = link.node if isinstance(link, Link) else None
    yield from bump(code, split)
    yield from end(code)
