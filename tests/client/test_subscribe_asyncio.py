"""Subscriptions in coroutines: the event loop goes on, a cancelled wait loses nothing, an end is an end."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Coroutine
from typing import Any

import pytest

import memcache_shm
from memcache_shm import Change

Cache = memcache_shm.Cache
LIMIT_S = 20.0


def run(work: Coroutine[Any, Any, object]) -> None:
    async def limited() -> None:
        await asyncio.wait_for(work, LIMIT_S)

    asyncio.run(limited())


async def hear(sub: memcache_shm.Subscription, count: int) -> list[Change]:
    heard = []
    async for change in sub:
        heard.append(change)
        if len(heard) == count:
            break
    return heard


def test_changes_come_while_others_run(roomy: Cache) -> None:
    async def work() -> None:
        with roomy.subscribe("key*") as sub:
            task = asyncio.create_task(hear(sub, 100))
            for number in range(100):
                await asyncio.sleep(0)
                roomy.set(f"key{number}", b"x")
            assert [change.key for change in await task] == [b"key%d" % number for number in range(100)]

    run(work())


def test_a_flood_leaves_others_their_turn(roomy: Cache) -> None:
    async def work() -> None:
        with roomy.subscribe() as sub:
            for number in range(5000):
                roomy.set(f"key{number}", b"x")
            task = asyncio.create_task(hear(sub, 1000))
            turns = 0
            while not task.done():
                await asyncio.sleep(0)
                turns += 1
            assert turns > 10

    run(work())


def test_cancelled_waits_lose_nothing(roomy: Cache) -> None:
    async def work() -> None:
        heard: list[Change] = []
        with roomy.subscribe("key*") as sub:
            over = threading.Event()

            def write() -> None:
                for number in range(2000):
                    roomy.set(f"key{number}", b"x")
                    over.wait(0.0001)  # so that there are waits between the changes

            for _ in range(5):
                with pytest.raises(asyncio.TimeoutError):
                    await asyncio.wait_for(anext(sub), 0.0005)
            writer = threading.Thread(target=write)
            writer.start()
            while len(heard) < 2000:
                with contextlib.suppress(asyncio.TimeoutError):
                    heard.append(await asyncio.wait_for(anext(sub), 0.0005))
            writer.join()
        assert [change.key for change in heard] == [b"key%d" % number for number in range(2000)]

    run(work())


@pytest.mark.parametrize("what", ["subscription", "cache"])
def test_closing_ends_the_loop(cache: Cache, what: str) -> None:
    async def work() -> None:
        own = memcache_shm.attach("test")
        sub = own.subscribe("key")
        task = asyncio.create_task(hear(sub, 10))
        await asyncio.sleep(0.05)
        assert not task.done()
        (sub if what == "subscription" else own).close()
        assert await task == []
        assert await hear(sub, 1) == []
        sub.close()

    run(work())


def test_a_removed_table_is_an_error(cache: Cache) -> None:
    async def work() -> None:
        with cache.subscribe("key") as sub:
            task = asyncio.create_task(hear(sub, 1))
            await asyncio.sleep(0.05)
            memcache_shm.unlink("test")
            with pytest.raises(memcache_shm.TableRemovedError):
                await task

    run(work())


def test_many_at_a_time(roomy: Cache) -> None:
    """More than the loop's own executor has threads."""

    async def work() -> None:
        with contextlib.ExitStack() as stack:
            subs = [stack.enter_context(roomy.subscribe(f"key{number}")) for number in range(50)]
            tasks = [asyncio.create_task(hear(sub, 1)) for sub in subs]
            await asyncio.sleep(0.05)
            for number in range(50):
                roomy.set(f"key{number}", b"%d" % number)
            told = await asyncio.gather(*tasks)
            assert [changes[0].value for changes in told] == [b"%d" % number for number in range(50)]

    run(work())


def test_threads_end_with_their_subscriptions(cache: Cache) -> None:
    async def work() -> None:
        with cache.subscribe("key") as sub:
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(anext(sub), 0.01)
            assert [thread for thread in threading.enumerate() if "subscription" in thread.name]

    run(work())
    for thread in threading.enumerate():
        if "subscription" in thread.name:
            thread.join(5)
            assert not thread.is_alive()
