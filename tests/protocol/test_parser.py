"""The parser sees the same requests however the bytes are cut."""

from __future__ import annotations

import base64
import itertools
import random
from typing import Any

import pytest
from golden import BAD_LINE, LONG, Golden, get
from golden import GOLDEN as GOLDEN_OTHERS
from golden_meta import GOLDEN_META
from hypothesis import given
from hypothesis import strategies as st

from memcache_shm.protocol.reader import RequestReader

MAX_VALUE = 1000
GOLDEN = GOLDEN_OTHERS + GOLDEN_META


def parsed(pieces: list[bytes]) -> list[tuple[Any, ...]]:
    reader = RequestReader(MAX_VALUE)
    return [request for piece in pieces for request in reader.feed(piece)]


def cut(stream: bytes, places: list[int]) -> list[bytes]:
    edges = [0, *sorted(place % (len(stream) + 1) for place in places), len(stream)]
    return [stream[start:end] for start, end in itertools.pairwise(edges)]


@pytest.mark.parametrize("golden", GOLDEN, ids=lambda golden: golden.name)
def test_whole(golden: Golden) -> None:
    assert parsed([golden.stream]) == golden.requests


@pytest.mark.parametrize("golden", GOLDEN, ids=lambda golden: golden.name)
def test_byte_by_byte(golden: Golden) -> None:
    assert parsed([golden.stream[at : at + 1] for at in range(len(golden.stream))]) == golden.requests


@pytest.mark.parametrize("golden", GOLDEN, ids=lambda golden: golden.name)
def test_by_line(golden: Golden) -> None:
    assert parsed(golden.stream.splitlines(keepends=True)) == golden.requests


@given(golden=st.sampled_from(GOLDEN), places=st.lists(st.integers(0, 10000), max_size=8))
def test_random_cuts(golden: Golden, places: list[int]) -> None:
    assert parsed(cut(golden.stream, places)) == golden.requests


def test_all_on_one_connection() -> None:
    """One stream after the other, in pieces of 1 to 3 bytes."""
    lasting = [golden for golden in GOLDEN if ("close",) not in golden.requests and golden.stream.endswith(b"\n")]
    stream = b"".join(golden.stream for golden in lasting)
    random.seed(2)
    pieces = cut(stream, [random.randrange(len(stream)) for _ in range(len(stream) // 2)])
    assert parsed(pieces) == [request for golden in lasting for request in golden.requests]


@given(stream=st.binary(max_size=300), places=st.lists(st.integers(0, 300), max_size=5))
def test_any_bytes(stream: bytes, places: list[int]) -> None:
    assert parsed(cut(stream, places)) == parsed([stream])


WORDS = st.sampled_from(
    [
        b"get",
        b"gat",
        b"set",
        b"cas",
        b"incr",
        b"delete",
        b"SET",
        b"GET",
        b"subscribe",
        b"unsubscribe",
        b"a*",
        b"sync",
        b"a",
        b"0",
        b"1",
        b"3",
        b"-1",
        b"noreply",
    ]
)
META_WORDS = st.sampled_from([b"mg", b"ms", b"md", b"ma", b"mn", b"me", b"b", b"q", b"k", b"T1", b"Ox", b"MA", b"ME", b"C1", b"y", b"YQ=="])
PIECES = st.one_of(WORDS, META_WORDS, st.sampled_from([b" ", b"\r\n", b"\n", b"\r", b"  ", b"\0", b"abc\r\n", b"x" * 300]))


@given(pieces=st.lists(PIECES, max_size=40), places=st.lists(st.integers(0, 2000), max_size=6))
def test_near_commands(pieces: list[bytes], places: list[int]) -> None:
    """Bytes that look much like commands: parsing goes on at the same place, whatever the cutting."""
    stream = b"".join(pieces)
    assert parsed(cut(stream, places)) == parsed([stream])


def test_endless_get_line_needs_no_memory() -> None:
    reader = RequestReader(MAX_VALUE)
    assert reader.feed(b"get ") == []
    seen = [request for _ in range(100) for request in reader.feed(b"key " * 1000)]
    assert reader.pending <= 2048
    seen += reader.feed(b"\r\n")
    assert len([request for request in seen if request[1]]) == 100_000
    assert seen[0][4] and seen[-1][5]


def test_endless_subscribe_line_needs_no_memory() -> None:
    reader = RequestReader(MAX_VALUE)
    assert reader.feed(b"subscribe ") == []
    seen = [request for _ in range(100) for request in reader.feed(b"key prefix* " * 1000)]
    assert reader.pending <= 2048
    seen += reader.feed(b"\r\n")
    assert [request[2] for request in seen if request[1]] == ["key", "prefix"] * 100_000
    assert seen[0][3] and seen[-1][4]
    assert not any(request[4] for request in seen[:-1])


def test_long_pattern_ends_an_endless_line() -> None:
    reader = RequestReader(MAX_VALUE)
    seen = reader.feed(b"subscribe " + b"a " * 2000)
    seen += reader.feed(LONG + b"* b\r\nget c\r\n")
    assert seen[0] == ("subscribe", b"a", "key", True, False)
    assert seen[-2:] == [("subscribe", b"", "too long", False, True), get(b"c")]


def test_long_key_in_an_endless_get_line_takes_the_values_back() -> None:
    reader = RequestReader(MAX_VALUE)
    seen = reader.feed(b"get " + b"a " * 2000)
    seen += reader.feed(LONG + b" b\r\nget c\r\n")
    assert seen[0] == get(b"a", last=False)
    assert seen[-2:] == [(*BAD_LINE[:2], True), get(b"c")]


def test_swallowed_value_needs_no_memory() -> None:
    reader = RequestReader(MAX_VALUE)
    assert reader.feed(b"set a 0 0 1000000 noreply\r\n") == [("too_large", "set", b"a", 1_000_000, True)]
    for _ in range(1000):
        assert reader.feed(b"x" * 1000) == []
        assert reader.pending == 0
    assert reader.feed(b"\r\nget a\r\n") == [get(b"a")]


@pytest.mark.parametrize(
    ("stream", "due"),
    [(b"SET a 5\nab", b"ERR TOO_SMALL\r\n"), (b"SET a 5\n", b"ERR TOO_SMALL\r\n"), (b"SET a 5", b""), (b"set a 0 0 5\r\nab", b"")],
)
def test_reply_to_a_client_that_closes_early(stream: bytes, due: bytes) -> None:
    reader = RequestReader(MAX_VALUE)
    assert reader.feed(stream) == []
    assert reader.at_eof == due


def test_nothing_is_read_after_the_end() -> None:
    reader = RequestReader(MAX_VALUE)
    assert reader.feed(b"quit\r\n") == [("close",)]
    assert reader.closed
    assert reader.feed(b"get a\r\n") == []


@given(key=st.binary(min_size=1, max_size=186))
def test_key_in_base64(key: bytes) -> None:
    word = base64.b64encode(key)
    assert parsed([b"mg " + word + b" b\r\n"]) == [("mg", key, b"b", {})]


ALPHABET = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"


@given(word=st.one_of(st.binary(min_size=1, max_size=250), st.text("aZ9/!=", min_size=1, max_size=40).map(str.encode)))
def test_anything_as_base64(word: bytes) -> None:
    """What does not belong to the alphabet is passed over; the rest is base64 or refused."""
    word = word.translate(None, b" \r\n") or b"A"
    (seen,) = parsed([b"mg " + word + b" b\r\n"])
    digits = bytes(byte for byte in word if byte in ALPHABET)
    if b"=" not in word:
        decoded = base64.b64decode(digits) if len(digits) % 4 == 0 else b""
        assert (seen[1] if seen[0] == "mg" else b"") == decoded
    elif seen[0] == "mg":
        assert 1 <= len(seen[1]) <= len(word) * 3 // 4
