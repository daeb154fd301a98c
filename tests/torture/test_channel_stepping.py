"""A bounded sample of the kill points of a channel's two sides; `make torture` takes them all."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from support.servers import Daemon
from torture.channels import CALLS, TURNS, Call, Turn, kill_clients, kill_workers

CLIENTS, WORKERS = 6, 3  # killed in each


@pytest.fixture(scope="module")
def daemon() -> Iterator[Daemon]:
    with Daemon("-m", "16") as daemon:
        yield daemon


@pytest.mark.parametrize("call", CALLS, ids=lambda call: call.name)
def test_a_client_killed_after_some_instructions(daemon: Daemon, call: Call) -> None:
    assert kill_clients(daemon, call, CLIENTS) == CLIENTS


@pytest.mark.parametrize("turn", TURNS[:2], ids=lambda turn: turn.name)
def test_a_worker_killed_after_some_instructions(turn: Turn) -> None:
    assert kill_workers(turn, WORKERS) == WORKERS
