"""What may never happen between the two sides of a channel's ring: the functions of rings.pxd and rings.pyx as programs, as in protocol.py,
and scenarios, as in scenarios.py."""

from __future__ import annotations

from collections.abc import Iterator

from explorer import Blocked, Load, Outcome, Steps, Store, Swap
from protocol import ACQ_REL, ACQUIRE, GARBAGE, PLACES, RELEASE, RULES, Code
from scenarios import Memory, judged, scenario

BYTES, ROOM = "for bytes", "for room"

PLACES |= {
    "arrived: tail": ACQUIRE,
    "room: head": ACQUIRE,
    "push: tail": RELEASE,
    "pull: head": RELEASE,
    "go_to_sleep: fence": ACQ_REL,
    "must_wake: fence": ACQ_REL,
    "must_wake: exchange": ACQ_REL,
    "must_tell_room: fence": ACQ_REL,
    "must_tell_room: exchange": ACQ_REL,
    "say_closed: flag": RELEASE,
    "has_ended: flag": ACQUIRE,
    "empty_block: fence": RELEASE,
    "is_emptied: fence": ACQUIRE,
}
RULES |= {
    "must_wake: whatever was taken",
    "must_tell_room: tail loaded anew",
    "has_ended: asked before the bytes",
}


def push(code: Code, number: int, size: int) -> Steps:
    """The number-th piece into a ring of so many."""
    head = yield Load("head", code.order("room: head"))
    if number - head >= size:
        raise Blocked
    yield Store(f"cell {number % size}", number)
    yield Store("tail", number + 1, code.order("push: tail"))


def pull(code: Code, number: int, size: int) -> Steps:
    """The number-th piece; and the tail that was seen."""
    tail = yield Load("tail", code.order("arrived: tail"))
    if tail <= number:
        raise Blocked
    piece = yield Load(f"cell {number % size}")
    yield Store("head", number + 1, code.order("pull: head"))
    return piece, tail


def go_to_sleep(code: Code, bits: str) -> Steps:
    yield Store("waits", bits)
    yield from code.full_fence("go_to_sleep: fence")


def must_wake(code: Code, bits: str) -> Steps:
    """What the sleeper slept for when its wish was taken; None: nobody is to be woken."""
    yield from code.full_fence("must_wake: fence")
    if (yield Load("waits")) != bits:
        return None
    taken = yield Swap("waits", None, code.order("must_wake: exchange"))
    return taken if taken == bits or code.keeps("must_wake: whatever was taken") else None


def must_tell_room(code: Code, taken: int, size: int, seen: int) -> Steps:
    yield from code.full_fence("must_tell_room: fence")
    if (yield Load("waits")) != ROOM:
        return None
    if code.keeps("must_tell_room: tail loaded anew"):
        seen = yield Load("tail", code.order("arrived: tail"))
        if seen - taken > size // 2:
            return None
    elif not seen - (taken - 1) > size // 2 >= seen - taken:  # what the pull saw was more than half the ring, and no longer is
        return None
    return (yield Swap("waits", None, code.order("must_tell_room: exchange")))


@scenario
def round_the_ring(code: Code) -> Iterator[str]:
    """Every piece is read as it was written, also where the next one takes its place."""
    memory: Memory = {"head": 0, "tail": 0, "cell 0": GARBAGE}

    def producer() -> Steps:
        for number in range(2):
            yield from push(code, number, 1)

    def consumer() -> Steps:
        read = []
        for number in range(2):
            read.append((yield from pull(code, number, 1))[0])
        return tuple(read)

    return judged(memory, [producer, consumer], [], lambda o: None if o.results[1] == (0, 1) else "not what was sent")


@scenario
def asleep_for_bytes(code: Code) -> Iterator[str]:
    """A consumer says that it sleeps, then looks; a producer publishes, then looks whether somebody sleeps. One of them sees the other."""

    def producer() -> Steps:
        yield from push(code, 0, 1)
        return (yield from must_wake(code, BYTES)) is not None

    def consumer() -> Steps:
        yield from go_to_sleep(code, BYTES)
        return (yield Load("tail", code.order("arrived: tail"))) == 1

    memory: Memory = {"head": 0, "tail": 0, "cell 0": GARBAGE, "waits": None, "full fences": None}
    return judged(memory, [producer, consumer], [], lambda o: None if any(o.results) else "asleep beside bytes")


@scenario
def asleep_for_room(code: Code) -> Iterator[str]:
    """A producer fills the ring while a pull is on its way, and sleeps until half of it is free. When all is pulled it has been woken."""
    size = 2

    def producer() -> Steps:
        yield from push(code, 1, size)
        yield from go_to_sleep(code, ROOM)
        head = yield Load("head", code.order("room: head"))
        return size - (2 - head) >= size // 2

    def consumer() -> Steps:
        woken = False
        for number in range(2):
            _, seen = yield from pull(code, number, size)
            woken |= (yield from must_tell_room(code, number + 1, size, seen)) is not None
        return woken

    memory: Memory = {"head": 0, "tail": 1, "cell 0": 0, "cell 1": GARBAGE, "waits": None, "full fences": None}
    return judged(memory, [producer, consumer], [], lambda o: None if any(o.results) else "asleep beside an empty ring")


@scenario
def another_wish_by_then(code: Code) -> Iterator[str]:
    """Who looked at a wish and takes another one, which the sleeper has had since, wakes it all the same."""

    def waker() -> Steps:
        woken = (yield from must_wake(code, BYTES)) == ROOM
        yield Store("head", 1, code.order("pull: head"))
        return woken or (yield from must_wake(code, ROOM)) == ROOM

    def sleeper() -> Steps:
        yield from go_to_sleep(code, BYTES)
        yield Store("waits", None)
        yield from go_to_sleep(code, ROOM)
        return (yield Load("head", code.order("room: head"))) == 1

    memory: Memory = {"head": 0, "waits": None, "full fences": None}
    return judged(memory, [waker, sleeper], [], lambda o: None if any(o.results) else "its wish was taken, and it sleeps")


@scenario
def end_of_the_stream(code: Code) -> Iterator[str]:
    """Who hears that nothing more comes has all that came before."""

    def producer() -> Steps:
        yield from push(code, 0, 1)
        yield Store("closed", 1, code.order("say_closed: flag"))

    def consumer() -> Steps:
        if code.keeps("has_ended: asked before the bytes"):
            closed = yield Load("closed", code.order("has_ended: flag"))
            return closed, (yield Load("tail", code.order("arrived: tail")))
        tail = yield Load("tail", code.order("arrived: tail"))
        return (yield Load("closed", code.order("has_ended: flag"))), tail

    def wrong(o: Outcome) -> str | None:
        return "an end before the last bytes" if o.results[1] == (1, 0) else None

    memory: Memory = {"head": 0, "tail": 0, "cell 0": GARBAGE, "closed": 0}
    return judged(memory, [producer, consumer], [], wrong)


@scenario
def emptied_amid_a_copy(code: Code) -> Iterator[str]:
    """Who has copied zeros of a block that is being emptied hears of it."""

    def server() -> Steps:
        yield Store("magic", 0)
        yield from code.fence("empty_block: fence")
        yield Store("cell 0", 0)

    def client() -> Steps:
        piece = yield Load("cell 0")
        yield from code.fence("is_emptied: fence")
        return piece, (yield Load("magic"))

    memory: Memory = {"magic": 1, "cell 0": "piece"}
    return judged(memory, [server, client], [], lambda o: "zeros for a piece" if o.results[1] == (0, 1) else None)
