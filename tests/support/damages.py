"""Damage to a table, one thing at a time: what is overwritten, which findings a check must have, which items it may cost."""

from __future__ import annotations

from collections.abc import Callable

from support.segments import LINK, Entry, Segment, constants, size_of

Damage = Callable[[Segment], list[bytes]]


def first(segment: Segment) -> Entry:
    return next(segment.entries())


def free_slot(segment: Segment, shard: int, bucket: int) -> int:
    """The offset of an empty slot of a bucket that is not its last."""
    return next(at for at, word in list(segment.slots(shard, bucket))[:-1] if word == 0)


def has_room(segment: Segment, shard: int, bucket: int) -> bool:
    return any(word == 0 for _, word in list(segment.slots(shard, bucket))[:-1])


def with_room(segment: Segment) -> Entry:
    """An entry whose bucket has an empty slot."""
    return next(entry for entry in segment.entries() if has_room(segment, entry.shard, entry.bucket))


def flip_granule(segment: Segment, shard: int, granule: int) -> None:
    byte = segment.bitmap_byte(shard, segment.plan.records, granule)
    segment.put(byte, segment.get(byte) ^ 1 << granule % 8)


# Each damages one thing and returns the keys that may be gone or changed after it.


def intent_of_the_dead(segment: Segment) -> list[bytes]:
    segment.put(segment.control(0, "intent.pid"), 4711)
    segment.put(segment.control(0, "intent.operation"), 2)
    return []


def use_count_out_of_range(segment: Segment) -> list[bytes]:
    segment.put(segment.control(0, "used[0]"), segment.plan.records.granules + 1)
    return []


def cutoff_ahead(segment: Segment) -> list[bytes]:
    """Which of the two words is wrong nobody can tell: what may have been flushed is not served."""
    segment.put(segment.control(0, "cutoff"), segment.get(segment.control(0, "version")) + 1)
    return [segment.key(entry) for entry in segment.entries() if entry.shard == 0]


def chunk_nowhere(segment: Segment) -> list[bytes]:
    costs = [segment.key(entry) for entry in segment.entries() if entry.shard == 0]
    segment.put(segment.directory(0, 1 if segment.buckets(0) > constants()["CHUNK_BUCKETS"] else 0), 0xFFFFFFF0)
    return costs


def slot_of_no_kind(segment: Segment) -> list[bytes]:
    entry = with_room(segment)
    segment.put_word(free_slot(segment, entry.shard, entry.bucket), 3 << 62 | 5)
    return []


def link_in_the_middle(segment: Segment) -> list[bytes]:
    entry = with_room(segment)
    segment.put_word(free_slot(segment, entry.shard, entry.bucket), LINK << 62 | 5)
    return []


def link_to_nowhere(segment: Segment) -> list[bytes]:
    for entry in segment.entries():
        at, word = list(segment.slots(entry.shard, entry.bucket))[-1]
        if word == 0:
            segment.put_word(at, LINK << 62 | 0xFFFFFFF)
            return []
    raise AssertionError("no bucket has its last slot free")


def slot_to_nowhere(segment: Segment) -> list[bytes]:
    entry = first(segment)
    key = segment.key(entry)
    segment.put_word(entry.slot, entry.word | 0xFFFFFFF)
    return [key]


def other_version(segment: Segment) -> list[bytes]:
    entry = first(segment)
    segment.put(segment.record(entry, "version"), segment.get(segment.record(entry, "version")) + segment.shards)
    return [segment.key(entry)]


def key_of_no_length(segment: Segment) -> list[bytes]:
    entry = first(segment)
    key = segment.key(entry)
    segment.put(segment.record(entry, "key_length"), 0)
    return [key]


def unknown_state(segment: Segment) -> list[bytes]:
    entry = first(segment)
    segment.put(segment.record(entry, "state"), 0x80)
    return [segment.key(entry)]


def far_from_home(segment: Segment) -> list[bytes]:
    entry = first(segment)
    key = segment.key(entry)
    segment.put_word(entry.slot, 0)
    other = next(
        bucket for bucket in range(segment.buckets(entry.shard)) if bucket != entry.bucket and has_room(segment, entry.shard, bucket)
    )
    segment.put_word(free_slot(segment, entry.shard, other), entry.word)
    return [key]


def other_tag(segment: Segment) -> list[bytes]:
    entry = first(segment)
    segment.put_word(entry.slot, entry.word ^ 1 << constants()["TAG_AT"])
    return [segment.key(entry)]


def there_twice(segment: Segment) -> list[bytes]:
    entry = with_room(segment)
    segment.put_word(free_slot(segment, entry.shard, entry.bucket), entry.word)
    return []


def version_ahead(segment: Segment) -> list[bytes]:
    """By so much that the slot word's bits of it are the same."""
    entry = first(segment)
    ahead = (constants()["VERSION_MASK"] + 1) * segment.shards
    segment.put(segment.record(entry, "version"), segment.get(segment.record(entry, "version")) + ahead)
    return []


def version_of_another(segment: Segment) -> list[bytes]:
    """CAS would take one item for the other: one of them has to go."""
    entry, other = [entry for entry in segment.entries() if entry.shard == 0][:2]
    segment.put(segment.record(other, "version"), segment.get(segment.record(entry, "version")))
    bits = constants()["VERSION_MASK"] << constants()["VERSION_AT"]
    segment.put_word(other.slot, (other.word & ~bits) | (entry.word & bits))
    return [segment.key(entry), segment.key(other)]


def run_leads_back_elsewhere(segment: Segment) -> list[bytes]:
    segment.put(segment.run_link(segment.find(b"huge"), "first"), 1)
    return [b"huge"]


def run_leads_nowhere(segment: Segment) -> list[bytes]:
    segment.put(segment.run_link(segment.find(b"huge"), "next"), segment.plan.records.granules)
    return [b"huge"]


def runs_end_too_soon(segment: Segment) -> list[bytes]:
    segment.put(segment.run_link(segment.find(b"huge"), "next"), 0xFFFFFFFF)
    return [b"huge"]


def run_too_long(segment: Segment) -> list[bytes]:
    link = segment.run_link(segment.find(b"huge"), "granules")
    segment.put(link, segment.get(link) + 1)
    return [b"huge"]


def into_another(segment: Segment) -> list[bytes]:
    """An item is said to be a granule longer, which is another item's: one of the two has to go."""
    by_granule = {entry.granule: entry for entry in segment.entries()}
    granule_bytes = segment.plan.records.granule_bytes
    for entry in by_granule.values():
        size = size_of("Record") + segment.get(segment.record(entry, "length")) + segment.get(segment.record(entry, "key_length"))
        behind = by_granule.get(entry.granule + -(-size // granule_bytes))
        if behind is not None and not segment.has_several_runs(entry):
            length = segment.record(entry, "length")
            segment.put(length, segment.get(length) + granule_bytes)
            return [segment.key(entry), segment.key(behind)]
    raise AssertionError("no two items lie side by side")


def taken_by_nobody(segment: Segment) -> list[bytes]:
    flip_granule(segment, 0, next(segment.free_granules(0)))
    return []


def marked_free(segment: Segment) -> list[bytes]:
    entry = first(segment)
    flip_granule(segment, entry.shard, entry.granule)
    return []


def miscounted(name: str, by: int) -> Damage:
    def damage(segment: Segment) -> list[bytes]:
        field = segment.control(0, name)
        segment.put(field, segment.get(field) + by)
        return []

    damage.__name__ = f"miscounted_{name}"
    return damage


def no_expiry_ahead(segment: Segment) -> list[bytes]:
    segment.put(segment.control(0, "next_expiry"), 0)
    return []


LOST = {"leak", "count"}  # follow when an item is not recognised any more
ANYWHERE: list[tuple[Damage, set[str]]] = [
    (intent_of_the_dead, {"intent"}),
    (use_count_out_of_range, {"control"}),
    (cutoff_ahead, {"control"}),
    (chunk_nowhere, {"directory"} | LOST),
    (slot_of_no_kind, {"slot"}),
    (link_in_the_middle, {"slot"}),
    (link_to_nowhere, {"link"}),
    (slot_to_nowhere, {"record"} | LOST),
    (other_version, {"record"} | LOST),
    (key_of_no_length, {"record"} | LOST),
    (unknown_state, {"runs"} | LOST),
    (far_from_home, {"home"} | LOST),
    (other_tag, {"home"} | LOST),
    (there_twice, {"twice"}),
    (version_ahead, {"version"}),
    (version_of_another, {"version"}),
    (taken_by_nobody, {"leak"}),
    (marked_free, {"free map"}),
    (miscounted("used[0]", 1), {"count"}),
    (miscounted("used[1]", -1), {"count"}),
    (miscounted("items", -2), {"count"}),
    (miscounted("bytes", 7), {"count"}),
    (miscounted("nodes", 1), {"count"}),
    (no_expiry_ahead, {"expiry"}),
]
IN_MEMORY: list[tuple[Damage, set[str]]] = [
    (run_leads_back_elsewhere, {"runs"} | LOST),
    (run_leads_nowhere, {"runs"} | LOST),
    (runs_end_too_soon, {"runs"} | LOST),
    (run_too_long, {"runs"} | LOST),
    (into_another, {"overlap"} | LOST),
    (miscounted("records", 1), {"count"}),  # with elements there are as many granules in use: out of range
]
