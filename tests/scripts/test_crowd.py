"""`make crowd` in short: the crowd gets the replies that are due, and a wrong one is noticed."""

from __future__ import annotations

import sys
from collections.abc import Iterator

import crowd
import pytest
from support.scripted import Scripted

from memcache_shm.ops.private_daemon import DOORS, PrivateDaemon


def run(monkeypatch: pytest.MonkeyPatch, *words: str) -> int:
    monkeypatch.setattr(sys, "argv", ["crowd", *words])
    return crowd.main()


@pytest.mark.parametrize("door", DOORS)
def test_a_small_crowd(door: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], no_leaks: None) -> None:
    assert run(monkeypatch, "--clients", "8", "--keys", "150", "--door", door) == 0
    out, error = capfd.readouterr()
    assert error == ""
    assert out.startswith(f"8 clients, 150 keys each, {door}: 7,200 operations in ")
    assert out.endswith("; no reply lost or swapped\n")


def test_a_wrong_reply(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], no_leaks: None) -> None:
    """Of one client among several: told, with what was due."""
    rightly = crowd.Script.__iter__

    def wrongly(script: crowd.Script) -> Iterator[crowd.Batch]:
        for batch in rightly(script):
            yield batch._replace(replies=batch.replies.replace(b"2:70:1:", b"1:70:1:"))

    monkeypatch.setattr(crowd.Script, "__iter__", wrongly)
    assert run(monkeypatch, "--clients", "4", "--keys", "150", "--door", "unix", "--seed", "1") == 1
    out, error = capfd.readouterr()
    assert "1 clients FAILED (--seed 1)" in out
    assert error.startswith("crowd: client 2: due was b'")
    assert len(error.splitlines()) == 1


def test_more_clients_than_a_daemon_takes_by_itself(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], no_leaks: None
) -> None:
    """256 channels, that is."""
    assert run(monkeypatch, "--clients", "260", "--keys", "1") == 0
    assert capfd.readouterr().out.endswith("; no reply lost or swapped\n")


def test_a_crowd_that_is_not_complete(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], no_leaks: None) -> None:
    """It does not begin, and says so; the time from the machine's start is none that it took."""
    monkeypatch.setattr(crowd, "PrivateDaemon", lambda options, workers: PrivateDaemon([*options, "--channels", "2"], workers))
    assert run(monkeypatch, "--clients", "4", "--keys", "1") == 1
    out, error = capfd.readouterr()
    assert out == "4 clients, 1 keys each, channel: they did not begin; 4 clients FAILED\n"
    assert "too many channels" in error
    assert "Broken" not in error


@pytest.mark.parametrize("words", [("--clients", "0"), ("--clients", "-1"), ("--keys", "0"), ("-t", "0"), ("--keys", "many")])
def test_what_is_no_crowd(words: tuple[str, str], monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        run(monkeypatch, *words)
    assert words[0] in capfd.readouterr().err


@pytest.mark.parametrize("replies", [b"HD O1\r\n", b"HD O1\r\nEN O2\r\nEN O2\r\n"], ids=["too few", "too many"])
def test_a_number_of_replies(replies: bytes) -> None:
    batch = crowd.Batch(2, b"mg a O1\r\nmg b O2\r\n", b"HD O1\r\nEN O2\r\n")
    after = [(b"mn\r\n", b"MN\r\n")] if len(replies) > len(batch.replies) else []
    with Scripted([(batch.requests, replies), *after]) as server:
        host, port = server.address.split(":")
        talk = crowd.Talk((host, int(port)))
        talk.send(batch)
        with pytest.raises(crowd.WrongReplyError):
            talk.finish()
        server.wait_for_close()
        talk.close()
