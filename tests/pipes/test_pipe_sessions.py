"""Sessions over named pipes: what a client asks, and what it is told of, by whatever door its keys change."""

from __future__ import annotations

import contextlib
import random
import time
from collections.abc import Callable, Iterator

import pytest
from support.client import Client
from support.pipes import DELETED, PipeDaemon, PipeUser, stopped, subscribe_message, unsubscribe_message, users
from support.supervision import await_line, said
from support.waiting import until

import memcache_shm
from memcache_shm.ops.pipe_hub import SUBSCRIPTIONS_MOST


@pytest.fixture
def user(piped: PipeDaemon, cache: memcache_shm.Cache) -> Iterator[PipeUser]:
    with piped.user() as user:
        yield user


def test_results(user: PipeUser, cache: memcache_shm.Cache) -> None:
    assert user.subscribe(b"key") == 0
    assert user.unsubscribe(b"key") == 1
    cache.set("key", b"1")
    assert user.subscribe(b"key") == 1
    assert user.subscribe(b"key") == 1
    assert user.unsubscribe(b"key") == 0
    assert user.unsubscribe(b"key") == 1
    assert user.subscribe(b"") == 0
    assert user.unsubscribe(b"") == 1
    assert user.disconnect() == 0
    assert user.answer() == b""


def test_what_is_not_there_is_not_subscribed(user: PipeUser, cache: memcache_shm.Cache) -> None:
    assert user.subscribe(b"key") == 0
    cache.set("key", b"1")
    cache.set("other", b"1")
    assert user.subscribe(b"other") == 1
    cache.set("other", b"2")
    assert user.note() == (b"other", b"2")


WAYS: dict[str, bytes] = {
    "set": b"set key 0 0 3\r\nnew\r\n",
    "add": b"delete other\r\nadd key 0 0 3\r\nnew\r\nset key 0 0 3\r\nnew\r\n",
    "replace": b"replace key 0 0 3\r\nnew\r\n",
    "append": b"append key 0 0 3\r\nnew\r\n",
    "prepend": b"prepend key 0 0 3\r\nnew\r\n",
    "incr": b"incr key 5\r\n",
    "decr": b"decr key 5\r\n",
    "ms": b"ms key 3\r\nnew\r\n",
    "ma": b"ma key\r\n",
    "simple": b"SET key 3\r\nnew\r\n",
    "delete": b"delete key\r\n",
    "md": b"md key\r\n",
    "simple delete": b"DELETE key\r\n",
    "flush": b"flush_all\r\n",
    "expired at once": b"touch key -1\r\n",
}
VALUES = {"append": b"10new", "prepend": b"new10", "incr": b"15", "decr": b"5 ", "ma": b"11"}


@pytest.mark.parametrize("door", ["tcp", "unix"])
@pytest.mark.parametrize("way", WAYS)
def test_changes_by_clients(piped: PipeDaemon, user: PipeUser, cache: memcache_shm.Cache, way: str, door: str) -> None:
    cache.set("key", b"10")
    assert user.subscribe(b"key") == 1
    gone = way in ("delete", "md", "simple delete", "flush", "expired at once")
    value = DELETED if gone else VALUES.get(way, b"new")
    with Client(piped, door) as client:
        client.send(WAYS[way])
        assert user.note() == (b"key", value)
        client.set(b"key", b"last")
    if gone:
        assert user.unsubscribe(b"key") == 1
        assert user.is_quiet()
    else:
        assert user.note() == (b"key", b"last")


ATTACHED: dict[str, tuple[Callable[[memcache_shm.Cache], object], bytes]] = {
    "set": (lambda cache: cache.set("key", b"new"), b"new"),
    "append": (lambda cache: cache.append("key", b"!"), b"10!"),
    "incr": (lambda cache: cache.incr("key", 1), b"11"),
    "cas": (lambda cache: cache.cas("key", b"new", cache.gets("key")[1]), b"new"),
    "delete": (lambda cache: cache.delete("key"), DELETED),
    "flush": (lambda cache: cache.flush_all(), DELETED),
    "touch to the past": (lambda cache: cache.touch("key", -1), DELETED),
    "set that is over": (lambda cache: cache.set("key", b"new", expire=-1), DELETED),
}


@pytest.mark.parametrize("way", ATTACHED)
def test_changes_by_attached_programs(user: PipeUser, cache: memcache_shm.Cache, way: str) -> None:
    change, value = ATTACHED[way]
    cache.set("key", b"10")
    assert user.subscribe(b"key") == 1
    change(cache)
    assert user.note() == (b"key", value)


def test_keys_of_any_bytes_and_long_values(piped: PipeDaemon, user: PipeUser, cache: memcache_shm.Cache) -> None:
    with Client(piped) as client:
        assert client.ask(b"ms /wEgKg== 3 b\r\nodd") == b"HD"  # ff 01 20 2a
        assert user.subscribe(b"\xff\x01 *") == 1
        client.ask(b"ms /wEgKg== 50 b\r\n" + 50 * b"x")
    assert user.note() == (b"\xff\x01 *", 40 * b"x")
    longest = 40 * "k"
    cache.set(longest, b"")
    assert user.subscribe(longest.encode()) == 1
    cache.set(longest, b"x" * 100_000)
    assert user.note() == (longest.encode(), 40 * b"x")
    cache.set(longest, b"")
    assert user.note() == (longest.encode(), b"")
    cache.set(longest + "k", b"another key")
    cache.set(longest, b"DELETED")  # a value like others
    assert user.note() == (longest.encode(), DELETED)
    assert user.unsubscribe(longest.encode()) == 0


def test_expiry_without_any_traffic(user: PipeUser, cache: memcache_shm.Cache) -> None:
    cache.set("key", b"1", expire=1)
    assert user.subscribe(b"key") == 1
    began_s = time.monotonic()
    assert user.note() == (b"key", DELETED)
    assert time.monotonic() - began_s < 4.0
    assert user.unsubscribe(b"key") == 1


def test_an_expiry_that_comes_later_and_goes(user: PipeUser, cache: memcache_shm.Cache) -> None:
    """A touch is no change of the value, but what it leads to is told."""
    cache.set("stays", b"1", expire=1)
    cache.set("goes", b"1")
    assert user.subscribe(b"stays") == 1
    assert user.subscribe(b"goes") == 1
    cache.touch("stays", 0)
    cache.touch("goes", 1)
    assert user.note() == (b"goes", DELETED)
    cache.set("stays", b"2")
    assert user.note() == (b"stays", b"2")


def test_eviction() -> None:
    with PipeDaemon("8", "100") as daemon, memcache_shm.attach(daemon.name) as cache, daemon.user() as user:
        cache.set("key", b"1")
        assert user.subscribe(b"key") == 1
        for number in range(100):
            cache.set(f"other{number}", b"x")
        assert user.note() == (b"key", DELETED)
        assert cache.get("key") is None


def test_a_key_that_went_and_came_again(user: PipeUser, cache: memcache_shm.Cache) -> None:
    """It went, however soon it is there again; what happened before the new subscription is not told to that one."""
    for _ in range(200):
        cache.set("key", b"old")
        assert user.subscribe(b"key") == 1
        cache.delete("key")
        cache.set("key", b"new")
        assert user.subscribe(b"key") == 1
        cache.set("key", b"newest")
        before = [value for _, value in user.notes_until(b"key", b"newest")[:-1]]
        assert before in ([], [DELETED], [b"new"]), before
        assert user.unsubscribe(b"key") == 0


def test_flushed_and_set_again(user: PipeUser, cache: memcache_shm.Cache) -> None:
    for number in range(50):
        cache.set("key", b"old")
        assert user.subscribe(b"key") == 1
        cache.flush_all()
        cache.set("key", b"new")
        assert user.note() == (b"key", DELETED), number
        assert user.unsubscribe(b"key") == 1


def test_nothing_after_unsubscribe(user: PipeUser, cache: memcache_shm.Cache) -> None:
    cache.set_many({"a": b"1", "b": b"1"})
    assert (user.subscribe(b"a"), user.subscribe(b"b"), user.unsubscribe(b"a")) == (1, 1, 0)
    cache.set("a", b"2")
    cache.delete("a")
    cache.set("b", b"2")
    assert user.note() == (b"b", b"2")
    assert user.is_quiet()


def test_the_last_of_many_changes(user: PipeUser, cache: memcache_shm.Cache) -> None:
    """More than the feed holds, too."""
    cache.set("key", b"0")
    assert user.subscribe(b"key") == 1
    for number in range(200_000):
        cache.set("key", b"%d" % number)
    cache.set("key", b"last")
    values = [int(value) for _, value in user.notes_until(b"key", b"last")[:-1]]
    assert values == sorted(set(values))


def test_what_happened_while_the_server_was_stopped() -> None:
    """More than the feed holds: what is there by now is told, and what is not; what did not change is not told."""
    with PipeDaemon("-m", "16", "--feed", "64k") as daemon, memcache_shm.attach(daemon.name) as cache, daemon.user() as user:
        for key in ("changed", "gone", "same", "expired"):
            cache.set(key, b"1", expire=1 if key == "expired" else 0)
            assert user.subscribe(key.encode()) == 1
        with stopped(daemon.pipe_server):
            cache.set("changed", b"2")
            cache.delete("gone")
            for number in range(20_000):
                cache.set(f"other{number % 100}", b"x")
            until(lambda: cache.get("expired") is None, "the expiry")
        assert {user.note() for _ in range(3)} == {(b"changed", b"2"), (b"gone", DELETED), (b"expired", DELETED)}
        cache.set("changed", b"3")
        assert user.note() == (b"changed", b"3")
        assert user.unsubscribe(b"gone") == 1
        assert user.unsubscribe(b"same") == 0


def test_all_sessions_that_subscribed_are_told(piped: PipeDaemon, cache: memcache_shm.Cache) -> None:
    cache.set_many({"both": b"1", "first": b"1"})
    with users(piped, 2) as (first, second):
        for user, key in ((first, b"both"), (second, b"both"), (first, b"first")):
            assert user.subscribe(key) == 1
        cache.set("first", b"2")
        cache.set("both", b"2")
        assert dict([first.note(), first.note()]) == {b"first": b"2", b"both": b"2"}
        assert second.note() == (b"both", b"2")
        first.close()
        cache.delete("both")
        assert second.note() == (b"both", DELETED)


def test_requests_in_one_write_and_byte_by_byte(user: PipeUser, cache: memcache_shm.Cache) -> None:
    cache.set_many({"a": b"1", "b": b"1"})
    messages = subscribe_message(b"a") + subscribe_message(b"none") + unsubscribe_message(b"a") + unsubscribe_message(b"a")
    expected = b"\3\1" + b"\3\0" + b"\4\0" + b"\4\1"
    user.send(messages)
    assert b"".join(user.answer() for _ in range(4)) == expected
    for byte in messages:
        user.send(bytes([byte]))
    assert b"".join(user.answer() for _ in range(4)) == expected
    chance = random.Random(1)
    for _ in range(30):
        cut = chance.randrange(len(messages))
        user.send(messages[:cut])
        user.send(messages[cut:])
        assert b"".join(user.answer() for _ in range(4)) == expected


BAD = {
    "unknown code": (b"\7", "a bad message: unknown code 7"),
    "connect again": (b"\1", "a bad message: unknown code 1"),
    "text": (b"SUBSCRIBE [key]\n", "a bad message: unknown code 83"),
    "unterminated": (b"\3" + 41 * b"k", "a bad message: a key of subscribe without a NUL behind it"),
    "unterminated unsubscribe": (b"\4" + 41 * b"k", "a bad message: a key of unsubscribe without a NUL behind it"),
    "padding": (b"\3k\0x" + 38 * b"\0", "a bad message: a key of subscribe that is not padded with NUL"),
    "short": (b"\3key", "sent a part of a message only within 5 s"),
}


@pytest.mark.parametrize("what", BAD)
def test_bad_messages_end_their_session_alone(piped: PipeDaemon, user: PipeUser, cache: memcache_shm.Cache, what: str) -> None:
    message, reason = BAD[what]
    cache.set("key", b"1")
    with piped.user() as other:
        assert other.subscribe(b"key") == 1
        assert user.subscribe(b"key") == 1
        user.send(message)
        assert user.ends()
        await_line(piped, f"pipe session of {user.pipes.paths[0].decode()}: {reason}; ended")
        cache.set("key", b"2")
        assert other.note() == (b"key", b"2")


def test_clients_that_leave_without_a_word(piped: PipeDaemon, cache: memcache_shm.Cache) -> None:
    cache.set("key", b"1")
    with piped.user() as other:
        assert other.subscribe(b"key") == 1
        for _ in range(20):  # more than there are places
            leaving = piped.user()
            assert leaving.subscribe(b"key") == 1
            leaving.close()
        name = leaving.pipes.paths[0].decode()
        await_line(piped, f"pipe session of {name}: it(s responses have no reader any more| is gone without disconnect); ended")
        cache.set("key", b"2")
        assert other.note() == (b"key", b"2")


def test_a_disconnect_whose_answer_nobody_awaits_is_no_trouble(piped: PipeDaemon, cache: memcache_shm.Cache) -> None:
    with piped.user() as user:
        user.send(b"\2")
        user.close()
    with piped.user() as other:
        assert other.disconnect() == 0
    assert not said(piped, user.pipes.paths[0].decode())


def test_fuzz_of_the_requests(piped: PipeDaemon, cache: memcache_shm.Cache) -> None:
    """Whatever a client sends, others are served."""
    chance = random.Random(7)
    parts = [subscribe_message(b"key"), unsubscribe_message(b"key"), b"\3", b"\2", b"\0" * 41, b"\1", 41 * b"\xff"]
    cache.set("key", b"1")
    with piped.user() as other:
        assert other.subscribe(b"key") == 1
        for number in range(100):
            with piped.user() as user, contextlib.suppress(BrokenPipeError, BlockingIOError):
                for part in chance.choices(parts, k=chance.randrange(1, 6)):
                    user.send(part[: chance.randrange(1, len(part) + 1)])
            cache.set("key", b"%d" % number)
            other.notes_until(b"key", b"%d" % number)


def test_more_keys_than_a_session_may_have(piped: PipeDaemon, user: PipeUser, cache: memcache_shm.Cache) -> None:
    cache.set_many({f"key{number}": b"1" for number in range(SUBSCRIPTIONS_MOST + 1)})
    results = [user.subscribe(b"key%d" % number) for number in range(SUBSCRIPTIONS_MOST + 1)]
    assert results == [1] * SUBSCRIPTIONS_MOST + [0]
    await_line(piped, f"more than {SUBSCRIPTIONS_MOST} keys, the others are refused")
    assert user.subscribe(b"key0") == 1
    cache.flush_all()
    assert {user.note() for _ in range(SUBSCRIPTIONS_MOST)} == {(b"key%d" % number, DELETED) for number in range(SUBSCRIPTIONS_MOST)}


def test_the_feed_rests_while_nobody_is_subscribed(piped: PipeDaemon, cache: memcache_shm.Cache) -> None:
    """Writers pay for a feed only while somebody listens."""
    cache.set("key", b"1")

    def is_heard() -> bool:
        cache.set("other", b"1")  # a writer notices that nobody listens any more
        with Client(piped) as client:
            return client.stats(b"shm")["shm_feed_heard"] == "1"

    with piped.user() as user:
        assert user.subscribe(b"key") == 1
        assert is_heard()
        assert user.unsubscribe(b"key") == 0
        until(lambda: not is_heard(), "the lease to run out", 12.0)
        assert user.subscribe(b"key") == 1
        cache.set("key", b"2")
        assert user.note() == (b"key", b"2")
