"""Random sequences of classic and meta commands: mostly sensible, often at a boundary, sometimes plainly wrong.

A step is one command, its data block included, on one of two connections. `{cas:KEY}` in a command stands for the CAS id that
the server last told for the key.

Left out is what two correct servers may answer differently: anything that depends on the second in which it runs, upper-case
words (the simple dialect), sizes within a few hundred bytes of the item limit, flags over 32 bits
(memcached cuts them silently), numbers in the front of long data or above 2^63.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass

from differential.meta_commands import MEET_BINARY_KEYS, MetaCommands

CONNECTIONS = 2
LONG_KEY = b"L" * 250
KEYS = [b"k%d" % number for number in range(8)] + [b"\x01\x7f", b"\xff\xfe\x80", LONG_KEY]
COUNTED_KEYS = KEYS[:4]
GROWING_KEYS = KEYS[4:10]
BAD_KEYS = [b"B" * 251, b"B" * 1000]
MAX_VALUE_BYTES = 500_000
TOO_LARGE_BYTES = 1_100_000

_WHOLE = [b"set", b"add", b"replace"]
_FLAGS = [b"0", b"1", b"4294967295", b"65536"]
_BAD_FLAGS = [b"-1", b"x", b"1x"]
_EXPIRIES = [b"0", b"0", b"0", b"100", b"2592000", b"-1", b"2592001", b"4102444800"]
_BAD_EXPIRIES = [b"x", b"1x"]
_DELTAS = [b"0", b"1", b"7", b"99"]
_LARGE_DELTAS = [b"18446744073709551615", b"9223372036854775808"]
_BAD_DELTAS = [b"18446744073709551616", b"-1", b"x", b"1x", b"1.5"]
_NUMBERS = [b"0", b"1", b"9", b"10", b"100", b"4611686018427387904", b"007"]
_NO_NUMBERS = [b"", b"ten", b"1x", b"-1", b"18446744073709551616", b"12345678901234567890123"]
_UNKNOWN = [b"", b"foo", b"foo bar baz", b"getx k1", b"se k1 0 0 1", b"set", b"set k1", b"set k1 0", b"set k1 0 0", b"get", b"gets", b"gat",
            b"gat 0", b"gats 1", b"delete", b"incr", b"incr k1", b"decr k1", b"touch", b"touch k1", b"cas k1 0 0 1", b"verbosity",
            b"add k1 0 0", b"append", b"flush_all x"]  # fmt: skip


@dataclass(frozen=True)
class Step:
    """One command on one connection."""

    connection: int
    command: bytes

    @property
    def verb(self) -> bytes:
        """The first word."""
        return self.command.split(None, 1)[0] if self.command.strip() else b""


class Sequences:
    """Draws commands; the same seed draws the same ones."""

    def __init__(self, seed: int) -> None:
        self.chance = random.Random(seed)
        self.spoiled = False  # whether the command being made has a bad part
        self.makers: list[tuple[Callable[[], bytes], int]] = [
            (self.store, 30), (self.retrieve, 25), (self.compare, 8), (self.count, 14), (self.remove, 6), (self.touch, 5),
            (self.retrieve_and_touch, 5), (self.flush, 2), (self.wrong, 4), (self.spoiled_store, 3), (self.many, 1),
        ]  # fmt: skip
        meta = MetaCommands(self.chance, KEYS, COUNTED_KEYS, self.value)
        self.makers += [
            (meta.get, 30), (meta.set, 20), (meta.delete, 12), (meta.count, 12), (meta.noop, 2), (meta.quiet_pipeline, 2),
            (meta.choreography, 6),
        ]  # fmt: skip

    def steps(self, n: int) -> list[Step]:
        makers, weights = zip(*self.makers, strict=True)
        drawn = self.chance.choices(makers, weights, k=n)
        return [Step(self.chance.randrange(CONNECTIONS), make()) for make in drawn]

    # Pieces

    def usually(self, good: list[bytes], bad: list[bytes]) -> bytes:
        bad_one = self.chance.random() < 0.06
        self.spoiled |= bad_one
        return self.chance.choice(bad if bad_one else good)

    def key(self) -> bytes:
        return self.usually(KEYS, BAD_KEYS)

    def keys(self, most: int) -> bytes:
        """A bad one only in front: before that memcached would touch the others, and never let go of them."""
        return b" ".join([self.key(), *self.chance.choices(KEYS, k=self.chance.randrange(most))])

    def noreply(self) -> bytes:
        return b" noreply" if self.chance.random() < 0.15 else b""

    def line(self, *words: bytes) -> bytes:
        """A command line; now and then with more blanks than needed, or a bare newline."""
        roll = self.chance.random()
        if roll < 0.03:
            return b"  ".join(words) + b"  \r\n"
        return b" ".join(words) + (b"\n" if roll < 0.06 else b"\r\n")

    def value(self) -> bytes:
        roll = self.chance.random()
        if roll < 0.35:
            return self.chance.choice(_NUMBERS)
        if roll < 0.45:
            return self.chance.choice(_NO_NUMBERS)
        if roll < 0.5:
            return b"a\r\nset k1 0 0 1\r\nb\r\nEND\r\n"
        if roll < 0.52:
            return self.chance.choice([b"z", b"\xff"]) * self.chance.choice([16_384, 65_536, 200_000, MAX_VALUE_BYTES])
        return b"." + self.chance.randbytes(min(4000, int(self.chance.lognormvariate(3, 1.5))))

    # Commands

    def store(self) -> bytes:
        self.spoiled = False
        verb = self.chance.choices([*_WHOLE, b"append", b"prepend"], [6, 2, 2, 2, 2])[0]
        key = self.key() if verb in _WHOLE else self.usually(GROWING_KEYS, BAD_KEYS)
        words = verb, key, self.usually(_FLAGS, _BAD_FLAGS), self.usually(_EXPIRIES, _BAD_EXPIRIES)
        value = self.block()
        if verb not in _WHOLE:
            value = value[:2000]  # so that no item comes near the limit
        return self.line(*words, b"%d" % len(value) + self.noreply()) + value + b"\r\n"

    def compare(self) -> bytes:
        self.spoiled = False
        key = self.chance.choice(KEYS)
        words = b"cas", key, self.usually(_FLAGS, _BAD_FLAGS), self.chance.choice(_EXPIRIES)
        cas = self.usually([b"{cas:%s}" % key] * 4 + [b"1", b"18446744073709551615"], [b"x", b"-1", b""])
        value = self.block()
        return self.line(*words, b"%d" % len(value), cas + self.noreply()) + value + b"\r\n"

    def block(self) -> bytes:
        """A data block; after a command line that will be refused it is read as commands, so no upper case and no long line then."""
        return b"foo bar\r\nset k1 0 0 1\r\nb\r\nend\r\n" if self.spoiled else self.value()

    def retrieve(self) -> bytes:
        return self.line(self.chance.choice([b"get", b"gets"]), self.keys(6))

    def retrieve_and_touch(self) -> bytes:
        return self.line(self.chance.choice([b"gat", b"gats"]), self.usually(_EXPIRIES, _BAD_EXPIRIES), self.keys(3))

    def many(self) -> bytes:
        return b"gets " + b" ".join(self.chance.choices(KEYS[:8], k=1000)) + b"\r\n"

    def count(self) -> bytes:
        """Never to 2^63 and above: there memcached looks for a minus sign even behind the item, and finds one now and then."""
        verb = self.chance.choice([b"incr", b"decr"])
        deltas = [*_DELTAS, *_LARGE_DELTAS] if verb == b"decr" else _DELTAS
        return self.line(verb, self.usually(COUNTED_KEYS, BAD_KEYS), self.usually(deltas, _BAD_DELTAS) + self.noreply())

    def remove(self) -> bytes:
        extra = self.chance.choices([b"", b" 0", b" 1", b" 0 noreply", b" noreply", b" x"], [20, 1, 1, 1, 4, 1])[0]
        return self.line(b"delete", self.key() + extra)

    def touch(self) -> bytes:
        return self.line(b"touch", self.key(), self.usually(_EXPIRIES, _BAD_EXPIRIES) + self.noreply())

    def flush(self) -> bytes:
        """Now or far away. All keys are asked for at once: memcached revives flushed items that nobody met before the next flush_all."""
        words = self.chance.choice([b"flush_all", b"flush_all 0", b"flush_all noreply", b"flush_all 1000", b"flush_all 1000 noreply"])
        return words + b"\r\nget " + b" ".join(KEYS) + b"\r\n" + MEET_BINARY_KEYS

    def wrong(self) -> bytes:
        return self.chance.choice(_UNKNOWN) + b"\r\n"

    def spoiled_store(self) -> bytes:
        """A data block that does not fit its command line."""
        value = self.chance.choice([b"abc", b"get k1", b"x" * 3000])
        key = self.chance.choice(KEYS)
        roll = self.chance.random()
        if roll < 0.3:
            return b"set %s 0 0 %d\r\n%s\r\n" % (key, len(value) - 1, value)
        if roll < 0.5:
            return b"set %s 0 0 -1\r\n" % key
        if roll < 0.7:
            return b"set %s 0 0 x%s\r\n" % (key, self.noreply())
        return b"set %s 0 0 %d%s\r\n%s\r\n" % (key, TOO_LARGE_BYTES, self.noreply(), b"z" * TOO_LARGE_BYTES)
