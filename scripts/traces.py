"""Key sequences for measuring hit ratios: what `bench_memory.py` asks servers for and `simulate.py` asks policies for."""

from __future__ import annotations

from collections.abc import Callable

import numpy
from numpy.typing import NDArray

Keys = NDArray[numpy.int64]

KEYS = 400_000
REQUESTS = 2_000_000


def zipf(exponent: float, requests: int = REQUESTS, keys: int = KEYS, seed: int = 1) -> Keys:
    """Keys 0 .. keys - 1, each asked for with a probability proportional to rank ** -exponent, independently."""
    random = numpy.random.default_rng(seed)
    weights = numpy.arange(1, keys + 1, dtype=float) ** -exponent
    ranks = numpy.searchsorted(numpy.cumsum(weights) / weights.sum(), random.random(requests))
    return random.permutation(keys)[numpy.minimum(ranks, keys - 1)].astype(numpy.int64)


def polluted(requests: int = REQUESTS, seed: int = 2) -> Keys:
    """Zipf 1.0, a fifth of the requests for keys that never come again, and a scan of 20 000 keys now and then."""
    random = numpy.random.default_rng(seed)
    trace = zipf(1.0, requests, seed=seed)
    once = random.random(requests) < 0.2
    trace[once] = 10_000_000 + numpy.arange(int(once.sum()))
    for number, start in enumerate(range(requests // 8, requests - 20_000, requests // 4)):
        trace[start : start + 20_000] = 20_000_000 + number % 2 * 1_000_000 + numpy.arange(20_000)
    return trace


def moving(requests: int = REQUESTS, seed: int = 3) -> Keys:
    """A hot set of 20 000 keys that takes nine requests of ten and moves on by a tenth of itself every 100 000 requests."""
    random = numpy.random.default_rng(seed)
    at = numpy.arange(requests)
    hot = (at // 100_000) * 2_000 + random.integers(0, 20_000, requests)
    return numpy.where(random.random(requests) < 0.9, hot, 1_000_000 + random.integers(0, KEYS, requests)).astype(numpy.int64)


TRACES: dict[str, Callable[[], Keys]] = {
    "Zipf 1.0": lambda: zipf(1.0),
    "Zipf 0.8": lambda: zipf(0.8),
    "Zipf 1.0 with one-hit wonders and scans": polluted,
    "moving hot set": moving,
}
