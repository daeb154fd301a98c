"""All short histories of a shard, each read by everybody at every moment.

Two keys, two buckets, one overflow node and three places for records. Every sequence of operations that is possible is run as one operation
of one owner (so that nothing but the fences inside orders it), and index memory that was given back becomes a value whose
bytes look like slots. A get beside it may return what K had meanwhile, and may miss only when K was not there.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace

from explorer import Location, Machine, Steps, Store
from protocol import Code, Entry, Link, Split, begin, bump, extend, fill, get, grow, publish, record, shrink, table
from scenarios import HOSTILE, OTHER, SLOT, STALE, Memory, bad_read

NODE, CHUNK = 28, 24  # where the overflow node and the second bucket lie
PLACES_OF_RECORDS = (0, 4, 8)


@dataclass(frozen=True)
class Shard:
    """What the owner knows of its shard, and K's past."""

    slots: dict[int, Entry | Link | None]  # of bucket 0, then those of the node and bucket 1 while they are there
    split: Split
    at: dict[str, int] = field(default_factory=dict)  # key -> granule
    versions: dict[str, int] = field(default_factory=dict)
    counter: int = 9
    had: frozenset[int] = frozenset()  # versions of K
    absent: bool = False  # was K missing at some time?

    def slot_of(self, key: str) -> int:
        return next(slot for slot, word in self.slots.items() if word == Entry(self.at[key]))

    def path(self, key: str) -> list[int]:
        if key == "K" and self.split.buckets == 2:
            return [CHUNK, CHUNK + 1]
        return [slot for slot in self.slots if slot not in (CHUNK, CHUNK + 1)]

    def empty(self, key: str) -> int | None:
        return next((slot for slot in self.path(key) if self.slots[slot] is None), None)

    def free(self) -> int:
        return next(place for place in PLACES_OF_RECORDS if place not in self.at.values())

    def with_(self, slots: dict[int, Entry | Link | None], **changes: object) -> Shard:
        return replace(self, slots={**self.slots, **slots}, **changes)


Step = tuple[Steps, Shard]


def store(code: Code, s: Shard, key: str, version: int) -> Step | None:
    """Put a record of the key into a free place and its word into the key's slot or an empty one."""
    slot = s.slot_of(key) if key in s.at else s.empty(key)
    if slot is None:
        return None
    at = s.free()

    def steps() -> Steps:
        yield from fill(code, at, key, version)
        yield from publish(code, "store", slot, Entry(at))

    had = s.had | {version} if key == "K" else s.had
    changes = {"at": {**s.at, key: at}, "versions": {**s.versions, key: version}, "counter": max(s.counter, version), "had": had}
    return steps(), s.with_({slot: Entry(at)}, **changes)


def overwrite(code: Code, s: Shard, key: str) -> Step | None:
    return store(code, s, key, s.counter + 1)


def move(code: Code, s: Shard, key: str) -> Step | None:
    """To a lower place always: were a record to return to a place it had with the version it had, nothing would tell a reader."""
    return store(code, s, key, s.versions[key]) if key in s.at and s.free() < s.at[key] else None


def delete(code: Code, s: Shard, key: str) -> Step | None:
    if key not in s.at:
        return None
    slot = s.slot_of(key)
    rest = {k: v for k, v in s.at.items() if k != key}
    return publish(code, "delete", slot, 0), s.with_({slot: None}, at=rest, absent=s.absent or key == "K")


def extend_path(code: Code, s: Shard) -> Step | None:
    word = s.slots[OTHER]
    if not isinstance(word, Entry):
        return None
    return extend(code, OTHER, word, NODE), s.with_({OTHER: Link(NODE), NODE: word, NODE + 1: None})


def compact_path(code: Code, s: Shard) -> Step | None:
    """The node's entries go into the gap before it and into the link's place, if there are not too many."""
    if not isinstance(s.slots[OTHER], Link):
        return None
    words = [w for w in (s.slots[NODE], s.slots[NODE + 1]) if w is not None]
    gap = s.slots[SLOT] is None
    if len(words) > 1 + gap:
        return None
    moved = words.pop(0) if words and gap else None
    rest = words[0] if words else None

    def steps() -> Steps:
        if moved:
            yield Store(SLOT, moved, code.order("move_into_gaps: slot"))
        yield from bump(code, s.split)
        yield Store(OTHER, rest or 0, code.order("compact: link"))
        yield from bump(code, Split(s.split.generation + 1, s.split.buckets))
        yield from fill(code, NODE - 2, "M", 99, HOSTILE)

    slots = {slot: word for slot, word in s.slots.items() if slot not in (NODE, NODE + 1)} | {OTHER: rest}
    if moved:
        slots[SLOT] = moved
    return steps(), replace(s, slots=slots, split=Split(s.split.generation + 2, s.split.buckets))


def split_bucket(code: Code, s: Shard) -> Step | None:
    if s.split.buckets == 2 or "K" not in s.at:
        return None
    slot, word = s.slot_of("K"), Entry(s.at["K"])
    after = s.with_({slot: None, CHUNK: word, CHUNK + 1: None}, split=Split(s.split.generation + 1, 2))
    return grow(code, s.split, slot, CHUNK, word), after


def merge_bucket(code: Code, s: Shard) -> Step | None:
    gap = next((slot for slot in s.path("J") if s.slots[slot] is None), None)
    if s.split.buckets == 1 or "K" not in s.at or s.slot_of("K") != CHUNK or gap is None:
        return None
    word = Entry(s.at["K"])

    def steps() -> Steps:
        yield from shrink(code, s.split, gap, CHUNK, word)
        yield from fill(code, CHUNK - 2, "M", 98, HOSTILE)

    slots = {slot: w for slot, w in s.slots.items() if slot not in (CHUNK, CHUNK + 1)} | {gap: word}
    return steps(), replace(s, slots=slots, split=Split(s.split.generation + 1, 1))


def possible(code: Code, s: Shard) -> Iterator[Step]:
    for operation in (overwrite, move, delete):
        for key in "KJ":
            step = operation(code, s, key)
            if step:
                yield step
    for change in (extend_path, compact_path, split_bucket, merge_bucket):
        step = change(code, s)
        if step:
            yield step


def histories(code: Code, s: Shard, length: int, choices: tuple[int, ...] = ()) -> Iterator[tuple[tuple[int, ...], Shard]]:
    """Every sequence of so many possible operations, as the numbers of the choices made, with the shard after it."""
    if length == 0:
        yield choices, s
        return
    for number, (steps, after) in enumerate(possible(code, s)):
        steps.close()
        yield from histories(code, after, length - 1, (*choices, number))


def owner(code: Code, s: Shard, choices: tuple[int, ...]) -> Steps:
    yield from begin(code, "store")
    for number in choices:
        steps, s = list(possible(code, s))[number]
        yield from steps


def start() -> tuple[Memory, Shard]:
    """K and J in a bucket; all else is bytes that look like the slot of a stale record of K."""
    memory = table(record(0, "K", 5), record(4, "J", 2), STALE, {SLOT: Entry(4), OTHER: Entry(0)})
    lures: dict[Location, object] = dict.fromkeys((CHUNK, CHUNK + 1, NODE, NODE + 1), HOSTILE)
    slots: dict[int, Entry | Link | None] = {SLOT: Entry(4), OTHER: Entry(0)}
    return memory | lures, Shard(slots, Split(1, 1), {"K": 0, "J": 4}, {"K": 5, "J": 2}, had=frozenset({5}))


def read_all(code: Code, length: int) -> Iterator[str]:
    """A text for every get that returns what it may not; "" for every history that is all right."""
    memory, shard = start()
    for choices, after in histories(code, shard, length):
        programs = [lambda c=choices: owner(code, shard, c), lambda: get(code)]
        wrong = {bad_read(o.results[1], set(after.had), after.absent) for o in Machine(memory, programs, [0]).executions()} - {None}
        yield "; ".join(f"history {choices}: {text}" for text in sorted(wrong))
