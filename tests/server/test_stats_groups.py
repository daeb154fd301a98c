"""The groups of stats, and their figures across workers and attached processes."""

from __future__ import annotations

import base64
import multiprocessing
import os
import re
import signal
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest
from support.client import Client
from support.servers import Daemon, Memcached
from support.waiting import until

import memcache_shm

WORKERS = 3


@pytest.fixture
def daemon() -> Iterator[Daemon]:
    with Daemon("-m", "64", workers=WORKERS) as server:
        yield server


def counts(client: Client, *names: str) -> list[int]:
    stats = client.stats()
    return [int(stats[name]) for name in names]


@pytest.mark.parametrize("group", [b"items", b"slabs"])
def test_names_are_memcacheds(daemon: Daemon, memcached_with: Callable[..., Memcached], group: bytes) -> None:
    names = []
    for server in (daemon, memcached_with()):
        with Client(server) as client:
            client.set(b"k", b"v")
            client.get(b"k")
            stats = client.stats(group)
            # memcached has a class for each size that it has ever held, ours is one for all
            names.append({re.sub(r"^(items:)?\d+:", r"\g<1>1:", name) for name in stats})
            assert all(value.isdigit() for value in stats.values())
    assert names[0] >= names[1]


def test_names_that_monitors_read(daemon: Daemon) -> None:
    """mtop and the Prometheus exporter fail as a whole when one of these is missing."""
    with Client(daemon) as client:
        client.set(b"k", b"v")
        items, slabs, settings = client.stats(b"items"), client.stats(b"slabs"), client.stats(b"settings")
    for name in """number age evicted evicted_nonzero evicted_time evicted_unfetched expired_unfetched outofmemory tailrepairs reclaimed
                   mem_requested number_hot number_warm number_cold age_hot age_warm hits_to_hot hits_to_warm hits_to_cold hits_to_temp
                   lrutail_reflocked direct_reclaims""".split():
        assert f"items:1:{name}" in items
    for name in """chunk_size chunks_per_page total_pages total_chunks used_chunks free_chunks free_chunks_end mem_requested get_hits
                   cmd_set delete_hits incr_hits decr_hits cas_hits cas_badval touch_hits""".split():
        assert f"1:{name}" in slabs
    assert {"active_slabs", "total_malloced"} <= slabs.keys()
    assert {"maxconns", "lru_crawler", "item_size_max", "evictions", "cas_enabled", "detail_enabled", "track_sizes"} <= settings.keys()


def test_plain_stats_fit_collectds_buffer(daemon: Daemon) -> None:
    with Client(daemon) as client:
        client.send(b"stats\r\n")
        assert sum(len(line) + 2 for line in iter(client.line, b"END")) + 5 < 4096


def test_idle_kicks_are_told_where_there_is_a_limit(daemon: Daemon) -> None:
    with Client(daemon) as client:
        assert "idle_kicks" not in client.stats()
    with Daemon("-o", "idle_timeout=1") as limited:
        with limited.connect() as idle:
            assert idle.recv(1) == b""
        with Client(limited) as client:
            assert counts(client, "idle_kicks") == [1]


def test_items_and_slabs_add_up(daemon: Daemon) -> None:
    with Client(daemon) as client:
        assert client.stats(b"items") == {}
        for number in range(100):
            client.set(b"key%d" % number, b"x" * 100)
        for number in range(10):
            client.get(b"key%d" % number)
        items, slabs = client.stats(b"items"), client.stats(b"slabs")
    assert items["items:1:number"] == "100"
    assert sum(int(items[f"items:1:number_{part}"]) for part in ("hot", "warm", "cold")) == 100
    assert items["items:1:hits_to_warm"] == "10"
    assert int(slabs["1:used_chunks"]) + int(slabs["1:free_chunks"]) == int(slabs["1:total_chunks"])
    assert int(slabs["1:used_chunks"]) * int(slabs["1:chunk_size"]) >= int(slabs["1:mem_requested"]) > 10_000


def _use(name: str, times: int) -> None:
    with memcache_shm.attach(name) as cache:
        for number in range(times):
            cache.set(f"attached{os.getpid()}-{number}", b"x")
            cache.get(f"attached{os.getpid()}-{number}")
            cache.get("absent")
            cache.incr("number", 1)


def test_counters_across_workers_and_attached_processes(daemon: Daemon) -> None:
    """Each request counts once, whoever did it, and those of a process that is gone stay counted."""
    times = 500
    with ExitStack() as stack:
        clients = [stack.enter_context(Client(daemon)) for _ in range(2 * WORKERS)]
        clients[0].set(b"number", b"0")
        context = multiprocessing.get_context("spawn")
        processes = [context.Process(target=_use, args=(daemon.name, times)) for _ in range(2)]
        for process in processes:
            process.start()
        for number in range(times):
            for place, client in enumerate(clients):
                client.send(b"set k%d-%d 0 0 1\r\nx\r\nget k%d-%d absent\r\nincr number 1\r\ndelete none\r\n" % ((place, number) * 2))
        for client in clients:
            for _ in range(times):
                assert client.line() == b"STORED"
                assert [client.line() for _ in range(3)][2] == b"END"
                assert client.line().isdigit()
                assert client.line() == b"NOT_FOUND"
        for process in processes:
            process.join()
            assert process.exitcode == 0
        users = len(clients) + len(processes)
        expected = [users * times + 1, 2 * users * times, users * times, users * times, users * times, len(clients) * times]
        for client in clients:
            assert counts(client, "cmd_set", "cmd_get", "get_hits", "get_misses", "incr_hits", "delete_misses") == expected
        assert counts(clients[0], "curr_items", "curr_connections") == [users * times + 1, len(clients)]
        assert clients[0].get(b"number") == b"%d" % (users * times)


def test_changes_in_place_make_no_new_item(daemon: Daemon, memcached_with: Callable[..., Memcached]) -> None:
    for server in (daemon, memcached_with()):
        with Client(server) as client:
            before = counts(client, "total_items")[0]
            client.send(b"set n 0 0 1\r\n8\r\nincr n 1\r\nincr n 1\r\nms i 2\r\nhi\r\nmd i I\r\nma n\r\n")
            assert [client.line() for _ in range(6)] == [b"STORED", b"9", b"10", b"HD", b"HD", b"HD"]
            assert counts(client, "total_items")[0] - before == 3


def test_keys_that_would_end_a_line_are_told_in_none(daemon: Daemon) -> None:
    key = base64.b64encode(b"x\r\nEND\r\ny:z")
    with Client(daemon) as client:
        assert client.ask(b"stats detail on") == b"OK"
        client.send(b"ms %s 1 b\r\n1\r\nset a:b 0 0 1\r\n1\r\n" % key)
        assert [client.line(), client.line()] == [b"HD", b"STORED"]
        client.send(b"stats cachedump 1 0\r\nstats detail dump\r\nmn\r\n")
        assert list(iter(client.line, b"MN")) == [b"ITEM a:b [1 b; 0 s]", b"END", b"PREFIX a get 0 hit 0 set 1 del 0", b"END"]


def test_reset_through_one_worker_is_seen_by_all(daemon: Daemon) -> None:
    with ExitStack() as stack:
        clients = [stack.enter_context(Client(daemon)) for _ in range(WORKERS)]
        clients[0].ask(b"stats detail on")
        for client in clients:
            client.set(b"a:b", b"x")
        assert clients[0].ask(b"stats reset") == b"RESET"
        for client in clients:
            assert counts(client, "cmd_set", "total_items", "curr_items", "curr_connections") == [0, 0, 1, WORKERS]
            assert detail(client) == {}


def test_rusage_is_the_whole_daemons(daemon: Daemon) -> None:
    """Each worker tells the same, and a killed worker's time stays counted."""
    with Client(daemon) as client:
        before = _rusage_s(client)
        until(lambda: _work(client) > before, "a tick of the kernel's clock to be spent", every_s=0)
        spent = _rusage_s(client)
        victims = daemon.workers
        for pid in victims:
            os.kill(pid, signal.SIGKILL)
        until(lambda: len(daemon.workers) == WORKERS and not set(victims) & set(daemon.workers), "new workers")
    with Client(daemon) as client:
        assert _rusage_s(client) >= spent


def _work(client: Client) -> float:
    client.send(b"set a 0 0 1\r\nx\r\n" * 1000)
    for _ in range(1000):
        client.line()
    return _rusage_s(client)


def _rusage_s(client: Client) -> float:
    stats = client.stats()
    return float(stats["rusage_user"]) + float(stats["rusage_system"])


# conns


def seats(client: Client) -> dict[str, dict[str, str]]:
    """Of each connection: addr, listen_addr, state, secs_since_last_cmd."""
    found: dict[str, dict[str, str]] = {}
    for name, value in client.stats(b"conns").items():
        number, _, field = name.partition(":")
        found.setdefault(number, {})[field] = value
    return found


def test_a_channel_is_named_so(daemon: Daemon) -> None:
    with Client(daemon) as client, Client(daemon, "channel"):
        listed = seats(client).values()
        assert [fields["listen_addr"] for fields in listed if fields["addr"] == f"channel:{daemon.unix_path}"] == [
            f"unix:{daemon.unix_path}"
        ]
    with Client(daemon, "unix") as client:  # its seat may be the same one
        until(lambda: all(not fields["addr"].startswith("channel:") for fields in seats(client).values()), "the channel to leave")


def test_connections_of_all_workers(daemon: Daemon) -> None:
    with ExitStack() as stack:
        clients = [stack.enter_context(Client(daemon)) for _ in range(2 * WORKERS)]
        local = stack.enter_context(Client(daemon, "unix"))
        watching = stack.enter_context(Client(daemon))
        assert watching.ask(b"watch") == b"OK"
        for client in (*clients, local):
            client.get(b"a")
        listed = seats(local)
        listeners = {fields["addr"] for fields in listed.values() if fields["state"] == "conn_listening"}
        assert listeners == {f"tcp:{daemon.host}:{daemon.port}", f"unix:{daemon.unix_path}"}
        rest = {fields["addr"]: fields for fields in listed.values() if fields["state"] != "conn_listening"}
        addresses = {f"tcp:127.0.0.1:{client.sock.getsockname()[1]}" for client in (*clients, watching)}
        assert rest.keys() == addresses | {f"unix:{daemon.unix_path}"}
        assert rest[f"tcp:127.0.0.1:{watching.sock.getsockname()[1]}"]["state"] == "conn_watch"
        assert {fields["listen_addr"] for fields in rest.values()} == listeners
        assert all(0 <= int(fields["secs_since_last_cmd"]) <= 20 for fields in rest.values())
        assert [seats(client).keys() for client in clients] == [listed.keys()] * len(clients)


def test_connections_that_are_gone(daemon: Daemon) -> None:
    """Closed ones leave the list, and so do those of a killed worker; their numbers are given anew."""
    with Client(daemon) as client:
        for _ in range(3):
            others = [Client(daemon) for _ in range(20)]
            until(lambda: len(seats(client)) == 2 + 21, "all of them in the list")
            for other in others:
                other.close()
            until(lambda: len(seats(client)) == 2 + 1, "the others to leave the list")
    others = [Client(daemon) for _ in range(20)]
    for other in others:
        other.get(b"a")
    victims = daemon.workers
    for pid in victims:
        os.kill(pid, signal.SIGKILL)
    until(lambda: len(daemon.workers) == WORKERS and not set(victims) & set(daemon.workers), "new workers")
    with Client(daemon) as client:
        assert len(seats(client)) == 2 + 1
    for other in others:
        other.close()


def test_blocked_connection_is_named_so(daemon: Daemon) -> None:
    with Client(daemon) as client, Client(daemon) as slow:
        client.set(b"big", b"x" * 500_000)
        slow.send(b"get big\r\n" * 100)
        port = slow.sock.getsockname()[1]

        def state() -> str:
            found = (fields["state"] for fields in seats(client).values() if fields["addr"].endswith(f":{port}"))
            return next(found, "not accepted yet")

        until(lambda: state() == "conn_mwrite", "the slow client to be waited for")


# detail


def detail(client: Client) -> dict[str, tuple[int, ...]]:
    client.send(b"stats detail dump\r\n")
    return {
        words[1].decode(): tuple(int(word) for word in words[3::2]) for words in (line.split(b" ") for line in iter(client.line, b"END"))
    }


def test_prefixes_across_workers(daemon: Daemon) -> None:
    with ExitStack() as stack:
        clients = [stack.enter_context(Client(daemon)) for _ in range(2 * WORKERS)]
        clients[0].set(b"early:k", b"x")
        assert clients[0].ask(b"stats detail on") == b"OK"
        assert clients[-1].stats(b"settings")["detail_enabled"] == "yes"
        for client in clients:
            client.set(b"user:1", b"x")
            client.get(b"user:1")
            client.get(b"user:2")
            client.get(b"page:7:8")
            client.get(b"noprefix")
            client.ask(b"delete user:1")
            client.get(b":")
        many = len(clients)
        expected = {"user": (2 * many, many, many, many), "page": (many, 0, 0, 0), "": (many, 0, 0, 0)}
        assert [detail(client) for client in clients] == [expected] * many
        assert clients[1].ask(b"stats detail off") == b"OK"
        clients[2].get(b"user:1")
        assert detail(clients[3]) == expected


def test_prefixes_by_another_delimiter_from_the_start() -> None:
    with Daemon("-m", "64", "-D", "/", workers=2) as daemon, Client(daemon) as client:
        client.get(b"a/b:c")
        assert detail(client) == {"a": (1, 0, 0, 0)}
        assert client.stats(b"settings")["stat_key_prefix"] == "/"


def test_number_of_prefixes_is_bounded(daemon: Daemon) -> None:
    with Client(daemon) as client:
        client.ask(b"stats detail on")
        client.send(b"".join(b"get p%d:x\r\n" % number for number in range(5000)))
        for _ in range(5000):
            assert client.line() == b"END"
        assert 900 <= len(detail(client)) <= 1024


# sizes


def test_sizes_from_the_start() -> None:
    with Daemon("-m", "64", "-o", "track_sizes", workers=2) as daemon, Client(daemon) as client:
        assert client.stats(b"settings")["track_sizes"] == "yes"
        for number in range(100):
            client.set(b"k%02d" % number, b"x" * 5)  # 24 + 3 + 5 bytes
        for number in range(50):
            client.set(b"l%02d" % number, b"x" * 6)
        client.set(b"big", b"x" * 1000)
        assert client.stats(b"sizes") == {"32": "100", "64": "50", "1056": "1"}


# settings


def test_settings_of_the_crawler_are_all_workers(daemon: Daemon) -> None:
    names = ("lru_crawler", "lru_crawler_sleep", "lru_crawler_tocrawl")
    with ExitStack() as stack:
        clients = [stack.enter_context(Client(daemon)) for _ in range(WORKERS)]
        settings = clients[0].stats(b"settings")
        assert [settings[name] for name in names] == ["yes", "0", "0"]
        for command in (b"lru_crawler sleep 500", b"lru_crawler tocrawl 7", b"lru_crawler disable"):
            assert clients[0].ask(command) == b"OK"
        settings = clients[1].stats(b"settings")
        assert [settings[name] for name in names] == ["no", "500", "7"]
        assert clients[2].ask(b"lru_crawler metadump all") == b"CLIENT_ERROR lru crawler disabled"
