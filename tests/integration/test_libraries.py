"""A smoke test of each client library that people use, against the daemon, over both doors where it speaks both."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Callable

import aiomcache
import emcache
import pytest
from meta_memcache import (
    CacheApi,
    CacheClient,
    Key,
    LeasePolicy,
    Miss,
    RecachePolicy,
    RequestFlags,
    ServerAddress,
    StalePolicy,
    Value,
    connection_pool_factory_builder,
)
from support.servers import Daemon

LARGE = b"\x00\xff\r\nEND\r\n" * 50_000


@pytest.fixture
def daemon(daemon_with: Callable[..., Daemon]) -> Daemon:
    """One with two workers, emptied."""
    found = daemon_with("-m", "64", workers=2)
    found.flush()
    return found


@pytest.mark.skipif(sys.version_info >= (3, 12), reason="pylibmc has no wheel for this Python")
@pytest.mark.parametrize("door", ["tcp", "unix"])
def test_pylibmc(daemon: Daemon, door: str) -> None:
    """libmemcached's binding; pools, multi-key commands in no-reply mode, cas, negative answers."""
    import pylibmc

    address = daemon.unix_path if door == "unix" else f"{daemon.host}:{daemon.port}"
    client = pylibmc.Client([address], behaviors={"cas": True, "tcp_nodelay": True, "no_block": True})
    assert client.set("k", {"a": [1, 2]}, time=100)
    assert client.get("k") == {"a": [1, 2]}
    assert client.set_multi({f"k{n}": n for n in range(500)}) == []
    assert client.get_multi([f"k{n}" for n in range(600)]) == {f"k{n}": n for n in range(500)}
    assert client.delete_multi([f"k{n}" for n in range(500)])
    assert client.set("n", 41) and client.incr("n") == 42 and client.decr("n", 2) == 40
    value, cas = client.gets("n")
    assert client.cas("n", value + 1, cas) and not client.cas("n", 7, cas)
    assert not client.add("n", 1) and client.replace("n", 2) and client.touch("n", 50)
    assert client.set("text", b"b") and client.append("text", b"c") and client.prepend("text", b"a")
    assert client.get("text") == b"abc"
    assert client.set("large", LARGE) and client.get("large") == LARGE
    with pytest.raises(pylibmc.NotFound):
        client.incr("absent")
    ((_, stats),) = client.get_stats()
    assert stats["version"].startswith(b"1.6")
    assert client.flush_all() and client.get("k") is None
    client.disconnect_all()


@pytest.mark.parametrize("door", ["tcp", "unix"])
def test_emcache(daemon: Daemon, door: str) -> None:
    """An asyncio client with its own parser."""

    async def talk() -> None:
        unix = emcache.MemcachedUnixSocketPath(daemon.unix_path)
        client = await emcache.create_client([unix if door == "unix" else emcache.MemcachedHostAddress(daemon.host, daemon.port)])
        await client.set(b"k", b"v", flags=7, exptime=100)
        item = await client.gets(b"k", return_flags=True)
        assert item.value == b"v" and item.flags == 7
        await client.cas(b"k", b"w", item.cas)
        with pytest.raises(emcache.NotStoredStorageCommandError):
            await client.cas(b"k", b"x", item.cas)
        await asyncio.gather(*(client.set(b"k%d" % n, b"%d" % n) for n in range(200)))
        found = await client.get_many([b"k%d" % n for n in range(250)])
        assert {key: item.value for key, item in found.items()} == {b"k%d" % n: b"%d" % n for n in range(200)}
        assert await client.increment(b"k9", 5) == 14
        await client.set(b"large", LARGE)
        assert (await client.get(b"large")).value == LARGE
        await client.touch(b"k", 10)
        assert (await client.gat(100, b"k")).value == b"w"
        await client.delete(b"k")
        assert await client.get(b"k") is None
        await client.close()

    asyncio.run(talk())


def test_aiomcache(daemon: Daemon) -> None:
    """The other asyncio client."""

    async def talk() -> None:
        client = aiomcache.Client(daemon.host, daemon.port)
        assert await client.set(b"k", b"v", exptime=100)
        assert await client.get(b"k") == b"v"
        value, cas = await client.gets(b"k")
        assert value == b"v" and await client.cas(b"k", b"w", cas) and not await client.cas(b"k", b"x", cas)
        assert await client.multi_get(b"k", b"absent") == (b"w", None)
        assert await client.set(b"n", b"1") and await client.incr(b"n", 4) == 5
        assert (await client.stats())[b"pid"] == b"%d" % daemon.pid
        assert (await client.version()).startswith(b"1.6")
        assert await client.delete(b"k") and not await client.delete(b"k")
        await client.close()

    asyncio.run(talk())


@pytest.fixture
def meta_client(daemon: Daemon) -> CacheApi:
    """A client that speaks nothing but meta commands."""
    return CacheClient.cache_client_from_servers([ServerAddress(daemon.host, daemon.port)], connection_pool_factory_builder())


def test_meta_memcache(meta_client: CacheApi) -> None:
    """Plain use of the meta commands: values, many keys, counters, cas, binary keys."""
    client = meta_client
    assert client.set("k", {"a": 1}, ttl=100) and client.get("k") == {"a": 1}
    assert client.get("absent") is None and not client.delete("absent")
    for n in range(300):
        assert client.set(Key(f"k{n}"), n, ttl=100, no_reply=n % 2 == 0)
    found = client.multi_get([Key(f"k{n}") for n in range(310)])
    assert {key.key: value for key, value in found.items() if value is not None} == {f"k{n}": n for n in range(300)}
    assert client.delta_initialize_and_get("n", delta=3, initial_value=10, initial_ttl=100) == 10
    assert client.delta_and_get("n", delta=3) == 13 and client.delta_and_get("n", delta=-14) == 0
    value, cas = client.get_cas("k")
    assert value == {"a": 1} and client.set("k", 2, ttl=100, cas_token=cas) and not client.set("k", 3, ttl=100, cas_token=cas)
    assert client.set("schlüssel ein", "wert", ttl=100) and client.get("schlüssel ein") == "wert"
    assert client.set("large", LARGE, ttl=100) and client.get("large") == LARGE


def test_meta_memcache_leases(meta_client: CacheApi) -> None:
    """Of many that miss one is to make the value; of a stale one, too; the others are told to wait or take the old one."""
    client = meta_client
    policy = LeasePolicy(ttl=30, miss_retries=1, miss_retry_wait=0.001)
    won = client.get_or_lease("k", lease_policy=policy)
    assert won is None, "we are to make it"
    assert client.set("k", "v1", ttl=300) and client.get_or_lease("k", lease_policy=policy) == "v1"
    assert client.invalidate("k", stale_policy=StalePolicy(mark_stale_on_deletion_ttl=30))
    flags = RequestFlags(return_value=True, return_ttl=True, return_cas_token=True)
    first, second = client.meta_get(Key("k"), flags), client.meta_get(Key("k"), flags)
    assert isinstance(first, Value) and first.flags.stale and first.flags.win, first
    assert isinstance(second, Value) and second.flags.stale and second.flags.win is False, second
    assert client.set("k", "v2", ttl=300) and client.get("k", recache_policy=RecachePolicy(ttl=30)) == "v2"
    assert isinstance(client.meta_get(Key("absent")), Miss)


_PERL = r"""
use strict; use warnings; use Cache::Memcached::Fast;
my $c = Cache::Memcached::Fast->new({servers => [$ARGV[0]], utf8 => 1});
sub ok { my ($got, $what) = @_; print(($got ? "ok" : "NOT"), " $what\n") }
ok($c->set("k", "v\x{263a}", 100), "set");
ok($c->get("k") eq "v\x{263a}", "get");
ok($c->set("deep", {list => [1, 2, 3]}), "set a structure");
ok($c->get("deep")->{list}[2] == 3, "get it");
my $many = $c->set_multi(map { ["k$_", $_] } 1 .. 200);
ok(200 == grep({ $_ } values %$many), "set_multi");
my $found = $c->get_multi(map { "k$_" } 1 .. 250);
ok(200 == keys %$found && $found->{k7} == 7, "get_multi");
ok(8 == $c->incr("k7", 1) && 3 == $c->decr("k7", 5), "incr and decr");
my $pair = $c->gets("k7");
$$pair[1] = "x";
ok($c->cas("k7", @$pair) && !$c->cas("k7", @$pair), "cas");
ok($c->append("k7", "y") && $c->prepend("k7", "w") && $c->get("k7") eq "wxy", "append and prepend");
ok($c->touch("k7", 50) && $c->delete("k7") && !defined $c->get("k7"), "touch and delete");
my ($version) = values %{$c->server_versions};
ok($version =~ /^1\.6/, "version");
ok($c->flush_all && !defined $c->get("k"), "flush_all");
"""


@pytest.mark.parametrize("door", ["tcp", "unix"])
def test_perl(daemon: Daemon, door: str) -> None:
    """Debian's libcache-memcached-fast-perl."""
    address = daemon.unix_path if door == "unix" else f"{daemon.host}:{daemon.port}"
    done = subprocess.run(["perl", "-e", _PERL, address], capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("ok ") == 12 and "NOT" not in done.stdout, done.stdout
