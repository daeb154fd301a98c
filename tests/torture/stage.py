"""A small table on which one operation is tried again and again: its keys, its segment's bytes, its clock."""

from __future__ import annotations

import contextlib
import ctypes
import itertools
import os
import struct
import tempfile
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Any, NamedTuple

from support.doors import open_door
from support.isolation import enter_own_namespace
from torture.tracer import Tracer

import memcache_shm
from memcache_shm.storage.siphash import siphash

# Where the things of layout.pxd lie that no public call shows or sets.
HASH_KEY_AT = 32  # Header.hash_key0, hash_key1
COARSE_CLOCK_AT = 128  # Header.coarse_s, beside Header.retired
CLOCK_SHIFT_AT = 136  # Header.clock_shift_ns
DONE = 0x100  # beside the operation in an intent
FLUSH_AT = 144  # Header.flush_ns
LEASE_AT = 160  # Header.feed_lease
LISTENED = (1 << 40) | (1 << 40) - 1  # of the first era, and for ever
FLUSH_APPLIED_AT = 16  # ShardControl.flush_applied
HEAD_AT = 136  # ShardControl.feed_head
LOCK_AT = 64  # ShardControl.lock
INTENT_AT = 192  # ShardControl.intent.operation
SLOT_MASK = 0xFFF  # of the lock word: process slot + 1; the epoch lies above

HASH_KEY = bytes(range(16))  # always the same: so keys share a bucket, and a call takes as many steps, in each run
# The dynamic linker finds a library's function when it is called first, and takes longer than a window's end is waited for.
WARM_UP = b"""ms warm 1 T9 E1
1\r
ma warm v
mg warm v R99
mg warm v T9
md warm I
mg warm v
md warm
mg warm N9
md warm
"""
PROBE = b"probe"  # the value of the keys by which a kill's consequences are probed
CELL_BYTES = 16  # of the feed
Pair = tuple[bytes, bytes, bytes] | None  # value, CAS id, and what is told of its state
State = dict[str, Pair]
_numbers = itertools.count()


@contextlib.contextmanager
def own_surroundings() -> Iterator[None]:
    """For a run outside of the tests: an IPC namespace and a state directory of its own."""
    enter_own_namespace()
    with tempfile.TemporaryDirectory(prefix="stages") as directory:
        os.environ["MEMCACHE_SHM_DIR"] = directory
        yield


class Event(NamedTuple):
    kind: int  # of feed.pxd
    key: str
    version: int


class Stage:
    """The table, this process's handle of it, and the keys that anybody has used."""

    def __init__(self, **geometry: Any) -> None:
        self.name = f"stage-{os.getpid()}-{next(_numbers)}"
        maker = memcache_shm.open(self.name, **geometry)
        size_bytes: int = maker.attached_table.geometry.segment_bytes
        self.tracer = Tracer("/memcache_shm/storage/", 0, size_bytes)
        self.base = self.tracer.segment = self.tracer.helper.map_segment(maker.attached_table.shmid)
        ctypes.memmove(self.base + HASH_KEY_AT, HASH_KEY, len(HASH_KEY))
        maker.close()
        self.cache = memcache_shm.attach(self.name)  # handles keep the hash key of their beginning
        self.cache_table = self.cache.attached_table
        self.checker = memcache_shm.attach(self.name)
        self.table = self.checker.attached_table
        # A read-only look wins nothing: it is refused where it would.
        self.watcher = memcache_shm.attach(self.name, readonly=True)
        self.watching = open_door(self.watcher.attached_table)
        self.door = open_door(self.cache_table)
        self.door.answer(WARM_UP)
        self.size_bytes = size_bytes
        self.keys: set[str] = set()
        self.cas: dict[str, Any] = {}
        self.listened = False
        self.probes = [next(self.names("p", shard=number)) for number in range(self.shards)]
        self.second_probe = next(self.names("q", shard=0))
        self.tracer.is_typical = lambda pid: pid % self.process_slots not in self.slots_in_use()
        for probe in [*self.probes, self.second_probe]:
            self.set(probe, PROBE)

    def __enter__(self) -> Stage:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.cache.close()
        self.checker.close()
        self.watcher.close()
        del self.table, self.cache_table, self.door, self.watching
        self.tracer.helper.unmap_segment(self.base)
        memcache_shm.unlink(self.name)

    @property
    def shards(self) -> int:
        return int(self.table.geometry.shards)

    def renew_handle(self) -> None:
        """The children's handle in its first state, in which they all get it: `checker` does this process's own work."""
        self.cache.close()
        self.cache = memcache_shm.attach(self.name)
        self.cache_table = self.cache.attached_table
        self.door.set_table(self.cache_table)

    @property
    def process_slots(self) -> int:
        return int(self.table.geometry.plan.process_slots)

    def slots_in_use(self) -> set[int]:
        """The process slots of this process's handles and of dead owners of locks: who tries them first goes another way."""
        at = self.table.geometry.plan.processes_offset
        own = {slot for slot in range(self.process_slots) if self._peek("<I", at + 8 * slot + 4) == os.getpid()}
        return own | {(lock & SLOT_MASK) - 1 for lock in self.locks() if lock}

    def lock_words(self) -> set[int]:
        """Which 8-byte words of the segment hold the locks."""
        return {(self._control(shard) + LOCK_AT) // 8 for shard in range(self.shards)}

    # Keys

    def names(self, prefix: str, bucket: int | None = None, buckets: int = 16, shard: int | None = None) -> Iterator[str]:
        """Keys that live in this bucket while there are `buckets` (a power of two), and in this shard."""
        for number in itertools.count():
            key = f"{prefix}{number:05}"
            if bucket is not None and self.hash(key) % buckets != bucket:
                continue
            if shard is not None and self.shard_of(key) != shard:
                continue
            self.keys.add(key)
            yield key

    def hash(self, key: str) -> int:
        return siphash(HASH_KEY, key.encode())

    def shard_of(self, key: str) -> int:
        return self.hash(key) * self.shards >> 64

    # Filling

    def set(self, key: str, value: bytes, expire: int = 0) -> None:
        self.keys.add(key)
        self.cache.set(key, value, expire=expire)

    def fill(self, count: int, value: bytes = b"bystander", prefix: str = "b", **where: int) -> list[str]:
        """Store so many keys; their names."""
        made = list(itertools.islice(self.names(prefix, **where), count))
        for key in made:
            self.set(key, value)
        return made

    def refused(self, store: Callable[[], object]) -> bool:
        """Whether the table refuses this for want of room."""
        try:
            store()
        except memcache_shm.NoSpaceError:
            return True
        return False

    def remember_cas(self, key: str) -> None:
        self.cas[key] = self.cache.gets(key)[1]

    # What no public call can do

    def shift_clock(self, seconds: int) -> None:
        """Put the table's clock forward."""
        self._poke("<q", CLOCK_SHIFT_AT, self._peek("<q", CLOCK_SHIFT_AT) + seconds * 10**9)

    def intents(self) -> list[int]:
        """The operation each shard's intent tells, with DONE; 0: none."""
        return [self._peek("<I", self._control(shard) + INTENT_AT) for shard in range(self.shards)]

    def locks(self) -> list[int]:
        return [self._peek("<I", self._control(shard) + LOCK_AT) for shard in range(self.shards)]

    def give_locks_to(self, pid: int) -> None:
        """Let the dead owner of all locks held have had the process slot that `pid` will claim first."""
        slot = pid % self.process_slots
        for shard, lock in enumerate(self.locks()):
            if lock:
                self._poke("<I", self._control(shard) + LOCK_AT, slot + 1)

    def kill_amid(self, call: Callable[[], object]) -> int:
        """Kill another process as soon as it has noted an intent in the first shard; its pid."""
        return self.tracer.kill_once(self.base + self._control(0) + INTENT_AT, call)

    def intent_in(self, state: bytes) -> int:
        """The operation that the first shard's intent tells in these bytes of the segment, with DONE."""
        return int(struct.unpack_from("<I", state, self._control(0) + INTENT_AT)[0])

    def operations(self, words: dict[int, list[int]]) -> set[int]:
        """The operations that the intents told before these were done, of the values that the words of the segment had."""
        places = [(self._control(shard) + INTENT_AT) // 8 for shard in range(self.shards)]
        return {value & 0xFF for place in places for value in words.get(place, ()) if not value & DONE} - {0}

    def _control(self, shard: int) -> int:
        plan = self.table.geometry.plan
        return int(plan.controls_offset + shard * (plan.shards_offset - plan.controls_offset) // self.shards)

    def _peek(self, form: str, at: int) -> int:
        number: int = struct.unpack(form, ctypes.string_at(self.base + at, struct.calcsize(form)))[0]
        return number

    def _poke(self, form: str, at: int, number: int) -> None:
        data = struct.pack(form, number)
        ctypes.memmove(self.base + at, data, len(data))

    # The feed

    def listen(self) -> None:
        """Let writers tell of every change from now on."""
        self._poke("<Q", LEASE_AT, LISTENED)
        self.listened = True

    def heads(self) -> list[int]:
        """How far the feed of each shard goes."""
        return [self._peek("<Q", self._control(shard) + HEAD_AT) for shard in range(self.shards)]

    def events(self, since: list[int]) -> Iterator[Event]:
        """What the feeds tell from these heads on, read from the rings' bytes as feed.pyx describes them."""
        plan = self.table.geometry.plan
        for shard, (at, head) in enumerate(zip(since, self.heads(), strict=True)):
            start = self.base + plan.shards_offset + shard * plan.shard_bytes + plan.feed_offset
            ring = ctypes.string_at(start, plan.feed_cells * CELL_BYTES) * 2
            assert at <= head <= at + plan.feed_cells, f"the feed of shard {shard} went from {at} to {head}"
            while at < head:
                place = at % plan.feed_cells * CELL_BYTES
                version, kind, key_length = struct.unpack_from("<QBB", ring, place)
                yield Event(kind, ring[place + CELL_BYTES : place + CELL_BYTES + key_length].decode(), version)
                at += 1 + -(-key_length // CELL_BYTES)
            assert at == head, f"the last event of shard {shard} reaches to {at}, the head is {head}"

    # The table's state

    def save(self) -> bytes:
        return ctypes.string_at(self.base, self.size_bytes)

    def restore(self, state: bytes) -> None:
        ctypes.memmove(self.base, state, len(state))

    def read(self, later_s: int = 0) -> State:
        """Value and CAS id of every key anybody has used; with `later_s` also what they will be by then, as "KEY later"."""
        found = self._read("")
        if later_s:
            self.shift_clock(later_s)
            found |= self._read(" later")
            self.shift_clock(-later_s)
        return found

    def _read(self, tense: str) -> State:
        found: State = {}
        for key in self.keys:
            value, cas = self.checker.gets(key)
            found[key + tense] = None if value is None else (value, cas, self.watching.answer(b"mg %s\r\n" % key.encode()))
        return found

    def say(self, requests: bytes) -> bytes:
        """What the children's handle is told as a worker is; the replies."""
        return self.door.answer(requests)

    def shard_of_entry(self, entry: str) -> int:
        """The shard of a key in what `read` gives."""
        return self.shard_of(entry.removesuffix(" later"))

    def buckets(self) -> int:
        return int(self.table.stats()["shm_buckets"])

    def is_flush_applied(self, shard: int) -> bool:
        """The shard has noted the last flush."""
        return self._peek("<Q", self._control(shard) + FLUSH_APPLIED_AT) == self._peek("<Q", FLUSH_AT)
