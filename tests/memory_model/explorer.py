"""All executions of a few small programs on weakly ordered memory.

The machine is the promise-free part of the view machine of Kang, Hur, Lahav, Vafeiadis, Dreyer, "A promising semantics for
relaxed-memory concurrency" (POPL 2017): it allows what RC11 (Lahav et al., PLDI 2017) allows to relaxed, acquire and release accesses,
fences and read-modify-writes.

- A location holds the list of all messages ever stored into it, in modification order. A thread's view says per location which
  message it knows; it may read that one or any later one, so it may read stale values for as long as nothing tells it better.
- A message carries a view. An acquire load joins that view to the thread's; a relaxed load keeps it aside until an acquire fence.
- A release store carries all its thread knows; a relaxed store what the thread knew at its last release fence. A read-modify-write adds
  its view to that of the message it read (release sequences as in C++20), and nothing may come between the two.
- A store goes anywhere behind what its thread knows, also before messages that are there.

Left out: load buffering (a load that sees a store which depends on it; RC11 forbids it, ARM does not), sequentially consistent
accesses and fences (the product has none), accesses of different sizes to one location, address and control dependencies
(ARM orders some loads by them; C does not).

A program is a generator function: it yields operations, is sent what they read, and returns its result.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Generator, Hashable, Iterator, Sequence
from typing import Any, NamedTuple

Location = Hashable
Value = Any  # hashable
View = tuple[int, ...]  # for each location the position of a message in its list


class Order(enum.IntFlag):
    RELAXED = 0
    ACQUIRE = 1
    RELEASE = 2
    ACQ_REL = 3


class Load(NamedTuple):
    location: Location
    order: Order = Order.RELAXED


class Store(NamedTuple):
    location: Location
    value: Value
    order: Order = Order.RELAXED


class Swap(NamedTuple):
    """Exchange, or compare-and-swap when there is an expected value; sent back is what was read. A failed one only loads."""

    location: Location
    new: Value
    order: Order
    expected: Value = ...


class Fence(NamedTuple):
    order: Order


Operation = Load | Store | Swap | Fence
Steps = Generator[Operation, Any, Any]
Program = Callable[[], Steps]


class Blocked(Exception):
    """Raised by a program that would wait here: executions that get no further are not looked at."""


class Message(NamedTuple):
    value: Value
    view: View
    attached: bool  # to the message before it, by a read-modify-write


class Thread(NamedTuple):
    at: Point
    current: View  # what it knows
    pending: View  # what it will know after an acquire fence
    released: View  # what it knew at its last release fence


class State(NamedTuple):
    memory: tuple[tuple[Message, ...], ...]
    threads: tuple[Thread, ...]


class Outcome(NamedTuple):
    results: tuple[Value, ...]
    memory: dict[Location, Value]  # last in modification order


class Point:
    """Where a program stands: programs are deterministic, so what it has read tells. Each is computed once, by replaying."""

    def __init__(self, program: Program, history: tuple[Value, ...] = ()) -> None:
        self.program, self.history = program, history
        self.operation: Operation | None = None
        self.result: Value = None
        self.blocked = False
        self.following: dict[Value, Point] = {}
        steps = program()
        try:
            self.operation = next(steps)
            for value in history:
                self.operation = steps.send(value)
        except StopIteration as end:
            self.operation, self.result = None, end.value
        except Blocked:
            self.operation, self.blocked = None, True

    def after(self, value: Value) -> Point:
        point = self.following.get(value)
        if point is None:
            point = self.following[value] = Point(self.program, (*self.history, value))
        return point


def join(a: View, b: View) -> View:
    return a if a == b else tuple(map(max, a, b))


def moved(view: View, place: int, position: int) -> View:
    """A view after a message was put in at `position` of the location number `place`."""
    return view if view[place] < position else (*view[:place], view[place] + 1, *view[place + 1 :])


def knowing(view: View, place: int, position: int) -> View:
    return view if view[place] >= position else (*view[:place], position, *view[place + 1 :])


class Machine:
    """`owners`: numbers of the programs that run first, each to its end before the next begins (they exclude each other by a lock). This
    loses no execution when nobody else stores what they load, since the others may read old messages and store before new
    ones; `executions` raises AssertionError when somebody does."""

    def __init__(self, initial: dict[Location, Value], programs: Sequence[Program], owners: Sequence[int] = ()) -> None:
        self.places = {location: i for i, location in enumerate(initial)}
        self.initial = list(initial.values())
        self.programs = programs
        self.owners = owners
        self.loaded: set[Location] = set()  # by owners
        self.stored: set[Location] = set()  # by others
        self.states = 0

    def executions(self) -> Iterator[Outcome]:
        """The outcome of every execution (different executions may have equal ones)."""
        nothing: View = (0,) * len(self.initial)
        memory = tuple((Message(value, nothing, False),) for value in self.initial)
        start = State(memory, tuple(Thread(Point(p), nothing, nothing, nothing) for p in self.programs))
        seen, stack = {start}, [start]
        while stack:
            state = stack.pop()
            self.states += 1
            following = list(self.successors(state))
            if not following and not any(t.at.blocked for t in state.threads):
                last = {location: state.memory[i][-1].value for location, i in self.places.items()}
                yield Outcome(tuple(t.at.result for t in state.threads), last)
            for one in following:
                if one not in seen:
                    seen.add(one)
                    stack.append(one)
        assert not self.loaded & self.stored, f"owners load what others store: {self.loaded & self.stored}"

    def successors(self, state: State) -> Iterator[State]:
        for number in self.owners:
            if state.threads[number].at.operation is not None:
                yield from self.step(state, number)
                return
            if state.threads[number].at.blocked:
                return
        for number, thread in enumerate(state.threads):
            if thread.at.operation is not None:
                yield from self.step(state, number)

    def note_access(self, number: int, operation: Load | Store | Swap) -> None:
        if number in self.owners:
            if not isinstance(operation, Store):
                self.loaded.add(operation.location)
        elif not isinstance(operation, Load):
            self.stored.add(operation.location)

    def step(self, state: State, number: int) -> Iterator[State]:
        """All that the next operation of a thread may do."""
        operation = state.threads[number].at.operation
        if isinstance(operation, Fence):
            yield fenced(state, number, operation.order)
            return
        assert operation is not None
        self.note_access(number, operation)
        place = self.places[operation.location]
        messages = state.memory[place]
        for position in range(state.threads[number].current[place], len(messages)):
            ends_here = position + 1 == len(messages) or not messages[position + 1].attached
            if isinstance(operation, Load):
                yield loaded(state, number, place, position, operation.order)
            elif isinstance(operation, Store):
                if ends_here:
                    yield stored(state, number, place, position + 1, operation.value, operation.order)
            elif operation.expected is not ... and messages[position].value != operation.expected:
                yield loaded(state, number, place, position, operation.order & Order.ACQUIRE)
            elif ends_here:
                read = loaded(state, number, place, position, operation.order & Order.ACQUIRE, advance=False)
                yield stored(read, number, place, position + 1, operation.new, operation.order, messages[position])


def replaced(state: State, number: int, thread: Thread) -> State:
    return State(state.memory, (*state.threads[:number], thread, *state.threads[number + 1 :]))


def fenced(state: State, number: int, order: Order) -> State:
    thread = state.threads[number]
    current = thread.pending if order & Order.ACQUIRE else thread.current
    released = current if order & Order.RELEASE else thread.released
    return replaced(state, number, Thread(thread.at.after(None), current, thread.pending, released))


def loaded(state: State, number: int, place: int, position: int, order: Order, advance: bool = True) -> State:
    thread, message = state.threads[number], state.memory[place][position]
    current = knowing(thread.current, place, position)
    pending = join(thread.pending, knowing(message.view, place, position))
    if order & Order.ACQUIRE:
        current = join(current, message.view)
    at = thread.at.after(message.value) if advance else thread.at
    return replaced(state, number, Thread(at, current, pending, thread.released))


def stored(state: State, number: int, place: int, position: int, value: Value, order: Order, read: Message | None = None) -> State:
    """A message put in at `position`; every view of this location that reaches so far moves up by one."""

    def shifted(t: Thread) -> Thread:
        return Thread(t.at, moved(t.current, place, position), moved(t.pending, place, position), moved(t.released, place, position))

    if position == len(state.memory[place]):
        threads, memory = list(state.threads), list(state.memory)
    else:
        threads = [shifted(t) for t in state.threads]
        memory = [tuple(Message(m.value, moved(m.view, place, position), m.attached) for m in messages) for messages in state.memory]
    thread = threads[number]
    current = knowing(thread.current, place, position)
    view = current if order & Order.RELEASE else knowing(thread.released, place, position)
    if read is not None:
        view = join(view, moved(read.view, place, position))
    messages = memory[place]
    memory[place] = (*messages[:position], Message(value, view, read is not None), *messages[position:])
    at = thread.at.after(None if read is None else read.value)
    threads[number] = Thread(at, current, knowing(thread.pending, place, position), thread.released)
    return State(tuple(memory), tuple(threads))


def outcomes(initial: dict[Location, Value], *programs: Program, owners: Sequence[int] = ()) -> set[tuple[Value, ...]]:
    """What the programs can return together."""
    return {outcome.results for outcome in Machine(initial, programs, owners).executions()}


def death_states(initial: dict[Location, Value], program: Program) -> Iterator[dict[Location, Value]]:
    """What memory may hold when a program that runs alone is killed. The kernel makes all visible that was executed, in the order of
    the machine code; but a compiler may have put one store before another that C does not order: every set of stores
    is tried that with each store holds those which must come before it."""
    memory, stores, operations = dict(initial), [], 0
    steps = program()
    try:
        operation = next(steps)
        while True:
            operations += 1
            read = None
            if isinstance(operation, Load | Swap):
                read = memory[operation.location]
            if isinstance(operation, Store | Swap):
                memory[operation.location] = operation.value if isinstance(operation, Store) else operation.new
            if not isinstance(operation, Load):
                stores.append(operation)
            operation = steps.send(read)
    except StopIteration:
        pass
    before = [[i for i in range(j) if ordered(stores[i], stores[j])] for j in range(len(stores))]
    seen, stack = {frozenset[int]()}, [frozenset[int]()]
    while stack:
        done = stack.pop()
        held = [stores[i] for i in sorted(done) if not isinstance(stores[i], Fence)]
        yield initial | {o.location: o.value if isinstance(o, Store) else o.new for o in held}
        for j in range(len(stores)):
            more = done | {j}
            if j not in done and more not in seen and all(i in done for i in before[j]):
                seen.add(more)
                stack.append(more)


def ordered(first: Operation, second: Operation) -> bool:
    """Whether a compiler must keep two operations of one thread in order (a fence is a point that both sides keep to)."""
    if isinstance(first, Fence) or isinstance(second, Fence) or first.location == second.location:
        return True
    return bool(second.order & Order.RELEASE) or (isinstance(first, Swap) and bool(first.order & Order.ACQUIRE))
