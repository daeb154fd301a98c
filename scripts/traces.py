"""Key sequences for measuring hit ratios: what `bench_memory.py` asks servers for and `simulate.py` asks policies for."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

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


def loop(requests: int = REQUESTS, keys: int = 45_000) -> Keys:
    """One key after the other, round and round: a quarter more of them than 16 MiB hold."""
    return numpy.arange(requests, dtype=numpy.int64) % keys


def loop_and_zipf(requests: int = REQUESTS, seed: int = 4) -> Keys:
    """Zipf 1.0 with a job beside it that goes round its own 45 000 keys and makes half of the requests."""
    trace = zipf(1.0, requests, seed=seed)
    looped = numpy.random.default_rng(seed).random(requests) < 0.5
    trace[looped] = 10_000_000 + loop(int(looped.sum()))
    return trace


def changed(requests: int = REQUESTS, seed: int = 5) -> Keys:
    """Zipf 1.0, and halfway, where hits begin to count, the keys change their ranks all at once."""
    before = requests // 2
    return numpy.concatenate([zipf(1.0, before, seed=seed), zipf(1.0, requests - before, seed=seed + 1)])


#: Each takes the number of requests.
TRACES: dict[str, Callable[..., Keys]] = {
    "Zipf 1.0": partial(zipf, 1.0),
    "Zipf 0.8": partial(zipf, 0.8),
    "Zipf 1.0 with one-hit wonders and scans": polluted,
    "moving hot set": moving,
}

#: For `simulate.py` alone.
MORE_TRACES: dict[str, Callable[..., Keys]] = {
    "loop": loop,
    "loop and Zipf 1.0": loop_and_zipf,
    "Zipf 1.0, changed halfway": changed,
}
