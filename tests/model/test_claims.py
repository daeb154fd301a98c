"""Meta commands against a model of one item: stale, won, made anew, vivified, counted, with CAS ids of both kinds.

Two doors of one process lead to the table. Time: an item is either far from its expiry or past it, and recache times are far from both.
"""

from __future__ import annotations

import itertools
import os
import re
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule, run_state_machine_as_test
from support.doors import open_door

import memcache_shm

FAR_S, NEAR_S = 9000, 3000
LATER_S, SOONER_S = 5000, 100  # recache times: one finds NEAR due, the other finds nothing due
EXAMPLES = 60
names = itertools.count()

TABLES = {
    "memory": {"memory": "1m", "max_item": "64k"},
    "elements": {"elements": 8, "element_size": 100},
}
keys = st.sampled_from([b"a", b"b", b"c"])
values = st.sampled_from([b"", b"x", b"7", b"99", b"y" * 90])
expiries = st.sampled_from([0, NEAR_S, FAR_S])
explicit = st.one_of(st.none(), st.integers(2**40, 2**64 - 1))  # above any id of the table's own
LINE = re.compile(rb"(HD|VA \d+|EX|NF|NS|EN)((?: \S+)*)\r\n(.*)", re.DOTALL)


@dataclass
class Item:
    value: bytes
    flags: int = 0
    expire: int = 0
    cas: int = 0
    stale: bool = False
    won: bool = False
    fetched: bool = False


class Claims(RuleBasedStateMachine):
    options: dict[str, Any]

    def __init__(self) -> None:
        super().__init__()
        self.items: dict[bytes, Item] = {}

    @initialize()
    def open(self) -> None:
        self.cache = memcache_shm.open(f"claims-{os.getpid()}-{next(names)}", **self.options)
        self.other = memcache_shm.attach(self.cache.name)
        self.doors = [open_door(cache.attached_table) for cache in (self.cache, self.other)]
        self.turn = 0

    def say(self, request: bytes) -> tuple[bytes, dict[bytes, bytes], bytes | None]:
        """Status, flags of the reply, value; through one door after the other."""
        self.turn += 1
        reply = self.doors[self.turn % 2].answer(request)
        match = LINE.fullmatch(reply)
        assert match, reply
        value = match[3][:-2] if match[1].startswith(b"VA") else None
        assert value is None or b"VA %d" % len(value) == match[1]
        return match[1][:2], {word[:1]: word[1:] for word in match[2].split()}, value

    def written(self, key: bytes, item: Item, told: dict[bytes, bytes], chosen: int | None) -> None:
        """A record was made anew: its CAS id is the one asked for, or a fresh one."""
        item.cas = int(told[b"c"])
        if chosen is not None:
            assert item.cas == chosen
        elif key in self.items:
            assert item.cas != self.items[key].cas
        self.items[key] = item

    def look(self, key: bytes) -> int:
        """The item's CAS id, without a trace; with all there is to see of it."""
        status, told, value = self.say(b"mg %s u v f c t h\r\n" % key)
        item = self.items.get(key)
        if item is None:
            assert status == b"EN"
            return 0
        assert (status, value, int(told[b"f"])) == (b"VA", item.value, item.flags)
        assert told[b"h"] == b"%d" % item.fetched
        assert -1 <= int(told[b"t"]) - (item.expire or -1) + 1 <= 1
        self.check_claim(item, told, due=False)
        return int(told[b"c"])

    def check_claim(self, item: Item, told: dict[bytes, bytes], due: bool) -> None:
        """Whether the reply tells of winning what it should; then somebody has won."""
        wins = not item.won and (item.stale or due)
        assert (b"W" in told, b"Z" in told, b"X" in told) == (wins, item.won, item.stale)
        item.won |= wins

    # Rules

    @rule(key=keys)
    def see(self, key: bytes) -> None:
        cas = self.look(key)
        assert key not in self.items or cas == self.items[key].cas

    @rule(key=keys, recache=st.sampled_from([None, SOONER_S, LATER_S]), touch=st.one_of(st.none(), expiries), first=st.booleans())
    def get(self, key: bytes, recache: int | None, touch: int | None, first: bool) -> None:
        flags = [b"R%d" % recache] if recache is not None else []
        if touch is not None:
            flags.insert(0 if first else len(flags), b"T%d" % touch)
        status, told, value = self.say(b"mg %s v %s\r\n" % (key, b" ".join(flags)))
        item = self.items.get(key)
        if item is None:
            assert status == b"EN"
            return
        assert value == item.value
        before = item.expire
        if touch is not None:
            item.expire = touch
        compared = item.expire if first else before
        self.check_claim(item, told, due=recache is not None and 0 < compared < recache)
        item.fetched = True

    @rule(key=keys, birth=expiries)
    def vivify(self, key: bytes, birth: int) -> None:
        status, told, value = self.say(b"mg %s N%d v c\r\n" % (key, birth))
        assert status == b"VA"
        if key in self.items:
            assert value == self.items[key].value
            self.check_claim(self.items[key], told, due=False)
            self.items[key].fetched = True
        else:
            assert (value, b"W" in told, b"Z" in told) == (b"", True, False)
            self.written(key, Item(b"", expire=birth, won=True, fetched=True), told, None)

    @rule(key=keys, value=values, flags=st.sampled_from([0, 5]), expire=expiries, chosen=explicit)
    def set(self, key: bytes, value: bytes, flags: int, expire: int, chosen: int | None) -> None:
        extra = b"" if chosen is None else b" E%d" % chosen
        status, told, _ = self.say(b"ms %s %d F%d T%d c%s\r\n%s\r\n" % (key, len(value), flags, expire, extra, value))
        assert status == b"HD"
        self.written(key, Item(value, flags, expire), told, chosen)

    @rule(key=keys, value=values, older=st.integers(-1, 1), late=st.booleans(), chosen=explicit)
    def recache(self, key: bytes, value: bytes, older: int, late: bool, chosen: int | None) -> None:
        """A store for the item that was seen, for one before it or after it."""
        compare = min(max(self.look(key) + older, 1), 2**64 - 1)
        extra = (b" I" if late else b"") + (b"" if chosen is None else b" E%d" % chosen)
        status, told, _ = self.say(b"ms %s %d c C%d%s\r\n%s\r\n" % (key, len(value), compare, extra, value))
        item = self.items.get(key)
        if item is None:
            assert status == b"NF"
        elif compare == item.cas:
            assert status == b"HD"
            self.written(key, Item(value), told, chosen)
        elif late and compare < item.cas:
            assert status == b"HD"
            self.written(key, Item(value, expire=item.expire, stale=True, won=item.won), told, chosen)
        else:
            assert status == b"EX"

    @rule(key=keys, expire=st.one_of(st.none(), expiries), empty=st.booleans(), stale=st.booleans(), chosen=explicit)
    def invalidate(self, key: bytes, expire: int | None, empty: bool, stale: bool, chosen: int | None) -> None:
        flags = [b"x"] * empty + [b"I"] * stale
        flags += [b"T%d" % expire] if expire is not None else []
        flags += [b"E%d" % chosen] if chosen is not None and flags else []
        status, _, _ = self.say(b"md %s %s\r\n" % (key, b" ".join(flags)))
        item = self.items.pop(key, None)
        assert status == (b"NF" if item is None else b"HD")
        if item is None or not (empty or stale):
            return
        if empty:
            after = Item(b"", expire=expire or 0, stale=stale, cas=item.cas)
        else:
            after = Item(item.value, item.flags, item.expire if expire is None else expire, stale=True, fetched=item.fetched)
        self.items[key] = after
        _, told, _ = self.say(b"mg %s u c T%d\r\n" % (key, after.expire))
        self.check_claim(after, told, due=False)
        cas = int(told[b"c"])
        assert cas == chosen if chosen is not None else (cas != item.cas) == stale
        after.cas = cas

    @rule(key=keys, down=st.booleans(), birth=st.one_of(st.none(), expiries), chosen=explicit)
    def count(self, key: bytes, down: bool, birth: int | None, chosen: int | None) -> None:
        item = self.items.get(key)
        if item is not None and not item.value.strip().isdigit():
            return
        flags = (b" MD" if down else b"") + (b"" if birth is None else b" N%d J8" % birth) + (b"" if chosen is None else b" E%d" % chosen)
        status, told, value = self.say(b"ma %s v c%s\r\n" % (key, flags))
        if item is None and birth is None:
            assert status == b"NF"
        elif item is None:
            assert value == b"8"
            self.written(key, Item(b"8", expire=birth or 0), told, chosen)
        else:
            number = b"%d" % (max(int(item.value) - 1, 0) if down else int(item.value) + 1)
            assert value == number
            stays = len(number) <= len(item.value)
            after = Item(number.ljust(len(item.value)), item.flags, item.expire)
            if stays:
                after.stale, after.won, after.fetched = item.stale, item.won, item.fetched
            self.written(key, after, told, chosen)

    @rule(key=keys, value=st.sampled_from([b"", b"1"]), front=st.booleans(), birth=st.one_of(st.none(), expiries))
    def extend(self, key: bytes, value: bytes, front: bool, birth: int | None) -> None:
        item = self.items.get(key)
        if item is not None and len(item.value) > 95:
            return
        flags = (b"MP" if front else b"MA") + (b"" if birth is None else b" N%d" % birth)
        status, told, _ = self.say(b"ms %s %d s c F3 %s\r\n%s\r\n" % (key, len(value), flags, value))
        if item is None and birth is None:
            assert status == b"NS"
            return
        whole = value if item is None else value + item.value if front else item.value + value
        assert (status, told[b"s"]) == (b"HD", b"%d" % len(whole))
        after = Item(whole, 3, birth or 0) if item is None else Item(whole, item.flags, item.expire)
        self.written(key, after, told, None)

    @rule(key=keys)
    def expire(self, key: bytes) -> None:
        self.cache.touch(key, -1)
        self.items.pop(key, None)

    @rule()
    def flush(self) -> None:
        self.cache.flush_all()
        self.items.clear()

    def teardown(self) -> None:
        if not hasattr(self, "cache"):
            return
        try:
            for key in (b"a", b"b", b"c"):
                self.see(key)
        finally:
            name = self.cache.name
            del self.doors
            self.cache.close()
            self.other.close()
            memcache_shm.unlink(name)


@pytest.mark.parametrize("name", TABLES)
def test_claims(state_dir: object, name: str) -> None:
    machine = type(name, (Claims,), {"options": TABLES[name]})
    run_state_machine_as_test(machine, settings=settings(max_examples=EXAMPLES, stateful_step_count=60, deadline=None))
