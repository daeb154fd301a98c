"""A table's segment seen without the package's code: sysv_ipc, the declarations in layout.pxd, and the plan of the geometry.

For tests that damage single fields, or look for themselves at what a structure holds.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import TracebackType

import sysv_ipc

import memcache_shm
from memcache_shm.storage.geometry import ArenaPlan
from memcache_shm.storage.table import Table

_LAYOUT = Path(memcache_shm.__file__).parent / "storage" / "layout.pxd"
_TYPES = {"uint64_t": 8, "int64_t": 8, "uint32_t": 4, "uint16_t": 2, "uint8_t": 1}
_STRUCT = re.compile(r"^cdef struct (\w+):.*\n((?:    .*\n|\n(?=    ))*)", re.MULTILINE)
_MEMBER = re.compile(r"^    (\w+) (\w+)(?:\[(\w+)\])?", re.MULTILINE)
_CONSTANT = re.compile(r"^    ([A-Z_]+) = (\w+)", re.MULTILINE)

ENTRY, LINK = 1, 2
NO_GRANULE = 0xFFFFFFFF


@dataclass(frozen=True)
class Field:
    """A number of a structure: its name ("intent.slot", "used[1]"), offset and size in bytes."""

    name: str
    offset: int
    size: int

    def at(self, start: int, owner: str = "") -> Field:
        """The same in a structure at `start`."""
        return Field(f"{owner}.{self.name}" if owner else self.name, start + self.offset, self.size)


@cache
def constants() -> dict[str, int]:
    """The numbers that layout.pxd names."""
    return {name: int(value, 0) for name, value in _CONSTANT.findall(_LAYOUT.read_text())}


@cache
def structure(name: str) -> tuple[Field, ...]:
    """The fields of a structure in their order, those of inner structures included; C's rule for alignment."""
    body = dict(_STRUCT.findall(_LAYOUT.read_text()))[name]
    fields: list[Field] = []
    end = 0
    for kind, member, count in _MEMBER.findall(body):
        inner = (Field("", 0, _TYPES[kind]),) if kind in _TYPES else structure(kind)
        alignment = max(field.size for field in inner)
        size = inner[-1].offset + inner[-1].size
        end = -(-end // alignment) * alignment
        times = int(count) if count.isdigit() else constants()[count] if count else 1
        for number in range(times):
            label = f"{member}[{number}]" if count else member
            fields += [Field(f"{label}.{field.name}".rstrip("."), end + field.offset, field.size) for field in inner]
            end += size
    return tuple(fields)


@cache
def field(struct: str, name: str) -> Field:
    return next(field for field in structure(struct) if field.name == name)


def size_of(struct: str) -> int:
    last = structure(struct)[-1]
    return last.offset + last.size


@dataclass(frozen=True)
class Entry:
    """A slot word that leads to a record."""

    slot: int  # its offset in the segment
    word: int
    bucket: int
    shard: int

    @property
    def granule(self) -> int:
        return self.word & constants()["GRANULE_MASK"]


class Segment:
    """A table's memory, attached beside the table."""

    def __init__(self, table: Table) -> None:
        self.plan = table.geometry.plan
        self.shards: int = table.geometry.shards
        self.memory = sysv_ipc.attach(table.shmid)

    def __enter__(self) -> Segment:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.memory.detach()

    @contextmanager
    def put_back(self) -> Iterator[bytes]:
        """All bytes as they are; they are so again afterwards, whatever was overwritten."""
        image = bytes(self.memory.read())
        try:
            yield image
        finally:
            self.memory.write(image)

    # Numbers

    def get(self, field: Field) -> int:
        return int.from_bytes(self.memory.read(field.size, field.offset), "little")

    def put(self, field: Field, value: int) -> None:
        self.memory.write((value & ((1 << 8 * field.size) - 1)).to_bytes(field.size, "little"), field.offset)

    def word(self, offset: int) -> int:
        return int.from_bytes(self.memory.read(8, offset), "little")

    def put_word(self, offset: int, value: int) -> None:
        self.put(Field("word", offset, 8), value)

    # Places

    def header(self, name: str) -> Field:
        return field("Header", name).at(0, "header")

    def process(self, number: int, name: str) -> Field:
        return field("ProcessSlot", name).at(self.plan.processes_offset + number * size_of("ProcessSlot"), f"process[{number}]")

    def control(self, shard: int, name: str) -> Field:
        return field("ShardControl", name).at(self.control_offset(shard), f"control[{shard}]")

    def control_offset(self, shard: int) -> int:
        return self.plan.controls_offset + shard * size_of("ShardControl")

    def shard_offset(self, shard: int) -> int:
        return self.plan.shards_offset + shard * self.plan.shard_bytes

    def directory(self, shard: int, chunk: int) -> Field:
        return Field(f"directory[{shard}][{chunk}]", self.shard_offset(shard) + 4 * chunk, 4)

    @property
    def index(self) -> ArenaPlan:
        return self.plan.index or self.plan.records

    def index_granule(self, shard: int, granule: int) -> int:
        """The offset of an index granule."""
        return self.shard_offset(shard) + self.index.base_offset + granule * self.index.granule_bytes

    def record_granule(self, shard: int, granule: int) -> int:
        """The offset of a granule of the records."""
        return self.shard_offset(shard) + self.plan.records.base_offset + granule * self.plan.records.granule_bytes

    def bitmap_byte(self, shard: int, arena: ArenaPlan, granule: int) -> Field:
        """The byte of the free map that has this granule's bit (granule % 8)."""
        return Field(f"bitmap[{shard}]", self.shard_offset(shard) + arena.bitmap_offset + granule // 8, 1)

    def free_granules(self, shard: int) -> Iterator[int]:
        """The granules (element geometry: cells) of the records' arena that nobody has."""
        for granule in range(self.plan.records.granules):
            if not self.get(self.bitmap_byte(shard, self.plan.records, granule)) >> granule % 8 & 1:
                yield granule

    def record(self, entry: Entry, name: str) -> Field:
        return field("Record", name).at(self.record_granule(entry.shard, entry.granule), "record")

    def run_link(self, entry: Entry, name: str) -> Field:
        """A field of the link in a record of several runs."""
        return field("RunLink", name).at(self.record_granule(entry.shard, entry.granule) + size_of("Record"), "link")

    # The index

    def buckets(self, shard: int) -> int:
        return self.get(self.control(shard, "split")) & 0x3FFFFFF

    def bucket_offset(self, shard: int, bucket: int) -> int:
        per_chunk = constants()["CHUNK_BUCKETS"]
        return self.index_granule(shard, self.get(self.directory(shard, bucket // per_chunk))) + bucket % per_chunk * 64

    def slots(self, shard: int, bucket: int) -> Iterator[tuple[int, int]]:
        """(offset, word) of every slot on a bucket's path, in a whole table."""
        at, count = self.bucket_offset(shard, bucket), constants()["BUCKET_SLOTS"]
        while True:
            words = [(at + 8 * number, self.word(at + 8 * number)) for number in range(count)]
            yield from words
            last = words[-1][1]
            if last >> 62 != LINK:
                return
            at, count = self.index_granule(shard, last & constants()["GRANULE_MASK"]), constants()["NODE_SLOTS"]

    def entries(self) -> Iterator[Entry]:
        """Every entry of a whole table."""
        for shard in range(self.shards):
            for bucket in range(self.buckets(shard)):
                for at, word in self.slots(shard, bucket):
                    if word >> 62 == ENTRY:
                        yield Entry(at, word, bucket, shard)

    def links(self) -> Iterator[tuple[int, int]]:
        """(offset, word) of every slot that leads to an overflow node."""
        for shard in range(self.shards):
            for bucket in range(self.buckets(shard)):
                yield from ((at, word) for at, word in self.slots(shard, bucket) if word >> 62 == LINK)

    def has_several_runs(self, entry: Entry) -> bool:
        return bool(self.get(self.record(entry, "length")) & constants()["SEVERAL_RUNS"])

    def key(self, entry: Entry) -> bytes:
        """The key of an entry's record."""
        start = self.record_granule(entry.shard, entry.granule) + size_of("Record")
        if self.has_several_runs(entry):
            start += size_of("RunLink")
        if self.get(self.record(entry, "state")) & constants()["STATE_FOREIGN_CAS"]:
            start += 8
        return bytes(self.memory.read(self.get(self.record(entry, "key_length")), start))

    def find(self, key: bytes) -> Entry:
        """The entry of a key."""
        return next(entry for entry in self.entries() if self.key(entry) == key)
