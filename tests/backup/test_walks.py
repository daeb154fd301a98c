"""Tables that are walked over a socket: what may happen between the list of keys and the last item."""

from __future__ import annotations

import json
import re
import socket
import threading
import time
from contextlib import closing
from pathlib import Path

import pytest
from support.backups import shell
from support.client import Client
from support.following import where
from support.scripted import VERSION, Scripted
from support.servers import Daemon
from support.tables import verb

import memcache_shm
from memcache_shm.client.remote import RemoteTable
from memcache_shm.client.remote_items import RemoteItems
from memcache_shm.errors import RemoteError

ASK = b"stats\r\n"
RUN = b"STAT pid %d\r\nSTAT uptime %d\r\nSTAT time %d\r\nSTAT curr_items 1\r\nEND\r\n"
STATS = (ASK, RUN % (7, 100, 1_700_000_000))
LIST = b"lru_crawler metadump hash\r\n"
DUMP = (LIST, b"key=a exp=-1 la=1 cas=5 fetch=no cls=1 size=10\nEND\r\n")
GET = b"mg a v f c t u\r\n"
ITEM = (GET, b"VA 1 f0 c5 t-1\r\nx\r\n")


@pytest.mark.parametrize(
    "other",
    [
        RUN % (8, 3, 1_700_000_000),  # another process
        RUN % (7, 3, 1_700_000_000),  # the same number, as of a container's first one, but younger
        b"STAT curr_items 1\r\nEND\r\n",  # who does not tell
    ],
)
def test_another_server_in_its_place(other: bytes, here: Path) -> None:
    """Which has none of the items that were listed: no backup, and the older one stays."""
    (here / "b").write_bytes(b"old")
    with Scripted([VERSION, STATS, STATS, DUMP], [VERSION, (ASK, other)]) as server:
        address = server.address
        result = verb("backup", address, str(here / "b"))
    assert (result.returncode, result.stdout) == (1, "")
    told = f"memcache-shm: error: {address}: the connection was lost, and another server answers there now, or it was started anew\n"
    assert result.stderr == told
    assert (here / "b").read_bytes() == b"old"


def test_the_same_server_again(here: Path) -> None:
    """What it tells of its start may differ by a second."""
    again = (ASK, RUN % (7, 104, 1_700_000_005))
    with Scripted([VERSION, STATS, STATS, DUMP, (GET, b"VA 1 f0 c5")], [VERSION, again, ITEM]) as server:
        result = verb("backup", server.address, str(here / "b"))
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout.startswith("1 item, ")


def test_items_that_are_gone(ours: Daemon, here: Path) -> None:
    """After a flush_all, say: they are counted; what was over is not."""
    with memcache_shm.attach(ours.name) as cache:
        for number in range(1000):
            cache.set(f"key{number}", b"x")
        with RemoteTable(ours.unix_path) as table:
            items = RemoteItems(table)
            walk = iter(items)
            next(walk)
            cache.flush_all()
            read = 1 + sum(1 for _ in walk)
    assert 0 < read < 1000
    assert items.gone == 1000 - read
    over = DUMP[1].replace(b"exp=-1", b"exp=5").removesuffix(b"END\r\n") + DUMP[1]
    gone = (GET + GET, b"EN\r\nEN\r\n")
    with Scripted([VERSION, STATS, STATS, (LIST, over), gone]) as server:
        result = verb("backup", server.address, str(here / "b"))
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout.endswith("; walked, so changes made meanwhile may be missing; 1 item gone before being read\n")
    with Scripted([VERSION, STATS, STATS, (LIST, over), gone]) as server:
        assert json.loads(verb("backup", "--json", server.address, str(here / "b")).stdout)["gone"] == 1


STALE_ITEMS = 40


@pytest.fixture
def stale(ours: Daemon) -> Daemon:
    """With stale items that nobody has asked for; more than a MiB of them."""
    with Client(ours) as client:
        for number in range(STALE_ITEMS):
            client.send(b"ms s%d 60000\r\n%b\r\nmd s%d I\r\n" % (number, b"x" * 60_000, number))
            assert [client.line(), client.line()] == [b"HD", b"HD"]
    return ours


def can_be_won(server: Daemon) -> int:
    with Client(server) as client:
        client.send(b"".join(b"mg s%d\r\n" % number for number in range(STALE_ITEMS)))
        return [sorted(client.line().split()) for _ in range(STALE_ITEMS)].count([b"HD", b"W", b"X"])


def test_a_walk_that_fails_keeps_nothing(stale: Daemon, here: Path) -> None:
    """The right to make an item anew is given back, whatever becomes of the backup."""
    result = shell(f"ulimit -f 64; memcache-shm backup {where(stale)} b", here)
    assert result.returncode == 1
    assert "File too large" in result.stderr
    result = shell(f"memcache-shm backup {where(stale)} - | head -c 10000 | wc -c", here)
    assert (result.returncode, result.stdout) == (1, "10000\n")
    with RemoteTable(stale.unix_path) as table, closing(iter(RemoteItems(table))) as walk:
        next(walk)
    assert can_be_won(stale) == STALE_ITEMS


def test_keys_that_no_server_has(here: Path) -> None:
    """Longer than the protocol can name them."""
    listed = (LIST, DUMP[1].replace(b"key=a", b"key=" + b"k" * 300))
    with Scripted([VERSION, STATS, STATS, listed]) as server:
        result = verb("backup", server.address, str(here / "b"))
    assert (result.returncode, result.stderr) == (1, "")
    assert result.stdout.endswith("; 1 item left out, whose keys the protocol cannot name\n")


def test_insane_cas_ids(ours: Daemon, here: Path) -> None:
    """One client's choice does not count among those that later ones are above, over either door and in either form."""
    with Client(ours) as client:
        client.send(b"ms mad 1 E18446744073709551615\r\nx\r\nms sane 1 E5000000\r\nx\r\n")
        assert [client.line(), client.line()] == [b"HD", b"HD"]
    name = f"{ours.name}-again"
    for source in (where(ours), ours.name):
        for form in ("binary", "jsonl"):
            assert verb("backup", "--format", form, source, str(here / "b")).returncode == 0
            with memcache_shm.open(name, memory="4m") as again:
                assert verb("restore", str(here / "b"), name).returncode == 0
                again.set("new", b"")
                assert int(again.gets("mad")[1]) == 2**64 - 1
                assert 5_000_000 < int(again.gets("new")[1]) < 2**40
            memcache_shm.unlink(name)


def read_slowly(listener: socket.socket, size: int) -> None:
    """Take `size` bytes in all, some of them now and then."""
    sock, _ = listener.accept()
    with sock:
        assert sock.recv(100) == b"version\r\n"
        sock.sendall(b"VERSION 1.6.18\r\n")
        while size > 0:
            size -= len(sock.recv(1 << 16))
            time.sleep(0.004)  # so slow is the other side
        sock.sendall(b"HD\r\n")


def test_a_value_that_takes_longer_than_one_wait() -> None:
    """The limit is one for each wait, in which something must go on."""
    value = bytes(32 << 20)
    request = b"ms a %d\r\n%b\r\n" % (len(value), value)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        reader = threading.Thread(target=read_slowly, args=(listener, len(request)))
        reader.start()
        with RemoteTable(f"127.0.0.1:{listener.getsockname()[1]}", timeout_s=0.7) as table:
            began_s = time.monotonic()
            assert table.set(b"a", value)
            assert time.monotonic() - began_s > 0.7
        reader.join()


def test_nobody_takes_it() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        reader = threading.Thread(target=read_slowly, args=(listener, 0))
        reader.start()
        table = RemoteTable(f"127.0.0.1:{listener.getsockname()[1]}", timeout_s=0.3)
        reader.join()
        with table, pytest.raises(RemoteError, match=re.compile("no answer|connection lost")):
            table.set(b"a", bytes(64 << 20))
