"""Two hosts and the link between them, as network namespaces."""

from __future__ import annotations

import os
import subprocess
from types import TracebackType

import pytest


class TwoHosts:
    """Namespaces with a pair of interfaces, 10.99.0.1 in the first and 10.99.0.2 in the second. Where the right for it is missing, the
    test is skipped."""

    ADDRESSES = ("10.99.0.1", "10.99.0.2")

    def __init__(self) -> None:
        self._names = [f"ms{os.getpid()}-{number}" for number in (1, 2)]
        self._made: list[str] = []

    def __enter__(self) -> TwoHosts:
        try:
            for name in self._names:
                if _ip("netns", "add", name).returncode != 0:
                    pytest.skip("no right to make a network namespace")
                self._made.append(name)
            self._link()
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def _link(self) -> None:
        first, second = self._names
        _must("-n", first, "link", "add", "link0", "type", "veth", "peer", "name", "link0", "netns", second)
        for name, address in zip(self._names, self.ADDRESSES, strict=True):
            _must("-n", name, "address", "add", f"{address}/24", "dev", "link0")
            _must("-n", name, "link", "set", "lo", "up")
            _must("-n", name, "link", "set", "link0", "up")

    def within(self, number: int) -> list[str]:
        """What executes a command on the first (0) or the second host (1)."""
        return ["ip", "netns", "exec", self._names[number]]

    def set_link(self, state: str) -> None:
        """Cut the link ("down") or mend it ("up"). Who has a connection over it is not told."""
        _must("-n", self._names[0], "link", "set", "link0", state)

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        for name in self._made:
            _must("netns", "delete", name)


def _ip(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["ip", *words], capture_output=True, text=True, timeout=20, check=False)


def _must(*words: str) -> None:
    done = _ip(*words)
    assert done.returncode == 0, f"ip {' '.join(words)}: {done.stderr}"
