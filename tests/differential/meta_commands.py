"""Random meta commands, to be mixed with the classic ones of sequences.py.

Left out, besides what sequences.py leaves out, is what memcached 1.6.18 answers otherwise than later versions (docs/protocol.md):

- flags that it does not have (E, x), or does not act on there (C of mg, N of ms A and ms P, s of ms, q of an ma that makes an item);
- its words for wrong flags of md, and its reading of an ms line's data as commands where the key or the flags are too long;
- k of mg with a key in base64: it remembers with each item how its key was given when it was stored;
- T of an ma whose number gets longer: it sets the expiry of the item that it has just replaced;
- an opaque that is too long for an ma or a vivifying mg: it is refused after the change;
- data of ms that are longer than said: they spoil the item that was there;
- me: class, size and (in 1.6.18) expiry are its own.
"""

from __future__ import annotations

import base64
import random
from collections.abc import Callable

BINARY_KEYS = [b"\x00 \r\n", b"\xff" * 186, b"in base64"]
MEET_BINARY_KEYS = b"".join(b"mg %s b u q\r\n" % base64.b64encode(key) for key in BINARY_KEYS)
_TIMES = [b"0", b"3000", b"3000", b"9000", b"2592000", b"-1", b"2592001"]
_RECACHE = [b"0", b"30", b"5000", b"20000", b"2147483647", b"-5"]
_BAD_TIMES = [b"", b"x", b"1x"]
_BAD_FLAGS = [b"y", b"5", b"q q", b"v v", b"\xfe", b"Tx", b"Cx", b"M", b"MSS", b"Mz", b"Fx", b"D-1", b"Jx"]
_PASSED_OVER = [b"I", b"P1", b"Lx", b"J7", b"D3"]
FLAGS_A_COMMAND = 5


class MetaCommands:
    """Draws meta commands for the keys of the classic ones."""

    def __init__(self, chance: random.Random, keys: list[bytes], counted_keys: list[bytes], value: Callable[[], bytes]) -> None:
        self.chance = chance
        self.keys = keys
        self.counted_keys = counted_keys
        self.value = value

    def choose(self, *choices: bytes) -> bytes:
        return self.chance.choice(choices)

    def is_rare(self, share: float) -> bool:
        return self.chance.random() < share

    def key(self, keys: list[bytes] | None = None) -> tuple[bytes, list[bytes]]:
        """The key's word and the flag that goes with it."""
        if self.is_rare(0.15):
            return base64.b64encode(self.chance.choice(BINARY_KEYS)), [b"b"]
        return self.chance.choice(keys or self.keys), []

    def line(self, verb: bytes, key: bytes, flags: list[bytes], *size: bytes) -> bytes:
        self.chance.shuffle(flags)
        if self.is_rare(0.04):
            flags = (
                [flag for flag in flags if flag[:1] != b"O"] + [b"O" + b"o" * 32] if verb == b"md" else [*flags, self.choose(*_BAD_FLAGS)]
            )
        return b" ".join([verb, key, *size, *flags]) + (b"\n" if self.is_rare(0.05) else b"\r\n")

    def some(self, letters: list[bytes]) -> list[bytes]:
        return self.chance.sample(letters, k=self.chance.randrange(min(len(letters), FLAGS_A_COMMAND) + 1))

    def common(self) -> list[bytes]:
        """Opaque, quiet."""
        opaque = [b"O%d" % self.chance.randrange(1000)] if self.is_rare(0.2) else []
        return opaque + ([b"q"] if self.is_rare(0.2) else [])

    def compare(self, key: bytes) -> bytes:
        """The last id told of the key, an older or a newer one."""
        return b"C" + self.chance.choices([b"{cas:%s}" % key, b"1", b"18446744073709551615", b"0"], [6, 2, 1, 1])[0]

    # Commands

    def get(self) -> bytes:
        key, flags = self.key()
        flags += self.some([b"s", b"t", b"f", b"v", b"h", b"l", b"u", b"c", *_PASSED_OVER, *([] if flags else [b"k"])])
        flags += [b"c", b"k"] if not flags and self.is_rare(0.3) else []
        if self.is_rare(0.2):
            flags.append(b"T" + self.chance.choice(_TIMES))
        if self.is_rare(0.3):
            flags.append(b"N" + self.chance.choice(_TIMES))
        if self.is_rare(0.3):
            flags.append(b"R" + self.chance.choice(_RECACHE if self.is_rare(0.9) else _BAD_TIMES))
        return self.line(b"mg", key, flags + self.common())

    def set(self) -> bytes:
        mode = self.chance.choices([b"", b"MS", b"ME", b"MR", b"MA", b"MP"], [8, 1, 2, 2, 2, 2])[0]
        grows = mode in (b"MA", b"MP")
        key, flags = self.key(self.keys[4:] if grows else None)
        value = self.value()[: 2000 if grows else None]
        compare = self.compare(key)
        flags += self.some([b"k", b"c", b"t", b"h", b"v", b"R1", b"P1", b"J7"]) + self.common()
        flags += [mode] if mode else []
        flags += [b"T" + self.chance.choice(_TIMES)] if self.is_rare(0.4) else []
        flags += [b"F" + self.choose(b"0", b"1", b"4294967295")] if self.is_rare(0.4) else []
        flags += [compare] if self.is_rare(0.3) else []
        flags += [b"I"] if self.is_rare(0.3) else []
        return self.line(b"ms", key, flags, b"%d" % len(value)) + value + b"\r\n"

    def delete(self) -> bytes:
        key, flags = self.key()
        flags += [b"I"] if self.is_rare(0.75) else []
        flags += [b"T" + self.chance.choice(_TIMES)] if self.is_rare(0.3) else []
        flags += [self.compare(key)] if self.is_rare(0.2) else []
        return self.line(b"md", key, flags + self.some([b"k", b"v", b"t"]) + self.common())

    def count(self) -> bytes:
        key, flags = self.key(self.counted_keys)
        down = self.is_rare(0.5)
        flags += [self.choose(b"MD", b"M-")] if down else self.some([self.choose(b"MI", b"M+")])
        flags += [b"D" + self.choose(b"0", b"1", b"9", b"99")] if self.is_rare(0.5) else []
        flags += self.some([b"k", b"c", b"t", b"v", b"u", b"P1"])
        flags += [b"T" + self.chance.choice(_TIMES)] if down and self.is_rare(0.3) else []
        flags += [self.compare(key)] if self.is_rare(0.2) else []
        if self.is_rare(0.3):
            return self.line(b"ma", key, [*flags, b"N" + self.chance.choice(_TIMES), b"J" + self.choose(b"0", b"5", b"99")])
        return self.line(b"ma", key, flags + self.common())

    def noop(self) -> bytes:
        return b"mn\r\n"

    def quiet_pipeline(self) -> bytes:
        """Many quiet gets; mn tells where they end."""
        keys = self.chance.choices(self.keys, k=self.chance.randrange(1, 30))
        return b"".join(b"mg %s k v q\r\n" % key for key in keys) + b"mn\r\n"

    def choreography(self) -> bytes:
        """An item is invalidated; one reader wins, others are told so; the winner or somebody late stores."""
        key = self.chance.choice(self.keys)
        readers = b"mg %s v t R30\r\n" % key * self.chance.randrange(1, 4)
        store = b"ms %s 1 I T3000 C%s\r\nn\r\n" % (key, self.chance.choices([b"{cas:%s}" % key, b"1"], [3, 1])[0])
        return b"md %s I T3000\r\n" % key + readers + (store if self.is_rare(0.7) else b"") + b"mg %s v\r\n" % key
