"""`memcache-shm ping`: does it answer, which version, how fast."""

from __future__ import annotations

from collections.abc import Sequence

from memcache_shm.cli.arguments import Parser
from memcache_shm.cli.messages import EXIT_FAILURE, EXIT_OK, PROGRAM, error
from memcache_shm.client.addresses import source_address
from memcache_shm.errors import MemcacheError, RemoteError
from memcache_shm.ops.ping import Answer, ping_socket, ping_table


def main(words: Sequence[str]) -> int:
    """Print one line for each target that answers; 1 when one does not."""
    parser = Parser(
        f"{PROGRAM} ping",
        "Ask daemons (memcached's too) for their version, or look whether a table can be read.",
        f"examples:\n  {PROGRAM} ping 127.0.0.1:11211\n  {PROGRAM} ping /run/cache.sock channel:/run/cache.sock\n  {PROGRAM} ping app\n",
    )
    parser.add_argument("targets", nargs="+", metavar="HOST:PORT|SOCKET|NAME", help="a path with a / is a socket, channel:PATH a channel")
    parser.add_argument("--timeout", type=float, default=1.0, metavar="SECONDS", help="how long to wait (default 1)")
    space = parser.parse_args(words)
    status = EXIT_OK
    for target in space.targets:
        try:
            answer = _ping(target, space.timeout)
        except RemoteError as problem:  # which says where
            error(str(problem))
            status = EXIT_FAILURE
        except (MemcacheError, OSError, ValueError) as problem:
            error(f"{target}: {getattr(problem, 'strerror', None) or problem}")
            status = EXIT_FAILURE
        else:
            print(f"{target}: {answer.what} in {answer.took_s * 1000:.3f} ms")
    return status


def _ping(target: str, timeout_s: float) -> Answer:
    address = source_address(target)
    return ping_table(target) if address is None else ping_socket(address, timeout_s)
