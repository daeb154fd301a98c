"""Hostile bytes for the parser: whatever came before, it neither crashes nor hangs nor loses its place in the stream."""

from __future__ import annotations

import os
import random
import re
import time
from typing import Any

import pytest
from golden import GOLDEN as GOLDEN_OTHERS
from golden_meta import GOLDEN_META

from memcache_shm.protocol.reader import RequestReader

MAX_VALUE = 1000
GOLDEN = GOLDEN_OTHERS + GOLDEN_META
INPUTS = 4000  # a seed
#: No request has so many bytes, unless it announces them by a number of four digits or more.
MOST_BYTES = 3100
ANNOUNCES_MORE = re.compile(rb"\d{4}")

LASTING = [golden for golden in GOLDEN if ("close",) not in golden.requests and golden.stream.endswith(b"\n")]
WORDS = sorted({word for golden in GOLDEN for word in golden.stream.split() if len(word) < 300})
SPICE = [b" ", b"  ", b"\r\n", b"\n", b"\r", b"\0", b"\x80", b"\xff", b"-", b"+", b"0", b"9" * 20, b"noreply", b"\t", b"k" * 251, b"=" * 4]
RESYNC = LASTING[0]


class Fuzzer:
    """Draws inputs: what the golden streams hold, shuffled, cut up and spiced."""

    def __init__(self, seed: int) -> None:
        self.chance = random.Random(seed)

    def input(self) -> bytes:
        kind = self.chance.random()
        if kind < 0.4:
            return self.spoiled(b"".join(golden.stream for golden in self.chance.choices(LASTING, k=self.chance.randrange(1, 4))))
        if kind < 0.9:
            return b"".join(self.line() for _ in range(self.chance.randrange(1, 6)))
        return self.chance.randbytes(self.chance.randrange(200))

    def line(self) -> bytes:
        words = self.chance.choices(WORDS, k=self.chance.randrange(1, 7))
        return self.spoiled(b" ".join(words), 0.3) + self.chance.choice([b"\r\n", b"\r\n", b"\n", b""])

    def spoiled(self, stream: bytes, often: float = 1.0) -> bytes:
        """With a few bytes lost, doubled, changed or put in."""
        data = bytearray(stream)
        while data and self.chance.random() < often:
            at = self.chance.randrange(len(data))
            data[at : at + self.chance.choice([0, 0, 1, 5])] = self.chance.choice(SPICE) if self.chance.random() < 0.7 else b""
            often /= 2
        return bytes(data)

    def pieces(self, stream: bytes) -> list[bytes]:
        edges = sorted(self.chance.randrange(len(stream) + 1) for _ in range(self.chance.randrange(4)))
        return [stream[a:b] for a, b in zip([0, *edges], [*edges, len(stream)], strict=True)]


def feed(pieces: list[bytes]) -> tuple[RequestReader, list[tuple[Any, ...]]]:
    reader = RequestReader(MAX_VALUE)
    return reader, [request for piece in pieces for request in reader.feed(piece)]


def told(requests: list[tuple[Any, ...]]) -> list[tuple[Any, ...]]:
    """What the client is told in the end: a long get line whose bad key comes late takes the values before it back."""
    kept: list[tuple[Any, ...]] = []
    for request in requests:
        if request[0] == "reply" and request[2]:
            while not kept.pop()[4]:  # the first key of the line
                continue
            request = (*request[:2], False)
        kept.append(request)
    return kept


def attack(fuzzer: Fuzzer) -> None:
    stream = fuzzer.input()
    whole, requests = feed([stream])
    cut, requests_of_the_cut = feed(fuzzer.pieces(stream))
    assert told(requests) == told(requests_of_the_cut), stream
    assert (whole.closed, whole.pending) == (cut.closed, cut.pending), stream
    if whole.closed or ANNOUNCES_MORE.search(stream):
        return
    assert whole.pending < MOST_BYTES, stream
    whole.feed(b"\n" * MOST_BYTES)  # ends whatever is open
    if whole.closed:
        return
    assert whole.feed(RESYNC.stream) == RESYNC.requests, stream


@pytest.mark.parametrize("seed", range(4))
def test_fuzz(seed: int) -> None:
    fuzzer = Fuzzer(seed)
    for _ in range(INPUTS):
        attack(fuzzer)


@pytest.mark.torture
def test_fuzz_a_million() -> None:
    """At least so many, and for as long as the torture lasts."""
    seed = random.randrange(2**32)
    fuzzer, count, end = Fuzzer(seed), 0, time.monotonic() + float(os.environ.get("TORTURE_S", "60"))
    while count < 1_000_000 or time.monotonic() < end:
        attack(fuzzer)
        count += 1
    print(f"seed {seed}: {count} inputs")
