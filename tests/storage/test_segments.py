"""The System V objects of a table, seen from outside: the kernel's lists, sysv_ipc, and damaged headers."""

from __future__ import annotations

import multiprocessing
import os
import random
import re
import struct
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import sysv_ipc

import memcache_shm
from memcache_shm.errors import LayoutError, TableRemovedError
from memcache_shm.storage.geometry import Geometry
from memcache_shm.storage.table import Table

GEOMETRY = Geometry.by_elements(100, 100)

# Offsets of header fields (layout.pxd), bytes.
MAGIC, FINGERPRINT, UUID, SEGMENT_BYTES, ELEMENTS, ELEMENT_BYTES, SHARDS, PROCESS_SLOTS, LAYOUT_VERSION = 0, 8, 16, 48, 64, 72, 96, 100, 116
HEADER_BYTES = 128  # the creator's part


def kernel_row(kind: str, number: int) -> dict[str, int] | None:
    """What /proc/sysvipc tells about an object; permissions are octal there."""
    header, *rows = Path(f"/proc/sysvipc/{kind}").read_text().splitlines()
    for row in rows:
        fields = dict(zip(header.split(), row.split(), strict=True))
        if int(fields[f"{kind}id"]) == number:
            return {name: int(text, 8 if name == "perms" else 10) for name, text in fields.items()}
    return None


def mapping_of(table: Table) -> tuple[str, list[str]]:
    """Permissions and VmFlags of the last mapping of the segment in this process."""
    found = None
    text = Path("/proc/self/smaps").read_text()
    for head, body in re.findall(r"^([0-9a-f]+-[0-9a-f]+ .*)\n((?:[A-Z].*\n)*)", text, re.MULTILINE):
        fields = head.split()
        if len(fields) > 5 and fields[5].startswith("/SYSV") and int(fields[4]) == table.shmid:
            found = fields[1], re.search(r"^VmFlags: (.*)$", body, re.MULTILINE)[1].split()
    assert found is not None
    return found


@contextmanager
def foreign(shmid: int) -> Iterator[sysv_ipc.SharedMemory]:
    """The segment through sysv_ipc; that package leaves it attached unless told."""
    segment = sysv_ipc.attach(shmid)
    try:
        yield segment
    finally:
        segment.detach()


@contextmanager
def foreign_segment(size_bytes: int) -> Iterator[sysv_ipc.SharedMemory]:
    """A segment that is no table's."""
    segment = sysv_ipc.SharedMemory(None, sysv_ipc.IPC_CREX, size=size_bytes)
    try:
        yield segment
    finally:
        segment.remove()
        segment.detach()


def write_header(table: Table, offset: int, data: bytes) -> None:
    with foreign(table.shmid) as segment:
        segment.write(data, offset)


def read_header(table: Table) -> bytes:
    with foreign(table.shmid) as segment:
        return segment.read(HEADER_BYTES)


@pytest.mark.parametrize("mode", [0o600, 0o660, 0o666])
def test_create_and_destroy_make_and_remove_two_objects(make_table: Callable[..., Table], mode: int) -> None:
    before = Path("/proc/sysvipc/shm").read_text(), Path("/proc/sysvipc/sem").read_text()
    table = make_table(GEOMETRY, mode=mode)
    segment, semaphores = kernel_row("shm", table.shmid), kernel_row("sem", table.semid)
    assert segment is not None
    assert semaphores is not None
    assert segment["size"] == GEOMETRY.segment_bytes
    assert segment["nattch"] == 1
    assert (segment["perms"] & 0o777, semaphores["perms"] & 0o777) == (mode, mode)
    assert (segment["key"], semaphores["key"]) == (0, 0), "IPC_PRIVATE"
    assert semaphores["nsems"] == GEOMETRY.plan.process_slots
    with foreign(table.shmid) as seen:
        assert seen.size == GEOMETRY.segment_bytes
    assert table.destroy() is True
    assert kernel_row("sem", table.semid) is None
    table.close()
    assert kernel_row("shm", table.shmid) is None
    assert (Path("/proc/sysvipc/shm").read_text(), Path("/proc/sysvipc/sem").read_text()) == before


def test_destroyed_twice(make_table: Callable[..., Table]) -> None:
    table = make_table(GEOMETRY)
    other = Table.attach(table.shmid, table.semid, table.uuid)
    assert table.destroy() is True
    assert other.retired
    table.close()
    other.close()
    table.close()
    with pytest.raises(ValueError, match="closed"):
        len(table)
    with pytest.raises(TableRemovedError):
        Table.attach(table.shmid, table.semid, table.uuid)


def test_named_table_leaves_nothing(state_dir: Path) -> None:
    cache = memcache_shm.open("app", elements=10, element_size=10)
    shmids = {row.split()[1] for row in Path("/proc/sysvipc/shm").read_text().splitlines()}
    memcache_shm.unlink("app")
    cache.close()
    left = {row.split()[1] for row in Path("/proc/sysvipc/shm").read_text().splitlines()}
    assert len(shmids - left) == 1
    assert list(state_dir.iterdir()) == []


def test_attached_read_only_and_not_dumped(make_table: Callable[..., Table]) -> None:
    table = make_table(GEOMETRY)
    permissions, flags = mapping_of(table)
    assert permissions == "rw-s"
    assert "dd" in flags, "left out of core dumps"
    table.close()
    reader = Table.attach(table.shmid, table.semid, table.uuid, readonly=True)
    permissions, flags = mapping_of(reader)
    assert permissions == "r--s"
    assert "dd" in flags
    assert reader.readonly
    reader.close()
    Table.attach(table.shmid, table.semid, table.uuid).destroy()


def test_other_uuid(make_table: Callable[..., Table]) -> None:
    table = make_table(GEOMETRY)
    with pytest.raises(TableRemovedError, match="reused"):
        Table.attach(table.shmid, table.semid, "0" * 32)


@pytest.mark.parametrize("size_bytes", [1, 16, 127, 100_000])
def test_not_a_table(size_bytes: int) -> None:
    with foreign_segment(size_bytes) as segment, pytest.raises(LayoutError, match="no table"):
        Table.attach(segment.id, 0, "")


@pytest.mark.parametrize(
    ("offset", "data", "why"),
    [
        (MAGIC, bytes(8), "no table"),
        (FINGERPRINT, bytes(8), "another build"),
        (LAYOUT_VERSION, struct.pack("<I", 999), "layout 999 of another build"),
        (SEGMENT_BYTES, struct.pack("<Q", 4096), "sizes do not match"),
        (ELEMENTS, struct.pack("<Q", 101), "sizes do not match"),
        (ELEMENTS, struct.pack("<Q", 2**63), "damaged"),
        (ELEMENT_BYTES, struct.pack("<Q", 0), "damaged"),
        (SHARDS, struct.pack("<I", 0), "damaged"),
        (SHARDS, struct.pack("<I", 3), "damaged"),
        (PROCESS_SLOTS, struct.pack("<I", 2**31), "sizes do not match"),
    ],
)
def test_damaged_header(make_table: Callable[..., Table], offset: int, data: bytes, why: str) -> None:
    table = make_table(GEOMETRY)
    write_header(table, offset, data)
    for readonly in (False, True):
        with pytest.raises(LayoutError, match=why):
            Table.attach(table.shmid, table.semid, table.uuid, readonly=readonly)


def test_header_larger_than_its_segment(make_table: Callable[..., Table]) -> None:
    """A whole header in front of too small a segment."""
    table = make_table(GEOMETRY)
    with foreign_segment(4096) as segment:
        segment.write(read_header(table))
        with pytest.raises(LayoutError, match="4096 bytes"):
            Table.attach(segment.id, table.semid, table.uuid)


def test_flipped_header_bits(make_table: Callable[..., Table]) -> None:
    """Attach or a clear error, whatever bit of the creator's part is wrong; never a mapping beyond the segment."""
    table = make_table(GEOMETRY)
    whole = read_header(table)
    chance = random.Random(1)
    for _ in range(400):
        at, bit = chance.randrange(HEADER_BYTES), 1 << chance.randrange(8)
        write_header(table, at, bytes([whole[at] ^ bit]))
        try:
            Table.attach(table.shmid, table.semid, table.uuid).close()
        except (LayoutError, TableRemovedError) as error:
            assert str(error)
        write_header(table, at, whole[at : at + 1])
    Table.attach(table.shmid, table.semid, table.uuid).close()


def test_segment_too_large_for_the_system() -> None:
    with pytest.raises(OSError, match=r"kernel\.shmmax") as raised:
        Table.create(Geometry.by_memory(1 << 45, 1 << 20))
    assert str(1 << 45) in str(raised.value)


@pytest.mark.skipif(os.getuid() != 0, reason="only root can become somebody else")
def test_no_right_to_attach(make_table: Callable[..., Table]) -> None:
    table = make_table(GEOMETRY, mode=0o644)
    child = multiprocessing.get_context("fork").Process(target=lambda: sys.exit(as_somebody_else(table)))
    child.start()
    child.join()
    assert child.exitcode == 0


def as_somebody_else(table: Table) -> int:
    """0 when reading is allowed, writing refused and the remedy named."""
    os.setuid(65534)
    try:
        Table.attach(table.shmid, table.semid, table.uuid, readonly=True).close()
    except PermissionError:
        return 1
    try:
        Table.attach(table.shmid, table.semid, table.uuid).close()
    except PermissionError as error:
        return 0 if "read-only" in str(error) else 2
    return 3
