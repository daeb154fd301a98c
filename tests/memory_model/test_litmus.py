"""The explorer itself: classic litmus tests and what RC11 says of them."""

from __future__ import annotations

import pytest
from explorer import Fence, Load, Machine, Order, Program, Steps, Store, Swap, outcomes

R, A, L = Order.RELAXED, Order.ACQUIRE, Order.RELEASE
XY = {"x": 0, "y": 0}


def does(*operations: Load | Store | Swap | Fence) -> Program:
    """A straight program that returns all it loaded."""

    def program() -> Steps:
        read = []
        for operation in operations:
            value = yield operation
            if isinstance(operation, Load | Swap):
                read.append(value)
        return tuple(read)

    return program


def sees(*programs: Program, **initial: int) -> set[tuple[int, ...]]:
    """All loaded values, thread after thread, of every execution."""
    return {sum(results, ()) for results in outcomes(initial or XY, *programs)}


@pytest.mark.parametrize(
    ("store", "between", "load", "behind", "stale"),
    [
        (R, None, R, None, True),
        (L, None, R, None, True),
        (R, None, A, None, True),
        (L, None, A, None, False),
        (R, L, R, A, False),
        (R, L, R, None, True),
        (R, None, R, A, True),
        (R, L, A, None, False),
        (L, None, R, A, False),
    ],
)
def test_message_passing(store: Order, between: Order | None, load: Order, behind: Order | None, stale: bool) -> None:
    fences = [[Fence(order)] if order else [] for order in (between, behind)]
    writer = does(Store("x", 1), *fences[0], Store("y", 1, store))
    reader = does(Load("y", load), *fences[1], Load("x"))
    assert sees(writer, reader) == {(0, 0), (0, 1), (1, 1)} | ({(1, 0)} if stale else set())


def test_a_release_store_does_not_hold_later_stores_back() -> None:
    writer = does(Store("x", 1, L), Store("y", 1))
    assert (1, 0) in sees(writer, does(Load("y", A), Load("x")))


def test_store_buffering_is_allowed_without_sequential_consistency() -> None:
    assert (0, 0) in sees(does(Store("x", 1, L), Load("y", A)), does(Store("y", 1, L), Load("x", A)))


def test_load_buffering_is_left_out() -> None:
    """RC11 forbids it; ARM allows it to relaxed accesses."""
    assert (1, 1) not in sees(does(Load("x"), Store("y", 1)), does(Load("y"), Store("x", 1)))


def test_reads_of_one_location_never_go_back() -> None:
    both = sees(does(Store("x", 1), Store("x", 2)), does(Load("x"), Load("x")))
    assert both == {(0, 0), (0, 1), (0, 2), (1, 1), (1, 2), (2, 2)}


def test_two_readers_agree_on_the_order_of_two_stores_to_one_location() -> None:
    found = sees(does(Store("x", 1)), does(Store("x", 2)), does(Load("x"), Load("x")), does(Load("x"), Load("x")))
    assert (1, 2, 1, 2) in found
    assert (1, 2, 2, 1) not in found


@pytest.mark.parametrize("order", [R, A])
def test_independent_reads_of_independent_writes_may_disagree(order: Order) -> None:
    writers = does(Store("x", 1, L)), does(Store("y", 1, L))
    assert (1, 0, 1, 0) in sees(*writers, does(Load("x", order), Load("y", order)), does(Load("y", order), Load("x", order)))


def test_what_was_seen_is_passed_on() -> None:
    """Write-to-read causality: a release store passes on even what was read relaxed; a relaxed store does not."""
    for order, stale in ((L, False), (R, True)):
        middle = does(Load("x"), Store("y", 1, order))
        assert ((1, 1, 0) in sees(does(Store("x", 1, L)), middle, does(Load("y", A), Load("x")))) is stale


def test_a_store_may_land_before_one_that_is_there() -> None:
    """2+2W: both locations may end with the first thread's or second thread's earlier store."""
    machine = Machine(XY, [does(Store("x", 2, L), Store("y", 1, L)), does(Store("y", 2, L), Store("x", 1, L))])
    assert {(o.memory["x"], o.memory["y"]) for o in machine.executions()} == {(1, 1), (1, 2), (2, 1), (2, 2)}


def test_a_store_lands_behind_what_its_thread_has_acquired() -> None:
    """S: who acquired y = 1 cannot store x before the x = 2 that came before it."""
    for order, stale in ((A, False), (R, True)):
        machine = Machine(XY, [does(Store("x", 2), Store("y", 1, L)), does(Load("y", order), Store("x", 1))])
        assert any(o.memory["x"] == 2 and o.results[1] == (1,) for o in machine.executions()) is stale


def test_read_modify_writes_lose_nothing() -> None:
    def add() -> Steps:
        seen = yield Load("x")
        return (yield Swap("x", seen + 1, R, seen)) == seen

    for outcome in Machine({"x": 0}, [add, add]).executions():
        assert outcome.memory["x"] == sum(outcome.results)


def test_a_release_sequence_goes_on_through_read_modify_writes_only() -> None:
    writer, reader = does(Store("x", 1), Store("y", 1, L)), does(Load("y", A), Load("x"))
    assert (1, 2, 0) not in sees(writer, does(Swap("y", 2, R, 1)), reader)
    assert (2, 0) in sees(writer, does(Store("y", 2)), reader)


def test_owners_first_loses_no_execution() -> None:
    writer = does(Store("x", 1), Store("y", 1, L), Store("x", 2), Fence(L), Store("y", 2))
    reader = does(Load("y", A), Swap("x", 9, R, 1), Load("x"), Load("y"))

    def found(owners: tuple[int, ...]) -> set[tuple[object, ...]]:
        return {(o.results, *o.memory.values()) for o in Machine(XY, [writer, reader], owners).executions()}

    assert found((0,)) == found(())


def test_owners_that_depend_on_others_are_refused() -> None:
    with pytest.raises(AssertionError, match="owners load"):
        outcomes(XY, does(Load("x")), does(Store("x", 1)), owners=(0,))
