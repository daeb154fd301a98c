"""`memcache-shm bench`: what the doors of a table cost on this machine."""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from types import FrameType
from typing import NoReturn

from memcache_shm.cli import bench_image, png
from memcache_shm.cli.arguments import Parser, whole
from memcache_shm.cli.messages import EXIT_FAILURE, EXIT_OK, PROGRAM, paint, plural
from memcache_shm.cli.progress import StatusLine
from memcache_shm.errors import MemcacheError
from memcache_shm.ops.door_bench import DOORS, NAMES, ROUNDS, VALUE_MAX_BYTES, Figures, measure

_HELP = f"""\
Compare the doors of a table on this machine: attached (memcache_shm.attach), channel
(rings in shared memory), UNIX socket, TCP over loopback. A daemon of its own is started
for it and ended again; the doors are measured in turns, and each figure is the median of
{ROUNDS} rounds.

Two tables are printed. The first is of bare exchanges, prebuilt bytes out and bytes in,
which show the door itself. The second has the client objects, memcache_shm.connect and
memcache_shm.attach: what a Python program sees, its own time included.

  get, set   microseconds of one call that waits for its reply: the median, and what 99 %
             of the calls do not exceed
  pipelined  gets a second of one client that sends them in batches
  CPU        microseconds that the server's processes take for a get alone, and for one
             amid a batch; attached: that the caller takes, since there is no server
  x UNIX     how many times faster a get is than over the UNIX socket
"""
_EXAMPLES = f"""\
exit status: 0 done, 1 no daemon could be started or no file written, 2 wrong usage

examples:
  {PROGRAM} bench
  {PROGRAM} bench --seconds 60 --value-bytes 1000
  {PROGRAM} bench --png doors.png        needs Pillow: {png.REMEDY}
  {PROGRAM} bench --json --only channel unix | jq .doors.channel.get_us
"""
_SECONDS_MOST = 3600
_WORKERS_MOST = 64
_ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_UNIX = "unix"


class _Stopped(BaseException):
    """By a signal."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


def main(words: Sequence[str]) -> int:
    """Measure and print. 0. MemcacheError when there can be no daemon."""
    parser = Parser(f"{PROGRAM} bench", _HELP, _EXAMPLES)
    parser.add_argument("--seconds", type=whole(1, _SECONDS_MOST), default=10, metavar="N", help="how long, altogether (default 10)")
    parser.add_argument("--value-bytes", type=whole(1, VALUE_MAX_BYTES), default=100, metavar="N", help="of each item (default 100)")
    parser.add_argument("-t", "--workers", type=whole(1, _WORKERS_MOST), default=1, metavar="N", help="of the daemon (default 1)")
    parser.add_argument("--only", nargs="+", choices=DOORS, metavar="DOOR", help=f"of {', '.join(DOORS)}")
    parser.add_argument("--json", action="store_true", help="one JSON object instead of tables")
    parser.add_argument("--png", metavar="FILE", help="write a picture, too")
    space = parser.parse_args(words)
    if space.png is not None:
        png.check(space.png)
    if sys.stdout is None:
        raise MemcacheError("standard output is closed, and that is where the figures would be printed")
    doors = [door for door in DOORS if space.only is None or door in space.only]
    cpus, load = len(os.sched_getaffinity(0)), os.getloadavg()[0]  # what else ran, which a reader must know
    try:
        with _stoppable(), StatusLine() as status:
            found = measure(doors, space.workers, space.value_bytes, space.seconds, status.say)
    except _Stopped as stop:
        signal.signal(stop.number, signal.SIG_DFL)
        os.kill(os.getpid(), stop.number)
        return EXIT_FAILURE
    headline = (
        f"values of {plural(space.value_bytes, 'byte')}, {plural(space.workers, 'worker')}, {plural(cpus, 'CPU')}, load before {load:.1f}"
    )
    if space.json:
        machine = {"value_bytes": space.value_bytes, "workers": space.workers, "cpus": cpus, "load": round(load, 2), "rounds": ROUNDS}
        print(json.dumps(machine | {"doors": _doors(found)}))
    else:
        for line in _tables(headline, found):
            print(line)
    print(end="", flush=True)  # the figures are out, whatever becomes of the picture
    if space.png is not None:
        png.write(bench_image.draw(headline, found), space.png)
    return EXIT_OK


@contextmanager
def _stoppable() -> Iterator[None]:
    """A signal ends what is within in order."""
    previous = {number: signal.signal(number, _stop) for number in _ENDING}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def _stop(number: int, frame: FrameType | None) -> NoReturn:
    for each in _ENDING:  # a second Ctrl-C shall not end the end in order
        signal.signal(each, signal.SIG_IGN)
    raise _Stopped(number)


def _doors(found: Mapping[str, Figures]) -> dict[str, dict[str, float]]:
    """What --json prints of each."""
    doors = {door: {name: round(figure, 4) for name, figure in asdict(figures).items()} for door, figures in found.items()}
    if _UNIX in found:
        for door, figures in found.items():
            doors[door] |= {
                "get_times_unix": round(found[_UNIX].get_us / figures.get_us, 2),
                "client_get_times_unix": round(found[_UNIX].client_get_us / figures.client_get_us, 2),
            }
    return doors


def _tables(headline: str, found: Mapping[str, Figures]) -> Iterator[str]:
    unix = found.get(_UNIX)
    yield paint(headline, "1", sys.stdout)
    yield ""
    yield "Bare exchanges: prebuilt bytes out, bytes in (attached: the call)"
    rows = [["", "get us", "99 %", "set us", "99 %", "pipelined gets/s", "CPU us a get", "pipelined", "x UNIX"]]
    for door, f in found.items():
        times = _us(f.get_us), _us(f.get_p99_us), _us(f.set_us), _us(f.set_p99_us)
        costs = f"{f.pipelined_a_s:,.0f}", _us(f.cpu_get_us), _us(f.cpu_pipelined_us)
        rows.append([NAMES[door], *times, *costs, "" if unix is None else f"{unix.get_us / f.get_us:.1f}"])
    yield from _aligned(rows)
    yield ""
    yield "Client objects, in Python: memcache_shm.connect (attached: memcache_shm.attach)"
    rows = [["", "get us", "99 %", "set us", "99 %", "x UNIX"]]
    for door, f in found.items():
        times = _us(f.client_get_us), _us(f.client_get_p99_us), _us(f.client_set_us), _us(f.client_set_p99_us)
        rows.append([NAMES[door], *times, "" if unix is None else f"{unix.client_get_us / f.client_get_us:.1f}"])
    yield from _aligned(rows)


def _us(figure: float) -> str:
    return f"{figure:.2f}" if figure < 10 else f"{figure:.1f}"


def _aligned(rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """The first column to the left, figures to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for number, (first, *others) in enumerate(rows):
        line = "  ".join([first.ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(others, widths[1:], strict=True))]).rstrip()
        yield line if number else paint(line, "2", sys.stdout)
