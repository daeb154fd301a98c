"""The simulated policies evict what their rules say: worked out by hand for short sequences, and what holds for any sequence."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st
from policies import Arc, Batches, Clock, Fifo, Fixed, Lru, Min, Policy, S3Fifo, Sieve, batches_of, hit_ratio
from table_policy import LEAST_SHARE, MOST_SHARE, Table

POLICIES: list[Callable[[int], Policy]] = [Fifo, Lru, Clock, Sieve, S3Fifo, Arc, Table]

capacities = st.integers(1, 30)
batch_lists = st.lists(st.lists(st.integers(0, 60), min_size=1, max_size=8, unique=True), min_size=2, max_size=80)


def evictions(policy: Policy, requests: str) -> str:
    """The keys that go, one after the other, when each key (a letter) is asked for and added if it is not there."""
    gone = ""
    for key in map(ord, requests):
        if not policy.touch(key):
            before = policy.held()
            policy.add(key)
            gone += "".join(map(chr, before - policy.held()))
    return gone


def letters(policy: Policy) -> str:
    return "".join(sorted(map(chr, policy.held())))


def hits(policy: Policy, batches: Batches) -> int:
    total = 0
    for batch in batches:
        missing = policy.missing(batch)
        policy.store(missing)
        total += len(batch) - len(missing)
    return total


# By hand


def test_fifo_evicts_the_oldest_whatever_was_hit():
    assert evictions(Fifo(3), "abc" + "a" + "de") == "ab"


def test_lru_evicts_the_least_recently_used():
    assert evictions(Lru(3), "abc" + "a" + "de") == "bc"


def test_clock_passes_a_key_once_for_each_use():
    assert evictions(Clock(3), "abc" + "aa" + "defgh") == "bcdea"  # a is passed at d and at f


def test_clock_counts_three_uses():
    assert evictions(Clock(2), "ab" + "aaaaaaaa" + "cdefgh") == "bcdaef"  # passed at c, d and e


def test_sieve_spares_what_was_visited_and_leaves_it_in_its_place():
    policy = Sieve(4)
    assert evictions(policy, "abcd" + "a" + "efghi") == "bcdef"  # a clock would come back to a after d
    assert letters(policy) == "aghi"


def test_sieve_begins_anew_at_the_oldest_end():
    assert evictions(Sieve(3), "abc" + "ab" + "def") == "cab"  # the hand leaves at c, the newest when d comes


def test_s3fifo_evicts_new_keys_first_and_keeps_those_that_were_hit_or_come_back():
    policy = S3Fifo(10)
    assert evictions(policy, "abcdefghij" + "b" + "kl") == "ac"  # b moves to the main queue
    assert evictions(policy, "a") == "d"  # the ghost knows a
    assert evictions(policy, "mnopqrstuvwxyz") == "efghijklmnopqr"
    assert letters(policy) == "abstuvwxyz"


def test_s3fifo_evicts_from_the_main_queue_when_it_has_more_than_its_share():
    policy = S3Fifo(10)
    assert evictions(policy, "abcdefghij" + "aabcdefghij" + "k") == "a"  # all ten have moved there, and left their uses behind
    assert evictions(policy, "b" + "k" + "l") == "c"  # k moves there, b has a use


def test_s3fifo_remembers_as_many_as_the_main_queue_holds():
    policy = S3Fifo(10)
    assert evictions(policy, "abcdefghij" + "klmnopqrst") == "abcdefghij"  # the ghost holds the last nine
    assert evictions(policy, "c" + "ba") == "klm"  # of the last nine evicted at each of them, c is one, a and b are none
    assert evictions(policy, "uvwxyzABCD") == "nopqrstbau"
    assert "c" in letters(policy)


def test_arc_moves_room_to_the_list_whose_ghosts_are_asked_for():
    policy = Arc(4)
    assert evictions(policy, "abcd" + "ab" + "e") == "c"  # room for none of those seen once
    assert evictions(policy, "c") == "d"  # for one of them
    assert evictions(policy, "d") == "a"  # for two: e stays, of those seen more often one goes
    assert evictions(policy, "f") == "b"
    assert evictions(policy, "a") == "e"  # for one again: e and f are too many
    assert evictions(policy, "b") == "f"  # for none
    assert letters(policy) == "abcd"


def test_arc_evicts_of_those_seen_once_when_they_have_just_their_room_and_a_ghost_of_the_others_is_asked_for():
    assert evictions(Arc(4), "abcd" + "ab" + "e" + "c" + "d" + "a") == "cdae"


def test_arc_remembers_as_many_as_it_holds():
    policy = Arc(2)
    assert evictions(policy, "aba" + "c" + "b" + "a" + "d") == "bacb"
    assert evictions(policy, "e" + "e" + "f") == "da"  # the ghosts are d and a, b is forgotten
    assert evictions(policy, "b" + "g") == "fb"  # and so b is new and goes before e


def test_arc_drops_a_list_of_keys_seen_once_without_ghosts():
    assert evictions(Arc(3), "abcdef") == "abc"


def test_min_keeps_what_is_needed_soonest():
    policy = Min(2, [[ord(key)] for key in "abcbc"])
    assert evictions(policy, "abcbc") == "a"
    assert letters(policy) == "bc"


def test_min_lets_nothing_in_that_is_needed_later_than_what_is_there():
    assert evictions(Min(2, [[ord(key)] for key in "abcabc"]), "abcab") == ""


def test_min_takes_all_keys_of_a_batch_as_needed_at_once():
    batches = [[1, 2, 3], [2, 4], [1, 2]]
    assert hits(Min(2, batches), batches) == 3


def test_fixed_holds_what_the_second_half_asks_for_most():
    policy = Fixed(2, [[1, 2], [1, 3], [4, 5], [4, 5, 6]])
    assert policy.held() == {4, 5}


# Our table; so small a one is one bucket


def test_table_evicts_the_oldest_new_item_and_proves_those_that_were_hit():
    table = Table(10, adaptive=False)
    assert evictions(table, "abcdefghij" + "bc" + "klmnopqr") == "adefghij"
    assert letters(table) == "bcklmnopqr"


def test_table_takes_back_as_proven_what_a_ghost_knows():
    table = Table(10, adaptive=False)
    assert evictions(table, "abcdefghij" + "k" + "a") == "ab"
    assert evictions(table, "lmnopqrstuvwxyz") == "cdefghijklmnopq"
    assert letters(table) == "arstuvwxyz"


def test_table_remembers_five_evictions_a_bucket():
    table = Table(10, adaptive=False)
    assert evictions(table, "abcdefghij" + "klmno") == "abcde"
    assert evictions(table, "a") == "f"  # which pushes a out just before it is looked for
    assert evictions(table, "c") == "g"
    assert evictions(table, "pqrstuvwxyz") == "hijklmnoapq"


def test_table_takes_a_ghost_out_when_its_item_comes_back():
    table = Table(10, adaptive=False)
    assert evictions(table, "abcdefghij" + "klm" + "b" + "n" + "a") == "abcdef"  # with b still among the five, a would be none of them
    assert evictions(table, "opqrstuvwxyz") == "ghijklmnopqr"
    assert letters(table) == "abstuvwxyz"


def test_table_without_ghosts_remembers_nothing():
    assert evictions(Table(10, ghosts=0), "abcdefghij" + "k" + "a" + "lmnopqrst") == "abcdefghijk"


def test_table_evicts_proven_items_when_the_new_ones_keep_to_their_share():
    table = Table(10, adaptive=False)
    assert evictions(table, "abcdefghij" + "abcdefghij" + "k") == "a"  # all become proven with one use, and lose it
    assert evictions(table, "k" + "l") == "b"  # k becomes proven
    assert evictions(table, "l" + "c" + "m") == "d"  # c has a use


def test_table_takes_a_use_from_all_when_the_last_unused_one_goes():
    table = Table(10, adaptive=False)
    assert evictions(table, "abcdefghij" + "abcdefghij" + "k") == "a"
    assert evictions(table, "bcdefghi" + "k" + "l") == "j"  # the only one without: the others, k too, lose theirs
    assert evictions(table, "l" + "m") == "b"  # not the only one: l keeps its own
    assert evictions(table, "cdefghik" + "m" + "n") == "c"  # all have one, and lose it


@pytest.mark.parametrize(("max_uses", "victim"), [(1, "b"), (3, "c")])
def test_table_counts_uses_up_to_its_maximum(max_uses, victim):
    table = Table(10, max_uses=max_uses, adaptive=False)
    assert evictions(table, "abcdefghij" + "abcdefghij" + "k") == "a"
    assert evictions(table, "bbb" + "cdefghij" + "k" + "l") == victim  # all lose one use


def test_table_gives_room_to_the_class_that_comes_back():
    table = Table(10)
    evictions(table, "abcdefghij" + "k" + "a")  # a was new when it went
    assert table.share == pytest.approx(0.1 + 4 / 10)
    evictions(table, "l" + "b")
    assert table.share == MOST_SHARE
    table = Table(10)
    evictions(table, "abcdefghij" + "abcdefghij" + "k" + "a")  # a was proven
    assert table.share == LEAST_SHARE


@pytest.mark.parametrize(("was_proven", "proven_part", "change"), [(False, 0.8, 4), (False, 0.3, 1), (True, 0.2, -4), (True, 0.7, -1)])
def test_table_counts_what_is_evicted_rarely_for_more_when_it_comes_back(was_proven, proven_part, change):
    table = Table(1000)
    table.store(range(1000))
    if was_proven:
        table.missing(range(1000))
    before = table.held()
    table.add(1000)
    (victim,) = before - table.held()
    table.proven_part = proven_part
    table.add(victim)
    assert table.share == pytest.approx(0.1 + change * 4 / 1000, rel=0.01)


# For any sequence


@pytest.mark.parametrize("make", POLICIES)
@given(capacity=capacities, batches=batch_lists)
def test_policy_holds_what_fits_and_never_more(make, capacity, batches):
    policy = make(capacity)
    seen: set[int] = set()
    for batch in batches:
        missing = policy.missing(batch)
        assert missing == [key for key in batch if key not in policy.held()]
        for key in missing:
            policy.add(key)
            seen.add(key)
            assert policy.held() <= seen
            assert len(policy.held()) == min(capacity, len(seen))


@given(capacity=capacities, batches=batch_lists)
def test_min_has_the_most_hits_and_never_holds_more(capacity, batches):
    best = Min(capacity, batches)
    most = hits(best, batches)
    assert len(best.held()) <= capacity
    assert all(hits(make(capacity), batches) <= most for make in POLICIES)


# The client


def test_batches_ask_for_each_key_once():
    assert batches_of([1, 2, 1, 3, 3], 3) == [[1, 2], [3]]


def test_hits_of_the_second_half_count():
    assert hit_ratio(Lru(2), [[1], [1], [1], [3, 1]]) == 2 / 3
