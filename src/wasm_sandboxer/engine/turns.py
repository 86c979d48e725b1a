"""Whose turn it is to compile: any number of compilers at once would take all memory, each within its own bound."""

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

_LARGE = 1 << 20  # bytes of source that take a second to compile, or three with WasmEdge


class Turns:
    """As many as there are processors; at least two, since large sources leave one for others. Any thread.

    So what takes a moment need not wait for what takes minutes, unless somebody has made a small source that does.
    """

    def __init__(self, at_once: int | None = None) -> None:
        at_once = max(2, at_once or len(os.sched_getaffinity(0)))
        self._any = threading.Semaphore(at_once)
        self._large = threading.Semaphore(at_once - 1)

    @contextmanager
    def take(self, size: int) -> Iterator[None]:
        """Wait for the turn of a source of so many bytes, and have it."""
        with self._large if size > _LARGE else nullcontext(), self._any:
            yield
