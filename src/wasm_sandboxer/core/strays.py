"""Threads of the engine's own that were born in a guest's group, and are brought home while the guest still lives.

The engine makes threads when a guest calls into the file system and none is idle. Such a thread starts life in the
group of the guest that called, and then serves all: while it stays, a group that has used its quota up holds up other
guests' calls, and what they cost is counted to the wrong one. Nothing tells of its birth, so it is looked for.
"""

import asyncio
import os
from collections.abc import Callable
from contextlib import suppress

from wasm_sandboxer.core.groups import Groups
from wasm_sandboxer.core.workers import Workers

_INTERVAL = 0.5  # seconds; a guess between what a round costs and how long others may be held up
_AT_LEAST = 10  # rounds; by then all threads are looked at even if their number stays
_TASKS = "/proc/self/task"


class Strays:
    """Looks for threads of one name that were not there before."""

    def __init__(self, groups: Groups, workers: Workers, name: str, guests: Callable[[], set[int]]) -> None:
        """`name` is what the engine's threads are called; `guests` gives those that are none, named so or not."""
        self._groups = groups
        self._workers = workers
        self._name = name
        self._guests = guests
        self._judged: set[int] = set()
        self._unnamed: set[int] = set()
        self._count = 0

    async def run(self) -> None:
        """Bring strays home until cancelled; the loop asks for the number of threads, and else only waits."""
        skipped = 0
        while True:
            await asyncio.sleep(_INTERVAL)
            count = os.stat(_TASKS).st_nlink  # noqa: PTH116  # of /proc: waits for nothing
            if count == self._count and not self._unnamed and skipped < _AT_LEAST:
                skipped += 1
                continue
            skipped, self._count = 0, count
            if strays := await self._workers.run(self._find):
                strays -= self._guests()
                await self._workers.run(self._groups.bring_home, strays)

    def _find(self) -> set[int]:
        """Threads that are new since the last listing and the engine's."""
        try:
            there = {int(tid) for tid in os.listdir(_TASKS)}  # noqa: PTH208  # the cheaper of the two
        except OSError:  # no descriptor is left; next time, perhaps
            return set()
        new = there - self._judged
        strays = {tid for tid in new if _name(tid) == self._name}
        # One that has just begun still has the name of the thread that made it: it is looked at once more.
        unnamed = new - strays - self._unnamed
        self._judged = there - unnamed
        self._unnamed = unnamed
        return strays


def _name(tid: int) -> str:
    with suppress(OSError):  # it has ended
        fd = os.open(f"{_TASKS}/{tid}/comm", os.O_RDONLY | os.O_CLOEXEC)
        try:
            return os.read(fd, 32).decode(errors="replace").rstrip("\n")
        finally:
            os.close(fd)
    return ""
