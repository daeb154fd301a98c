"""Mirrors: what they tell, and the threads that keep them in step."""

from __future__ import annotations

import threading

from memcache_shm import Change


class Heard(list[Change]):
    """What a callback was told."""

    def __call__(self, change: Change) -> None:
        self.append(change)


def mirror_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "memcache_shm-mirror"]
