"""The protocols of the storage layer under weak memory: what they promise holds in every execution, and every fence, acquire and release
is either needed (without it the explorer finds a violation) or known to be spare. docs/architecture.md, "Memory order", has
the arguments; a test there and here is named by the scenario it runs."""

from __future__ import annotations

import re
from pathlib import Path

import deaths
import feed
import owners
import pytest
import rings
import scenarios
from histories import read_all
from protocol import PLACES, RULES, Code
from scenarios import first_violation

STORAGE = Path(__file__).resolve().parents[2] / "memcache_shm" / "storage"
ALL = scenarios.SCENARIOS
assert deaths and feed and owners and rings  # their scenarios are among them

# Left out alone, the scenario goes wrong. A place may stand here with one half of its swap.
NEEDED = {
    "look: split": "split_a_bucket",
    "look: slot": "overflow",
    "look: version": "overwrite",
    "same_record: fence": "eviction_for_a_record",
    "same_record: slot": "repeated_word",
    "flush_due: deadline": "flush_settled_by_another",
    "flush_due: applied": "flush",
    "fill: version": "overwrite",
    "begin: operation": "death_anywhere",
    "begin: fence": "death_anywhere",
    "note: slot": "death_anywhere",
    "note: operation": "death_anywhere",
    "note: fence": "death_with_an_event",
    "publish: slot": "death_anywhere",
    "done: fence": "eviction_for_a_record",
    "end: operation": "death_anywhere",
    "bump: split": "compaction",
    "extend: link": "overflow",
    "flush: deadline": "flush_settled_by_another",
    "take: swap, ACQUIRE": "handing_over",
    "take: swap, RELEASE": "a_living_owner",
    "give: exchange, RELEASE": "handing_over",
    "try_once: word": "a_living_owner",
    "owner_state: epoch": "a_dead_owner",
    "claim: epoch": "a_dead_owner",
    "claim: fork count": "a_process_slot_for_all_threads",
    "ready: fork count": "a_process_slot_for_all_threads",
    "segment: magic": "a_new_segment",
    "check_header: magic": "a_new_segment",
    "announce: head": "told_of_a_change",
    "announce: fence": "going_to_sleep",
    "read_event: head": "told_of_a_change",
    "read_event: fence": "ring_goes_round",
    "sleep_until_news: fence": "going_to_sleep",
    "arrived: tail": "round_the_ring",
    "push: tail": "round_the_ring",
    "go_to_sleep: fence": "asleep_for_bytes",
    "must_wake: fence": "asleep_for_bytes",
    "must_tell_room: fence": "asleep_for_room",
    "say_closed: flag": "end_of_the_stream",
    "has_ended: flag": "end_of_the_stream",
    "empty_block: fence": "emptied_amid_a_copy",
    "is_emptied: fence": "emptied_amid_a_copy",
}

# Either of the two suffices; without both the scenario goes wrong.
EITHER = {
    ("bump: fence", "fill: fence"): "compaction_of_others",
    ("bump: fence", "compact: link"): "compaction",
    ("bump: fence", "rebuild_bucket: slot"): "death_in_a_compaction",
    ("done: fence", "drop_movers: slot"): "split_a_bucket",
}

# All of them left out together change nothing in the model: what is named beside each orders the same.
SPARE = {
    "bucket_at: directory": "look: split, and unchanged's second look at it",
    "take_chunk: directory": "publish: slot",
    "put_entry: slot": "begin: fence before it, publish: slot (of the split word) behind it",
    "move_into_gaps: slot": "done: fence and begin: fence before it, bump: split behind it",
    "unchanged: fence": "look: slot, same_record: fence",
    "void_reason: cutoff": "flush_due: applied",
    "write_record: version": "fill: version",
    "enter: operation": "take: swap",
    "inherit: word": "take: swap",
    "give: exchange, ACQUIRE": "nothing is read behind it",
    "renew: expiry": "nothing comes with it",
    "pull: head": "what was read before it stays before it: load buffering, which the model leaves out",
    "room: head": "the same, on the other side",
    "must_wake: exchange": "a system call follows it, and the sleeper looks at the rings again",
    "must_tell_room: exchange": "the same",
}

# Steps that are no fences.
STRUCTURE = {
    "split word: generation": "merge_and_split",
    "compact: first bump": "compaction",
    "compact: second bump": "compaction_of_others",
    "rebuild: first bump": "death_in_a_compaction",
    "note_hit: by swap": "hit_and_overwrite",
    "void_reason: cutoff last": "flush",
    "enter: deadline read once": "flush_replaced_as_it_falls_due",
    "unchanged: split read again": "merge_buckets",
    "same_record: version read again": "overwrite",
    "same_record: never for version 0": "word_repeated_twice",
    "same_record: slot read again": "eviction_for_a_record",
    "look: miss confirmed by slot and version": "reuse_within_an_operation",
    "look: last slot loaded once": "compaction_of_the_last",
    "must_wake: whatever was taken": "another_wish_by_then",
    "must_tell_room: tail loaded anew": "asleep_for_room",
    "has_ended: asked before the bytes": "end_of_the_stream",
}


@pytest.mark.parametrize("name", ALL)
def test_promise_holds(name: str) -> None:
    assert first_violation(ALL[name], Code()) is None


@pytest.mark.parametrize(("place", "name"), [*NEEDED.items(), *STRUCTURE.items()])
def test_needed(place: str, name: str) -> None:
    assert first_violation(ALL[name], Code([place])) is not None


@pytest.mark.parametrize(("places", "name"), EITHER.items())
def test_either_suffices(places: tuple[str, str], name: str) -> None:
    assert [first_violation(ALL[name], Code([place])) for place in places] == [None, None]
    assert first_violation(ALL[name], Code(places)) is not None


@pytest.mark.parametrize("name", ALL)
def test_spare_places_change_nothing(name: str) -> None:
    assert first_violation(ALL[name], Code(SPARE)) is None


def test_spare_places_change_nothing_in_histories() -> None:
    assert not [text for text in read_all(Code(SPARE), 2) if text]


def test_every_place_is_accounted_for() -> None:
    told = {place.split(", ")[0] for place in [*NEEDED, *SPARE, *sum(EITHER, ())]}
    assert told == PLACES.keys()
    assert STRUCTURE.keys() == RULES
    assert not {place for place in SPARE if place in NEEDED or place in sum(EITHER, ())}


def test_all_histories_of_three_operations() -> None:
    """Sequences that no scenario thought of. (The lost key behind "look: last slot loaded once" was found here.)"""
    texts = list(read_all(Code(), 3))
    assert len(texts) > 150
    assert not [text for text in texts if text]


@pytest.mark.torture
@pytest.mark.timeout(3600)
def test_all_histories_of_four_operations() -> None:
    assert not [text for text in read_all(Code(), 4) if text]


def test_histories_find_what_is_left_out() -> None:
    for place in ("done: fence", "bump: split", "look: last slot loaded once"):
        assert any(read_all(Code([place]), 2)), place


# --- the model against the sources -------------------------------------------------------------------------------------------------------

ORDERING = re.compile(r"\b(load_acquire\d+|store_release\d+|fence_\w+|cas32|cas64_relaxed|exchange32)\(")
FUNCTION = re.compile(r"\s*(?:cdef|cpdef|def)\s+(?:inline\s+)?[\w *]*?(\w+)\(")

# Functions that order memory, and how often; a change here is a change of the model too.
MODELLED = {
    "reader": {"same_record": 2, "look": 3, "unchanged": 1, "void_reason": 1, "note_hit": 1},
    "records": {"fill": 2},
    "recovery": {"begin": 2, "end": 1, "note": 3, "done": 1, "publish_told": 1, "enter": 1, "rebuild_bucket": 2},
    "index": {
        "bucket_at": 1, "bump": 2, "extend": 1, "move_into_gaps": 1, "compact": 1, "put_entry": 2, "take_chunk": 1,
        "drop_movers": 1,
    },
    "placing": {"write_record": 1, "renew": 1},
    "writer": {},
    "claims": {},
    "flushing": {"flush": 1},
    "feed": {"announce": 2},
    "listening": {"read_event": 2, "sleep_until_news": 2},
    "view": {"flush_due": 2},
    "holding": {"agree_on_flush": 1},
    "rings": {
        "arrived": 1, "room": 1, "has_ended": 1, "say_closed": 1, "go_to_sleep": 1, "must_wake": 2, "must_tell_room": 2,
        "pull": 1, "push": 1, "empty_block": 1, "is_emptied": 1,
    },
    "locks": {"inherit": 2, "claim": 2, "owner_state": 1, "try_once": 3, "spin": 1, "give_up": 1, "hold": 1, "ready": 1, "give": 1},
}  # fmt: skip

# Functions that use an ordering primitive where its order carries nothing: flags, hints, and words stored under repair alone. Who has won
# an item is decided under the lock; what a reader without it sees of that may be a moment old.
NOT_MODELLED = {
    "locks": {"retire", "nap", "ready_slowly", "sweep"},
    "writer": {"touch"},
    "claims": {"mark_won"},
    "feed": {"lapsed", "deafen", "wake"},
    "listening": {"heads", "take_lease", "renew", "holds", "pass_flush", "skip"},
    "recovery": {"published", "format_index", "mark_record", "mend_version", "rebuild"},
}


def uses(module: str) -> dict[str, int]:
    """Ordering primitives in a module and its .pxd, by function."""
    found: dict[str, int] = {}
    for suffix in ("pxd", "pyx"):
        path = STORAGE / f"{module}.{suffix}"
        function = ""
        for line in path.read_text().splitlines() if path.exists() else []:
            match = FUNCTION.match(line)
            function = match[1] if match else function
            for _ in ORDERING.findall(line):
                found[function] = found.get(function, 0) + 1
    return found


@pytest.mark.parametrize("module", MODELLED)
def test_model_knows_every_ordering_primitive(module: str) -> None:
    left_out = NOT_MODELLED.get(module, set())
    assert {name: n for name, n in uses(module).items() if name not in left_out} == MODELLED[module]
