"""The messages of sessions over named pipes: their bytes, every cutting of them, and bytes that are none."""

from __future__ import annotations

import random
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from memcache_shm.ops.pipe_messages import (
    CONNECT,
    CONNECT_BYTES,
    DISCONNECT,
    NAMES,
    SUBSCRIBE,
    UNSUBSCRIBE,
    BadMessage,
    Registration,
    RegistrationReader,
    Request,
    decode_notification,
    encode_answer,
    encode_connect,
    encode_notification,
    encode_request,
    take_request,
)

PATHS = Registration(b"/tmp/a.req", b"/tmp/a.res", b"/tmp/a.not")
GOLDEN_CONNECT = b"\x01/tmp/a.req" + 30 * b"\0" + b"/tmp/a.res" + 30 * b"\0" + b"/tmp/a.not" + 30 * b"\0"
GOLDEN_REQUESTS = {
    b"\x02": Request(DISCONNECT, b""),
    b"\x03key" + 38 * b"\0": Request(SUBSCRIBE, b"key"),
    b"\x04key" + 38 * b"\0": Request(UNSUBSCRIBE, b"key"),
    b"\x03" + 40 * b"k" + b"\0": Request(SUBSCRIBE, 40 * b"k"),
    b"\x03\xff\x01\x7f " + 37 * b"\0": Request(SUBSCRIBE, b"\xff\x01\x7f "),
    b"\x03" + 41 * b"\0": Request(SUBSCRIBE, b""),
}
BAD_REQUESTS = {
    b"\0": "unknown code 0",
    b"\x01": "unknown code 1",
    b"\x05": "unknown code 5",
    b"1": "unknown code 49",
    b"\xff": "unknown code 255",
    b"\x03" + 41 * b"k": "a key of subscribe without a NUL behind it",
    b"\x04" + 41 * b"k": "a key of unsubscribe without a NUL behind it",
    b"\x03a\0b" + 38 * b"\0": "a key of subscribe that is not padded with NUL",
}


def read_requests(stream: bytes, cuts: list[int]) -> list[Request]:
    buffer = bytearray()
    found = []
    for start, stop in zip([0, *cuts], [*cuts, len(stream)], strict=True):
        buffer += stream[start:stop]
        while (request := take_request(buffer)) is not None:
            found.append(request)
    assert not buffer
    return found


def read_registrations(data: bytes, pieces: random.Random | None = None) -> tuple[list[Registration], list[str]]:
    """What a reader finds who reads as much as is wanted, or less; and what it complains of."""
    reader = RegistrationReader()
    found: list[Registration] = []
    problems: list[str] = []
    at = 0
    while True:
        try:
            registration = reader.take()
        except BadMessage as problem:
            problems.append(str(problem))
            continue
        if registration is not None:
            found.append(registration)
            continue
        if at == len(data):
            if reader.begun:
                problems.append(str(reader.give_up()))
                continue
            return found, problems
        size = reader.wanted if pieces is None else pieces.randint(1, reader.wanted)
        reader.feed(data[at : at + size])
        at += len(data[at : at + size])


def test_golden_connect() -> None:
    assert len(GOLDEN_CONNECT) == CONNECT_BYTES == 121
    assert encode_connect(PATHS) == GOLDEN_CONNECT
    assert read_registrations(GOLDEN_CONNECT) == ([PATHS], [])


@pytest.mark.parametrize(("data", "request_"), GOLDEN_REQUESTS.items(), ids=str)
def test_golden_requests(data: bytes, request_: Request) -> None:
    assert encode_request(request_) == data
    for cut in range(len(data) + 1):
        assert read_requests(data, [cut]) == [request_]


def test_golden_answers_and_notifications() -> None:
    assert encode_answer(CONNECT, 0) == b"\x01\x00"
    assert encode_answer(SUBSCRIBE, 1) == b"\x03\x01"
    assert encode_notification(b"key", b"value") == b"key" + 38 * b"\0" + b"value" + 36 * b"\0"
    assert encode_notification(b"key", None) == b"key" + 38 * b"\0" + b"DELETED" + 34 * b"\0"
    assert encode_notification(40 * b"k", 50 * b"v") == 40 * b"k" + b"\0" + 40 * b"v" + b"\0"
    assert encode_notification(b"k", b"") == b"k" + 81 * b"\0"
    assert decode_notification(encode_notification(b"k", b"a\0b\n")) == (b"k", b"a\0b\n")
    assert NAMES == {1: "connect", 2: "disconnect", 3: "subscribe", 4: "unsubscribe"}


@pytest.mark.parametrize(("data", "problem"), BAD_REQUESTS.items(), ids=str)
def test_bad_requests(data: bytes, problem: str) -> None:
    with pytest.raises(BadMessage, match=problem):
        read_requests(data, [])


def test_what_does_not_fit() -> None:
    for words in (lambda: encode_request(Request(SUBSCRIBE, 41 * b"k")), lambda: encode_connect(PATHS._replace(responses=40 * b"p"))):
        with pytest.raises(ValueError, match="has more than"):
            words()


@given(st.lists(st.sampled_from(list(GOLDEN_REQUESTS)), max_size=8), st.randoms(use_true_random=False))
def test_requests_cut_in_any_way(messages: list[bytes], chance: random.Random) -> None:
    stream = b"".join(messages)
    cuts = sorted(chance.randint(0, len(stream)) for _ in range(chance.randint(0, 12)))
    assert read_requests(stream, cuts) == [GOLDEN_REQUESTS[message] for message in messages]


@given(st.binary(max_size=300))
def test_any_bytes_are_requests_or_refused(data: bytes) -> None:
    buffer = bytearray(data)
    try:
        while (request := take_request(buffer)) is not None:
            assert data.startswith(encode_request(request)) or encode_request(request) in data
    except BadMessage as problem:
        assert str(problem)
    else:
        assert len(buffer) < 42


# Registrations

SHORT = GOLDEN_CONNECT[:50]
BAD_REGISTRATIONS = {
    "an unknown code": (b"\x07" + GOLDEN_CONNECT[1:], r"unknown code 7 \(121 bytes dropped\)"),
    "text": (b"hello\n", r"unknown code 104 \(6 bytes dropped\)"),
    "one byte": (b"\0", r"unknown code 0 \(1 byte dropped\)"),
    "a code alone": (b"\x01", r"a message (of 1 bytes, which has 121|cut short.*)"),
    "cut in a path": (SHORT, r"a message (of 50 bytes, which has 121|cut short.*)"),
    "cut between paths": (GOLDEN_CONNECT[:81], r"a message (of 81 bytes, which has 121|cut short.*)"),
    "no NUL": (b"\x01" + 40 * b"p" + GOLDEN_CONNECT[41:], r"a path without a NUL within its 40 bytes .*"),
    "empty path": (b"\x01" + 40 * b"\0" + GOLDEN_CONNECT[41:], r"an empty path .*"),
    "other padding": (GOLDEN_CONNECT[:40] + b"x" + GOLDEN_CONNECT[41:], r"a path that is not padded with NUL .*"),
    "last byte": (GOLDEN_CONNECT[:-1] + b"x", r"a path that is not padded with NUL .*"),
    "a control byte": (GOLDEN_CONNECT.replace(b"a.res", b"a\nres"), r".*control byte .*"),
}


@pytest.mark.parametrize("what", BAD_REGISTRATIONS)
def test_the_next_registration_is_found(what: str) -> None:
    data, problem = BAD_REGISTRATIONS[what]
    other = PATHS._replace(requests=b"/tmp/b.req")
    found, problems = read_registrations(GOLDEN_CONNECT + data + encode_connect(other) + data)
    assert found == [PATHS, other]
    assert len(problems) == 2
    for each in problems:
        assert re.fullmatch(problem, each), each


@pytest.mark.parametrize("size", range(1, CONNECT_BYTES))
def test_behind_every_short_registration(size: int) -> None:
    found, problems = read_registrations(GOLDEN_CONNECT[:size] + GOLDEN_CONNECT + GOLDEN_CONNECT[size:] + GOLDEN_CONNECT)
    assert found == [PATHS, PATHS]
    assert len(problems) == 2


@given(st.lists(st.one_of(st.just(GOLDEN_CONNECT), st.binary(max_size=200)), max_size=10), st.randoms(use_true_random=False))
def test_registrations_among_any_bytes(parts: list[bytes], chance: random.Random) -> None:
    """Each whole one is found: no bytes before it can swallow its beginning."""
    for pieces in (None, chance):
        found, problems = read_registrations(b"".join(parts), pieces)
        assert found.count(PATHS) >= parts.count(GOLDEN_CONNECT)
        assert bool(problems) <= any(part != GOLDEN_CONNECT for part in parts)
