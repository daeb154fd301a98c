"""What a broken or hostile attacher may do to a segment, and a victim process that works on it.

A case is a few bytes overwritten in a table whose memory is put back before each. The victim runs case after case and says which
one it is at, so that its death by a signal or its failure to end in time is found and the others still run.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import random
import resource
import signal
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import memcache_shm
from memcache_shm.storage.check import check_table
from memcache_shm.storage.occupancy import occupancy
from memcache_shm.storage.table import Table
from support.segments import ENTRY, LINK, Field, Segment, size_of, structure

CASE_LIMIT_S = 10.0  # a case takes milliseconds, and one wait for a lock 1 s
MOST_FAILURES = 5
FAR_AWAY = 0xFFFFFFF  # the last granule that a slot word can name
_PAGE = mmap.PAGESIZE


@dataclass(frozen=True)
class Scribble:
    """Bytes to write at an offset of the segment."""

    what: str
    offset: int
    data: bytes

    @property
    def costs_a_wait(self) -> bool:
        """What may pass for the lock of a living process, or for the table's removal: right answers, and slow ones."""
        return ".lock" in self.what or "process[" in self.what or "header.retired" in self.what


# Which bytes


def targets(segment: Segment, chance: random.Random) -> Iterator[Field]:
    """One field of everything in a whole table: all control words, a sample of what there are many of."""
    for field in structure("Header"):
        yield field.at(0, "header")
    for number in (0, 1, os.getpid() % segment.plan.process_slots):
        yield from (segment.process(number, f.name) for f in structure("ProcessSlot"))
    for shard in range(segment.shards):
        yield from (f.at(segment.control_offset(shard), f"control[{shard}]") for f in structure("ShardControl"))
        for bucket in (0, segment.buckets(shard) - 1):  # the last one goes first when the index shrinks
            yield Field("last slot", list(segment.slots(shard, bucket))[-1][0], 8)
        for chunk in range(min(segment.plan.directory_entries, 6)):
            yield segment.directory(shard, chunk)
        for arena in (segment.plan.records, segment.plan.index):
            if arena is not None:
                yield from (
                    replace(segment.bitmap_byte(shard, arena, granule & ~63), size=8)
                    for granule in (0, arena.granules // 2, arena.granules - 1)
                )
    entries = list(segment.entries())
    for entry in chance.sample(entries, min(6, len(entries))):
        yield Field("slot", entry.slot, 8)
        yield from (field.at(segment.record_granule(entry.shard, entry.granule), "record") for field in structure("Record"))
    for at, _ in chance.sample(links := list(segment.links()), min(4, len(links))):
        yield Field("link word", at, 8)
    several = [entry for entry in entries if segment.has_several_runs(entry)]
    for entry in chance.sample(several, min(4, len(several))):
        start = segment.record_granule(entry.shard, entry.granule)
        yield from (field.at(start + size_of("Record"), "first link") for field in structure("RunLink"))
        follower = segment.get(segment.run_link(entry, "next"))
        yield from (field.at(segment.record_granule(entry.shard, follower), "run link") for field in structure("RunLink"))


def extremes(segment: Segment, field: Field) -> list[int]:
    """Values that break something: limits, powers of two and their neighbours, what stands there give or take, what stands beside."""
    bits = 8 * field.size
    now = segment.get(field)
    values = {0, 1, (1 << bits) - 1, now + 1, now - 1, now ^ (1 << bits - 1), now ^ 1, now << 1}
    for power in (4, 7, 8, 10, 12, 14, 16, 20, 24, 25, 26, 27, 28, 31, 32, 33, 40, 48, 62, 63):
        if power < bits:
            values |= {(1 << power) - 1, 1 << power, (1 << power) + 1, now ^ (1 << power)}
    for neighbour in (field.offset - field.size, field.offset + field.size):
        if 0 <= neighbour <= segment.plan.segment_bytes - field.size:
            values.add(segment.get(replace(field, offset=neighbour)))
    if bits == 64:  # slot words of every kind, that lead to the far end and beyond
        granules = (0, segment.plan.records.granules - 1, segment.plan.records.granules, segment.index.granules - 1, FAR_AWAY)
        values |= {kind << 62 | (now & 0x3FFFFFFFF0000000) | granule for kind in range(4) for granule in granules}
    return sorted({value & ((1 << bits) - 1) for value in values} - {now})


def single_fields(segment: Segment, seed: int, values: int) -> list[Scribble]:
    """Each target with so many of its extremes, and slots in any case with what leads farthest away."""
    chance = random.Random(seed)
    found = []
    for field in targets(segment, chance):
        candidates = extremes(segment, field)
        chosen = chance.sample(candidates, min(values, len(candidates)))
        if field.name in ("slot", "last slot", "link word"):
            behind = 8 * segment.plan.segment_bytes  # its bit of the free map would lie behind the segment, where nobody may write
            bits = segment.get(field) & 0x3FFFFFFFF0000000
            chosen += [kind << 62 | bits | granule for kind in (ENTRY, LINK) for granule in (behind, FAR_AWAY)]
        for value in chosen:
            found.append(Scribble(f"{field.name} = {value:#x}", field.offset, value.to_bytes(field.size, "little")))
    return found


def random_ranges(segment: Segment, seed: int, count: int) -> list[Scribble]:
    """Random bytes, zeros, ones or copies of other parts, a few bytes or many, anywhere behind the header."""
    chance = random.Random(seed)
    first, last = segment.plan.controls_offset, segment.plan.segment_bytes
    found = []
    for number in range(count):
        length = int(min(chance.lognormvariate(3, 2), 20_000)) + 1
        at = chance.randrange(first, last - length)
        if number % 3 == 0:  # the dense part: controls and directories
            at = chance.randrange(first, min(segment.plan.shards_offset + 512, last - length))
        source = chance.randrange(first, last - length)
        kind = chance.randrange(4)
        data = (chance.randbytes(length), bytes(length), b"\xff" * length, bytes(segment.memory.read(length, source)))[kind]
        found.append(Scribble(f"{length} bytes of kind {kind} at {at}", at, data))
    return found


def mixed_words(segment: Segment, seed: int, count: int) -> list[Scribble]:
    """Slot words exchanged for other words of their kind: two keys with one record, links that lead in circles or into records."""
    chance = random.Random(seed)
    entries, links = list(segment.entries()), list(segment.links())
    words = [entry.word for entry in entries] + [word for _, word in links]
    places = [entry.slot for entry in entries] + 5 * [at for at, _ in links]
    found = []
    for _ in range(count):
        at, word = chance.choice(places), chance.choice(words)
        if chance.random() < 0.3:
            arena = segment.index if word >> 62 != ENTRY else segment.plan.records
            word = (word & ~0xFFFFFFF) | chance.randrange(arena.granules)
        found.append(Scribble(f"slot at {at} = {word:#x}", at, word.to_bytes(8, "little")))
    return found


# What the victim does


def exercise(cache: memcache_shm.Cache, largest: int, chance: random.Random) -> None:
    """Every kind of operation: through all keys, over the index's growth and shrinking, with eviction and values of several runs.

    Errors of the package are fine, and end it where each further call would wait for the same lock."""
    small, large = min(largest, 30), max(1, largest - 20)
    steps: list[Callable[[int], object]] = [
        lambda n: cache.get(f"k{n}"),
        lambda n: cache.set(f"k{n}", b"x" * min(largest, n)) if n % 9 == 0 else cache.gets(f"k{n}"),
        lambda n: cache.set(f"k{n % 7}", b"y" * (large // (1 + n % 3))) if n % 25 == 0 else cache.append(f"k{n}", b"a" * (n % 40)),
        lambda n: cache.set(f"new{n}", b"z" * small, expire=(0, 1000, -1)[n % 3]),
        lambda n: (cache.set(f"n{n % 5}", b"%d" % n), cache.incr(f"n{n % 5}", n), cache.decr(f"n{n % 5}", 1)) if n % 20 == 0 else None,
        lambda n: cache.touch(f"k{n}", n) if n % 3 else cache.gat(f"k{n}", 0),
        lambda n: cache.delete(f"new{n}") if n % 10 else cache.cas(f"k{n}", b"c", b"%d" % n),
        lambda n: [cache.delete(f"{name}{n}") for name in ("k", "new", "fill", "n")],  # the index shrinks
        lambda n: cache.set(f"k{n}", bytes(chance.randrange(large))) if n % 20 == 0 else cache.add(f"k{n}", b"w" * small),
    ]
    for step in steps:
        for number in range(200):
            if not _attempt(lambda step=step, number=number: step(number)):  # type: ignore[misc]
                return
    for last in (lambda: len(cache), cache.stats, cache.flush_all, lambda: cache.set("k1", b"1"), lambda: cache.get("k1")):
        _attempt(last)


def _attempt(call: Callable[[], object]) -> bool:
    """Whether it may go on: all errors but the one that costs a wait."""
    try:
        call()
    except memcache_shm.BusyError:
        return False
    except memcache_shm.MemcacheError:
        pass
    return True


class Victim:
    """The table of `name` and the work on it after each scribble; in the child. `segment` is the parent's and lends its `image`."""

    def __init__(self, name: str, segment: Segment, image: bytes, scribbles: list[Scribble]) -> None:
        self.scribbles = scribbles
        segment.memory.write(image)  # an earlier child left it scribbled
        self.cache, self.guards = attach_guarded(name, len(image))
        self.cache.set("k0", b"")  # takes a process slot
        self.table = self.cache.attached_table
        self.segment = segment
        self.image = bytes(self.segment.memory.read())

    def run(self, number: int) -> None:
        scribble = self.scribbles[number]
        self.segment.memory.write(self.image)
        self.segment.memory.write(scribble.data, scribble.offset)
        draw(self.table)
        if number % 3 == 0:
            self.mend()
        exercise(self.cache, self.table.max_value, random.Random(number))
        if scribble.offset < size_of("Header"):
            self.attach_again()
        self.mend()

    def mend(self) -> None:
        """A check looks at whatever is there and comes back; after its repair nothing is left to find."""
        with contextlib.suppress(memcache_shm.BusyError, memcache_shm.TableRemovedError):
            report = check_table(self.table, repair=True)
            assert report.left == [], (report.left, report.findings)

    def attach_again(self) -> None:
        """Who attaches later reads the header."""
        with contextlib.suppress(memcache_shm.MemcacheError):
            table = Table.attach(self.table.shmid, self.table.semid, self.table.uuid)
            table.stats()
            table.close()


def draw(table: Table) -> None:
    """A map of whatever is there adds up to the arenas."""
    for shard in occupancy(table, 50):
        assert sum(cell.granules for cell in shard.cells) == table.geometry.plan.records.granules
        assert all(min(cell.live, cell.dead, cell.index, cell.free) >= 0 for cell in shard.cells)


def attach_guarded(name: str, size: int) -> tuple[memcache_shm.Cache, list[mmap.mmap]]:
    """Attach with pages around that nobody may touch: the kernel puts each mapping of a size below the one before."""
    above = _untouchable(size)
    cache = memcache_shm.attach(name)
    return cache, [above, _untouchable(size)]


def _untouchable(size: int) -> mmap.mmap:
    return mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS, prot=0)


class Scribbler:
    """Writes on and on: single fields, ranges, exchanged words, and now and then everything as it was."""

    def __init__(self, segment: Segment, image: bytes, seed: int) -> None:
        self.memory = segment.memory
        self.image = image
        self.chance = random.Random(seed)
        self.scribbles = single_fields(segment, seed, 8) + random_ranges(segment, seed, 200) + mixed_words(segment, seed, 400)
        self.scribbles = [scribble for scribble in self.scribbles if not scribble.costs_a_wait]

    def write(self) -> None:
        if self.chance.random() < 0.02:
            self.memory.write(self.image)
        scribble = self.chance.choice(self.scribbles)
        self.memory.write(scribble.data, scribble.offset)


def alarmed(work: Callable[[], None]) -> Callable[[], None]:
    """The same, but it ends the process when it takes too long."""
    signal.signal(signal.SIGALRM, signal.SIG_DFL)

    def perform() -> None:
        signal.setitimer(signal.ITIMER_REAL, CASE_LIMIT_S)
        work()

    return perform


# The child


def survive(count: int, start: Callable[[], Callable[[int], None]], describe: Callable[[int], str]) -> None:
    """Run cases 0 to `count` - 1 in a child that `start` sets up. AssertionError that names each case in which it dies, hangs or raises."""
    failures: list[str] = []
    first = 0
    with mmap.mmap(-1, _PAGE) as shared:
        while first < count and len(failures) < MOST_FAILURES:
            status = _in_child(lambda begin=first: _run(start(), begin, count, shared), shared)  # type: ignore[misc]
            if status == 0:
                break
            at = int.from_bytes(shared[:8], "little")
            said = shared[8:].rstrip(b"\0").decode(errors="replace")
            failures.append(f"{describe(at)}: {said or signal.Signals(-status).name if status < 0 else said or status}")
            first = at + 1
    assert not failures, "\n".join(failures)


def _run(perform: Callable[[int], None], first: int, count: int, shared: mmap.mmap) -> None:
    for number in range(first, count):
        shared[:8] = number.to_bytes(8, "little")
        signal.setitimer(signal.ITIMER_REAL, CASE_LIMIT_S)
        perform(number)


def _in_child(work: Callable[[], None], shared: mmap.mmap) -> int:
    """Exit status (minus the signal) of a child that does the work; what it raises is left in `shared`."""
    shared[8:] = bytes(_PAGE - 8)
    pid = os.fork()
    if pid == 0:
        try:
            resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
            signal.signal(signal.SIGALRM, signal.SIG_DFL)  # ends the process, whatever it is doing
            work()
            os._exit(0)
        except BaseException:  # noqa: BLE001 - reported by the parent
            text = traceback.format_exc().encode()[-(_PAGE - 9) :]
            shared[8 : 8 + len(text)] = text
        finally:
            os._exit(1)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
