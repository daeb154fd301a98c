"""The operations a writer is killed in: a line each.

`through`: the operations that the intent must tell on the way, so that a scenario does what its name says. `nested`: in how many
states left by a kill the repair by the next writer is stepped, too. `later_s`: what the keys will be by then is looked at, too.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torture.stage import Stage
from torture.verify import DELETE, EVICT, EXPIRE, FLUSH, MARK, MERGE, MOVE, REPAIR, SPLIT, STORE, TOUCH

from memcache_shm.client.snapshot import Snapshot
from memcache_shm.client.steps import Steps

MEMORY = {"memory": 65 * 1024, "max_item": 8192}
STRICT = MEMORY | {"evict": False}
CELLS = {"elements": 12, "element_size": 64}
FEW = {"elements": 4, "element_size": 64}
SHARDED = {"memory": 162 * 1024, "max_item": 1024}
SPLITS_AT = 120  # items in 16 buckets
FILLER_BYTES = 23602  # two of them leave as much room below the index as the small items of `records_below_the_index` take
SMALL_VALUE = b"small" * 16
ROOMY = {"memory": 65 * 1024, "max_item": FILLER_BYTES}


@dataclass(frozen=True)
class Scenario:
    name: str
    geometry: dict[str, Any]
    prepare: Callable[[Stage], object]
    call: Callable[[Stage], object]
    through: tuple[int, ...]
    evicts: bool = False
    nested: int = 0
    later_s: int = 0
    arrange: Callable[[Stage, int], None] | None = None  # what is to be set right once the pid of the killed process is known


def few(stage: Stage) -> None:
    """Some keys that nobody changes, and one that is there already."""
    stage.fill(3)
    stage.set("target", b"old value")
    stage.keys.add("new")


def number(stage: Stage) -> None:
    few(stage)
    stage.set("n", b"99")


def compared(stage: Stage) -> None:
    few(stage)
    stage.remember_cas("target")


def expiring(stage: Stage) -> None:
    few(stage)
    stage.set("target", b"old value", expire=100)


def stale(stage: Stage) -> None:
    """An item that the next reader is to make anew, and a number of which one has that task."""
    number(stage)
    stage.remember_cas("target")
    stage.say(b"md target I\r\nmd n I\r\nmg n\r\n")


def foreign(stage: Stage) -> None:
    """An item with a CAS id of its client's."""
    few(stage)
    stage.say(b"ms target 9 E77\r\nold value\r\n")


def lasting(stage: Stage) -> None:
    few(stage)
    stage.set("target", b"old value", expire=1000)


def expired(stage: Stage) -> None:
    expiring(stage)
    stage.shift_clock(200)


def all_expired(stage: Stage) -> None:
    """A full table of the dead."""
    for key in stage.fill(3):
        stage.set(key, b"dead", expire=100)
    stage.shift_clock(200)
    stage.keys.add("new")


def all_flushed(stage: Stage) -> None:
    """A full table of the flushed, and the flush is noted."""
    stage.fill(4)
    stage.cache.flush_all()
    stage.keys.add("new")


def flush_due(stage: Stage) -> None:
    """A flush that no writer has noted yet."""
    few(stage)
    stage.cache.flush_all(100)
    stage.shift_clock(200)


def orphaned(stage: Stage) -> None:
    """A writer has died."""
    few(stage)
    stage.kill_amid(lambda: stage.cache.set("target", b"never stored"))


def take_over_slot(stage: Stage, pid: int) -> None:
    stage.give_locks_to(pid)


def full_of(size_bytes: int) -> Callable[[Stage], None]:
    """A table of one size of items that has begun to evict."""

    def prepare(stage: Stage) -> None:
        names = stage.names("f")
        stage.keys.add("new")
        while stage.table.stats()["evictions"] < 3:
            stage.set(next(names), bytes(size_bytes))

    return prepare


def hole_below(stage: Stage) -> None:
    """... with a place free that is too small for what comes, but right for whom it comes beside."""
    full_of(900)(stage)
    stage.cache.delete(min(key for key in stage.keys if key.startswith("f") and key in stage.cache))


def holes(stage: Stage) -> None:
    """A table that does not evict, every other item deleted: no run is long."""
    full(stage)
    stored = sorted(key for key in stage.keys if key.startswith("f"))
    for key in stored[::2]:
        stage.cache.delete(key)


def full(stage: Stage) -> None:
    """A table that does not evict and has no room."""
    names = stage.names("f")
    while not stage.refused(lambda: stage.set(next(names), bytes(700))):
        stage.keys.add("new")


def broken_up(stage: Stage) -> None:
    """... and an item of several runs."""
    holes(stage)
    stage.set("target", b"r" * 1900)


def items(count: int) -> Callable[[Stage], None]:
    """So many items in all."""

    def prepare(stage: Stage) -> None:
        stage.fill(count - 2, b"i")
        stage.keys.add("new")

    return prepare


def shrunk(most: int, left: int) -> Callable[[Stage], None]:
    """First so many items, then so many: the next delete merges."""

    def prepare(stage: Stage) -> None:
        names = stage.fill(most - 2, b"i")
        for key in names[left - 2 :]:
            stage.cache.delete(key)

    return prepare


def crowded(count: int) -> Callable[[Stage], None]:
    """So many keys of one bucket."""

    def prepare(stage: Stage) -> None:
        stage.cas["crowd"] = stage.fill(count, b"c", "c", bucket=3)
        stage.cas["next"] = next(name for name in stage.names("d", bucket=3))

    return prepare


def crowded_split(stage: Stage) -> None:
    """The bucket that splits next overflows, and most of its keys move."""
    stage.fill(5, b"m", "m", bucket=16, buckets=32)
    stage.fill(5, b"s", "s", bucket=0, buckets=32)
    bucket_1 = stage.fill(SPLITS_AT - 10 - 2 - 60, b"o", "o", bucket=1)
    stage.fill(SPLITS_AT - 10 - 2 - len(bucket_1), b"o", "q", bucket=2)
    stage.keys.add("new")


def one_a_shard(stage: Stage) -> None:
    """A key in each shard, and the steps' code called once."""
    few(stage)
    stage.cas["each"] = [next(stage.names("e", shard=shard)) for shard in range(stage.shards)]
    for key in stage.cas["each"]:
        stage.set(key, b"old value")
    step(stage, b"old value")
    Steps(stage.cache).delete([b"absent"])
    Snapshot(stage.cache)


def step(stage: Stage, value: bytes) -> None:
    Steps(stage.cache).write([(key.encode(), value) for key in stage.cas["each"]])


def records_below_the_index(stage: Stage) -> None:
    """The index needs another chunk, small records lie where it must go, and there is room further down."""
    fillers = stage.fill(2, bytes(FILLER_BYTES), "f")
    stage.fill(SPLITS_AT - 4, SMALL_VALUE, "i")
    for key in fillers:
        stage.cache.delete(key)
    stage.fill(2, SMALL_VALUE, "j")
    stage.keys.add("new")


SCENARIOS = [
    Scenario("set, new", MEMORY, few, lambda s: s.cache.set("new", b"new value"), (STORE,)),
    Scenario("set, smaller", MEMORY, few, lambda s: s.cache.set("target", b"v"), (STORE,), nested=2),
    Scenario("set, larger", MEMORY, few, lambda s: s.cache.set("target", b"v" * 300), (STORE,)),
    Scenario("set, expiring", MEMORY, expiring, lambda s: s.cache.set("target", b"v", expire=1000), (STORE,), later_s=500),
    Scenario("set, elements", CELLS, few, lambda s: s.cache.set("target", b"v" * 60), (STORE,)),
    Scenario("set, expired", MEMORY, expired, lambda s: s.cache.set("target", b"v"), (EXPIRE, STORE)),
    Scenario("add", MEMORY, few, lambda s: s.cache.add("new", b"v"), (STORE,)),
    Scenario("add, expired", CELLS, expired, lambda s: s.cache.add("target", b"v"), (EXPIRE, STORE)),
    Scenario("replace", MEMORY, few, lambda s: s.cache.replace("target", b"v"), (STORE,)),
    Scenario("cas", MEMORY, compared, lambda s: s.cache.cas("target", b"v", s.cas["target"]), (STORE,)),
    Scenario("append", MEMORY, few, lambda s: s.cache.append("target", b"v" * 40), (STORE,)),
    Scenario("prepend", CELLS, few, lambda s: s.cache.prepend("target", b"v" * 40), (STORE,)),
    Scenario("incr", MEMORY, number, lambda s: s.cache.incr("n", 1), (STORE,)),
    Scenario("decr", CELLS, number, lambda s: s.cache.decr("n", 90), (STORE,)),
    Scenario("delete", MEMORY, few, lambda s: s.cache.delete("target"), (DELETE,)),
    Scenario("delete, expired", CELLS, expired, lambda s: s.cache.delete("target"), (EXPIRE,)),
    Scenario("touch", MEMORY, expiring, lambda s: s.cache.touch("target", 1000), (TOUCH,), later_s=500),
    Scenario("touch, sooner", CELLS, lasting, lambda s: s.cache.touch("target", 100), (TOUCH,), later_s=500),
    Scenario("gat", CELLS, expiring, lambda s: s.cache.gat("target", 1000), (TOUCH,), later_s=500),
    Scenario("invalidate", MEMORY, few, lambda s: s.say(b"md target I\r\n"), (STORE,)),
    Scenario("invalidate, sooner", CELLS, lasting, lambda s: s.say(b"md target I T100\r\n"), (STORE,), later_s=500),
    Scenario("invalidate, emptied", CELLS, foreign, lambda s: s.say(b"md target x I E78\r\n"), (STORE,)),
    Scenario("emptied", MEMORY, few, lambda s: s.say(b"md target x\r\n"), (STORE,)),
    Scenario("win", MEMORY, stale, lambda s: s.say(b"mg target v\r\n"), (MARK,), nested=1),
    Scenario("win, elements", CELLS, stale, lambda s: s.say(b"mg target\r\n"), (MARK,)),
    Scenario("win, expires soon", MEMORY, expiring, lambda s: s.say(b"mg target R1000 v\r\n"), (MARK,)),
    Scenario("get with a new expiry", CELLS, expiring, lambda s: s.say(b"mg target T1000 v\r\n"), (TOUCH,), later_s=500),
    Scenario("vivify", MEMORY, few, lambda s: s.say(b"mg new N100\r\n"), (MARK, STORE)),
    Scenario("vivify, elements", CELLS, expired, lambda s: s.say(b"mg target N100 v\r\n"), (MARK, EXPIRE, STORE)),
    Scenario("foreign id", MEMORY, few, lambda s: s.say(b"ms target 3 E5\r\nnew\r\n"), (STORE,)),
    Scenario("foreign id goes", CELLS, foreign, lambda s: s.cache.append("target", b"!"), (STORE,)),
    Scenario("recache, late", MEMORY, stale, lambda s: s.say(b"ms target 4 I C%s\r\nlate\r\n" % s.cas["target"]), (STORE,)),
    Scenario("count a stale number", CELLS, stale, lambda s: s.say(b"ma n MD\r\n"), (STORE,)),
    Scenario("eviction, elements", FEW, full_of(60), lambda s: s.cache.set("new", b"v"), (EVICT, STORE), evicts=True, nested=2),
    Scenario("eviction, neighbours", MEMORY, full_of(900), lambda s: s.cache.set("new", b"v" * 1900), (EVICT, STORE), evicts=True),
    Scenario("eviction, neighbour moves", MEMORY, hole_below, lambda s: s.cache.set("new", b"v" * 999), (EVICT, MOVE, STORE), evicts=True),
    Scenario("reaping", FEW, all_expired, lambda s: s.cache.set("new", b"v"), (EXPIRE, STORE)),
    Scenario("reaping, flushed", FEW, all_flushed, lambda s: s.cache.set("new", b"v"), (EVICT, STORE)),
    Scenario("several runs", STRICT, holes, lambda s: s.cache.set("new", b"v" * 1900), (STORE,)),
    Scenario("several runs, freed", STRICT, broken_up, lambda s: s.cache.set("target", b"v"), (STORE,)),
    Scenario("refused", STRICT, full, lambda s: s.refused(lambda: s.cache.add("new", b"v" * 700)), (STORE,)),
    Scenario("split, new chunk", MEMORY, items(SPLITS_AT), lambda s: s.cache.set("new", b"v"), (STORE, SPLIT), nested=1),
    Scenario("split", MEMORY, items(127), lambda s: s.cache.set("new", b"v"), (STORE, SPLIT)),
    Scenario("split, overflow", MEMORY, crowded_split, lambda s: s.cache.set("new", b"v"), (STORE, SPLIT)),
    Scenario("merge, chunk back", MEMORY, shrunk(SPLITS_AT + 1, 51), lambda s: s.cache.delete("b00000"), (DELETE, MERGE), nested=1),
    Scenario("merge", MEMORY, shrunk(128, 54), lambda s: s.cache.delete("b00000"), (DELETE, MERGE)),
    Scenario("new node", CELLS, crowded(7), lambda s: s.cache.set(s.cas["next"], b"v"), (STORE,)),
    Scenario("compaction", CELLS, crowded(8), lambda s: s.cache.delete(s.cas["crowd"][2]), (DELETE,)),
    Scenario("compaction, last node", CELLS, crowded(8), lambda s: s.cache.delete(s.cas["crowd"][7]), (DELETE,)),
    Scenario("index grows", ROOMY, records_below_the_index, lambda s: s.cache.set("new", b"v"), (STORE, MOVE, SPLIT)),
    Scenario("claim of a dead owner's slot", CELLS, orphaned, lambda s: s.cache.set("new", b"v"), (REPAIR, STORE), arrange=take_over_slot),
    Scenario("sweep", CELLS, orphaned, lambda s: s.cache_table.sweep(), (REPAIR,)),
    Scenario("flush_all", MEMORY, few, lambda s: s.cache.flush_all(), (FLUSH,)),
    Scenario("flush_all, shards", SHARDED, few, lambda s: s.cache.flush_all(), (FLUSH,)),
    Scenario("step, write", SHARDED, one_a_shard, lambda s: step(s, b"v" * 40), (STORE,), nested=1),
    Scenario("step, delete", SHARDED, one_a_shard, lambda s: Steps(s.cache).delete([k.encode() for k in s.cas["each"]]), (DELETE,)),
    Scenario("step, read", SHARDED, one_a_shard, lambda s: Steps(s.cache).read([k.encode() for k in s.cas["each"]]), ()),
    Scenario("snapshot", SHARDED, one_a_shard, lambda s: Snapshot(s.cache), ()),
    Scenario("write after a flush", MEMORY, flush_due, lambda s: s.cache.set("new", b"v"), (FLUSH, STORE)),
]
