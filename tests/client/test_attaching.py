"""Coming and going: open, attach, unlink, close; processes and threads; tables that are removed underneath."""

from __future__ import annotations

import multiprocessing
import pickle
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

import memcache_shm


def test_open_makes_then_attaches(state_dir: Path) -> None:
    first = memcache_shm.open("app", memory="1m", max_item="1k")
    second = memcache_shm.open("app", memory=2**20, max_item=1024)
    whatever = memcache_shm.open("app")
    first.set("key", b"value")
    assert second.get("key") == whatever.get("key") == memcache_shm.attach("app").get("key") == b"value"


@pytest.mark.parametrize("arguments", [{"memory": "2m", "max_item": "1k"}, {"elements": 10, "element_size": 10}])
def test_open_with_other_geometry(state_dir: Path, arguments: dict[str, str]) -> None:
    memcache_shm.open("app", memory="1m", max_item="1k")
    with pytest.raises(memcache_shm.TableExistsError, match="memcache-shm rm app"):
        memcache_shm.open("app", **arguments)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "arguments",
    [
        {"memory": "1q"},
        {"memory": True},
        {"memory": "1k"},
        {"memory": "1m", "max_item": "2m"},
        {"elements": 10},
        {"element_size": 10},
        {"elements": 10, "element_size": 10, "memory": "1m"},
        {"elements": 0, "element_size": 10},
        {"elements": 10, "element_size": 0},
    ],
)
def test_open_with_impossible_geometry(state_dir: Path, arguments: dict[str, str]) -> None:
    with pytest.raises(memcache_shm.IllegalInputError):
        memcache_shm.open("app", **arguments)  # type: ignore[arg-type]
    assert not state_dir.exists()


@pytest.mark.parametrize(
    "arguments",
    [
        {"memory": []},
        {"memory": 1.5},
        {"memory": "1m", "max_item": b"1k"},
        {"element_size": 10, "elements": "x"},
        {"element_size": 10, "elements": 1.5},
        {"element_size": 10, "elements": True},
        {"elements": 10, "element_size": 10.0},
        {"mode": "x"},
        {"mode": True},
        {"mode": None},
        {"mode": -1},
        {"mode": 0o1600},
        {"mode": 0o066},
        {"mode": 0o400},
        {"serde": 5},
        {"serde": pickle},
        {"key_prefix": "\xe9"},
        {"encoding": 5},
        {"encoding": "no-such-codec"},
        {"encoding": "a\0b"},
    ],
    ids=str,
)
def test_open_with_arguments_of_no_sense(state_dir: Path, arguments: dict[str, Any]) -> None:
    """Refused in one line that names the argument, before anything is made."""
    name = next(reversed(arguments))
    with pytest.raises(memcache_shm.IllegalInputError, match=name) as refusal:
        memcache_shm.open("app", **arguments)
    assert "\n" not in str(refusal.value)
    assert not state_dir.exists()


@pytest.mark.parametrize(
    "arguments", [{"user": []}, {"user": 1.5}, {"user": True}, {"user": "a\0b"}, {"serde": 5}, {"encoding": None}], ids=str
)
def test_attach_with_arguments_of_no_sense(cache: memcache_shm.Cache, arguments: dict[str, Any]) -> None:
    with pytest.raises(memcache_shm.IllegalInputError, match=next(iter(arguments))):
        memcache_shm.attach("test", **arguments)


def test_key_prefix_is_refused_as_pymemcache_does(state_dir: Path) -> None:
    with pytest.raises(TypeError, match="key_prefix"):
        memcache_shm.open("app", key_prefix=5)  # type: ignore[arg-type]
    assert not state_dir.exists()


@pytest.mark.parametrize("name", ["", "a/b", "..", ".hidden", "-x", "a b", "x" * 201, "a\n", 5, None, b"app"])
def test_impossible_names(state_dir: Path, name: Any) -> None:
    for call in (memcache_shm.open, memcache_shm.attach, memcache_shm.unlink):
        with pytest.raises(memcache_shm.IllegalInputError, match="name"):
            call(name)


def test_attach_what_is_not_there(state_dir: Path) -> None:
    with pytest.raises(memcache_shm.TableNotFoundError, match="start a daemon"):
        memcache_shm.attach("app")
    with pytest.raises(memcache_shm.TableNotFoundError, match="memcache-shm ls"):
        memcache_shm.unlink("app")
    with pytest.raises(memcache_shm.IllegalInputError, match="user"):
        memcache_shm.attach("app", user="no-such-user")


def test_close(cache: memcache_shm.Cache) -> None:
    cache.set("key", b"1")
    cache.close()
    cache.close()
    for call in (lambda: cache.get("key"), lambda: cache.set("key", b""), lambda: len(cache), cache.flush_all, cache.stats):
        with pytest.raises(memcache_shm.ClosedError, match="test"):
            call()
    assert memcache_shm.attach("test").get("key") == b"1"


def test_read_only(cache: memcache_shm.Cache) -> None:
    cache.set("key", b"1")
    reader = memcache_shm.attach("test", readonly=True)
    assert reader.readonly
    assert reader.get("key") == reader["key"] == b"1"
    assert reader.gets("key") == cache.gets("key")
    assert len(reader) == 1
    for call in (
        lambda: reader.set("key", b"2"),
        lambda: reader.delete("key"),
        lambda: reader.incr("key", 1),
        lambda: reader.touch("key"),
        lambda: reader.gat("key", 1),
        reader.flush_all,
    ):
        with pytest.raises(memcache_shm.ReadOnlyError, match="readonly=True"):
            call()
    assert reader.get("key") == b"1"


def test_removed_and_made_again(cache: memcache_shm.Cache) -> None:
    reader = memcache_shm.attach("test", readonly=True)
    lenient = memcache_shm.attach("test", ignore_exc=True)
    cache.set("key", b"1")
    memcache_shm.unlink("test")
    for call in (lambda: cache.get("key"), lambda: cache.set("key", b"2"), lambda: cache.incr("key", 1), cache.flush_all):
        with pytest.raises(memcache_shm.TableRemovedError, match="test"):
            call()
    with pytest.raises(memcache_shm.TableRemovedError):
        reader.get("key")
    assert lenient.get("key", 5) == 5
    assert lenient.get_many(["key"]) == {}
    anew = memcache_shm.open("test", memory="1m", max_item="64k")
    assert cache.get("key") is None
    assert cache.set("key", b"3") is True
    assert anew.get("key") == reader.get("key") == lenient.get("key") == b"3"


def _in_a_forked_child(cache: memcache_shm.Cache) -> None:
    assert cache.get("key") == b"parent"
    assert cache.set("key", b"child")
    assert cache.add("new", b"1")


def test_after_fork(cache: memcache_shm.Cache) -> None:
    cache.set("key", b"parent")
    child = multiprocessing.get_context("fork").Process(target=_in_a_forked_child, args=(cache,))
    child.start()
    child.join()
    assert child.exitcode == 0
    assert cache.get("key") == b"child"
    assert cache.set("key", b"parent again") is True


def test_in_spawned_child(cache: memcache_shm.Cache) -> None:
    """What multiprocessing's spawn does: a new interpreter gets the pickled object."""
    script = """
import pickle, sys
cache = pickle.load(sys.stdin.buffer)
print(cache.get("key"), cache.set("key", b"child"), cache.get_many(["key"]), cache)
"""
    cache.set("key", b"parent")
    child = subprocess.run([sys.executable, "-c", script], input=pickle.dumps(cache), capture_output=True, check=True)
    assert child.stdout.decode() == "b'parent' True {'key': b'child'} <memcache_shm.Cache 'test'>\n"
    assert cache.get("key") == b"child"


def test_pickle_keeps_options(cache: memcache_shm.Cache, monkeypatch: pytest.MonkeyPatch) -> None:
    reader = memcache_shm.attach("test", readonly=True, key_prefix="p:", default_noreply=True, encoding="latin-1")
    data = pickle.dumps(reader)
    with monkeypatch.context() as elsewhere:
        elsewhere.setenv("MEMCACHE_SHM_DIR", "/nowhere")
        again = pickle.loads(data)
    assert again.readonly
    assert again.options == reader.options


def test_threads_share_one_object(cache: memcache_shm.Cache) -> None:
    wrong: list[object] = []
    threads, rounds = 8, 300

    def work(number: int) -> None:
        value = bytes([number]) * 40_000
        for turn in range(rounds):
            cache.set(f"own{number}", str(turn))
            if cache.get(f"own{number}") != str(turn).encode():
                wrong.append((number, turn))
            cache.incr("sum", 1)
            cache.set("big", value)
            big = cache.get("big")
            if big is not None and len(set(big)) != 1:
                wrong.append("torn")

    cache.set("sum", b"0")
    running = [threading.Thread(target=work, args=(n,)) for n in range(threads)]
    for thread in running:
        thread.start()
    for thread in running:
        thread.join()
    assert wrong == []
    assert cache.get("sum") == str(threads * rounds).encode()


def test_close_while_others_read(cache: memcache_shm.Cache) -> None:
    cache.set("key", b"x" * 60_000)
    outcomes: list[object] = []
    started = threading.Barrier(5)

    def work() -> None:
        started.wait()
        try:
            while True:
                assert cache.get("key") == b"x" * 60_000
        except memcache_shm.MemcacheError as error:
            outcomes.append(type(error))

    running = [threading.Thread(target=work) for _ in range(4)]
    for thread in running:
        thread.start()
    started.wait()
    cache.close()
    for thread in running:
        thread.join()
    assert outcomes == [memcache_shm.ClosedError] * 4
