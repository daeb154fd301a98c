"""`memcache-shm map`: what fills a table, as a picture in the terminal, as an image, or as numbers."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from typing import Any

from memcache_shm.cli import image, png, terminal
from memcache_shm.cli.arguments import Parser, table_name
from memcache_shm.cli.attaching import attach_named
from memcache_shm.cli.bars import columns, largest_free_bytes, total
from memcache_shm.cli.messages import EXIT_OK, PROGRAM
from memcache_shm.storage.geometry import Geometry
from memcache_shm.storage.occupancy import Cell, Occupancy, occupancy

_HELP = """\
Show what fills a table: one bar for each shard, its arena from the lower to the
upper end. The height of a column is divided among what fills that stretch.

  live     items that are served, or being written
  expired  items that have expired or were flushed; their place is free for the taking
  index    buckets and overflow nodes; they grow from the upper end down
  free     nothing

Where every column is free in part, free space is in small pieces, which no large
item fits into; columns that are free from bottom to top are large pieces.
The table is only read: nobody waits, and the right to read it is enough.
"""
_EXAMPLES = f"""\
exit status: 0 done, 1 no such table, no right to it or no file written, 2 wrong usage

examples:
  {PROGRAM} map app
  {PROGRAM} map app --png app.png        needs Pillow: {png.REMEDY}
  {PROGRAM} map app --json | jq .expired_bytes
  watch -n 5 {PROGRAM} map memcache_shm-11211
"""
_JSON_CELLS = 64  # a shard
_CELLS_AT_ONCE = 65_536  # as many shards as there may be have at least one each


def main(words: Sequence[str]) -> int:
    """Print a table's map, and write it to a file if wanted. 0."""
    parser = Parser(f"{PROGRAM} map", _HELP, _EXAMPLES)
    parser.add_argument("name", metavar="NAME", type=table_name, help=f"as '{PROGRAM} ls' shows it")
    parser.add_argument("--png", metavar="FILE", help="write an image, too")
    parser.add_argument("--json", action="store_true", help=f"one JSON object instead of a picture; {_JSON_CELLS} cells a shard, in bytes")
    space = parser.parse_args(words)
    if space.png is not None:
        png.check(space.png)
    with attach_named(space.name, True, f"no right to read table {space.name!r}") as cache:
        geometry = cache.attached_table.geometry
        maps = occupancy(cache.attached_table, max(1, min(image.COLUMNS, _CELLS_AT_ONCE // geometry.shards)))
    if space.png is not None:
        image.save(space.name, geometry, maps, space.png)
    if space.json:
        print(json.dumps(_numbers(space.name, geometry, maps)))
    else:
        for line in terminal.picture(space.name, geometry, maps, sys.stdout):
            print(line)
    return EXIT_OK


def _numbers(name: str, geometry: Geometry, maps: Sequence[Occupancy]) -> dict[str, Any]:
    """What --json prints."""
    granule_bytes = maps[0].granule_bytes
    shards = [
        {
            "shard": map_.shard,
            **_in_bytes(total(map_.cells), granule_bytes),
            "free_pieces": map_.free_runs,
            "largest_free_bytes": map_.largest_free * granule_bytes,
            "cells": [_in_bytes(cell, granule_bytes) for cell in columns(map_.cells, min(_JSON_CELLS, len(map_.cells)))],
        }
        for map_ in maps
    ]
    return {
        "name": name,
        "geometry": geometry.describe(),
        **_in_bytes(total(cell for map_ in maps for cell in map_.cells), granule_bytes),
        "free_pieces": sum(map_.free_runs for map_ in maps),
        "largest_free_bytes": largest_free_bytes(maps),
        "shards": shards,
    }


def _in_bytes(cell: Cell, granule_bytes: int) -> dict[str, int]:
    return {
        "arena_bytes": cell.granules * granule_bytes,
        "live_bytes": cell.live * granule_bytes,
        "expired_bytes": cell.dead * granule_bytes,
        "index_bytes": cell.index * granule_bytes,
        "free_bytes": cell.free * granule_bytes,
    }
