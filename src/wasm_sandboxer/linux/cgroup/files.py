"""The kernel's files of a group: written a few times, read again and again and by the thousand.

Opening a counter costs several times what reading it does, so counters are kept open, within a budget that all groups
share.
"""

import os
import resource
import threading
from collections.abc import Iterable, Mapping
from contextlib import ExitStack, suppress

_MOST = 8192  # bytes; no counter file is near that long
_SHARE = 4  # a quarter of the descriptors that this process may have


class Budget:
    """How many more counters may be kept open; any thread."""

    def __init__(self) -> None:
        self._left = resource.getrlimit(resource.RLIMIT_NOFILE)[0] // _SHARE
        self._lock = threading.Lock()

    def take(self) -> bool:
        """Take one; False if none is left."""
        with self._lock:
            if self._left <= 0:
                return False
            self._left -= 1
            return True

    def give(self, count: int) -> None:
        """Give back so many."""
        with self._lock:
            self._left += count


class Counters:
    """The counter files of one group; any thread."""

    def __init__(self, budget: Budget) -> None:
        self._budget = budget
        self._open: dict[str, int] = {}
        self._closed = False
        self._lock = threading.Lock()  # a number that another thread closes may be another file's at once

    def read(self, path: str) -> bytes:
        """What the file says now; raises OSError, ENODEV if the group is gone."""
        with self._lock:
            fd = self._open.get(path, -1)
            if fd >= 0:
                return os.pread(fd, _MOST, 0)
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            if not self._closed and self._budget.take():
                self._open[path] = fd
                return os.pread(fd, _MOST, 0)
            try:
                return os.pread(fd, _MOST, 0)
            finally:
                os.close(fd)

    def close(self) -> None:
        """Close all, and keep none open that is read later: the group is about to go."""
        with self._lock:
            self._closed = True
            for fd in self._open.values():
                os.close(fd)
            self._budget.give(len(self._open))
            self._open.clear()


def read(path: str) -> bytes:
    """What a file says; raises OSError."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return os.read(fd, _MOST)
    finally:
        os.close(fd)


def write(path: str, value: str) -> None:
    """Have the kernel take a value, in one write; raises OSError."""
    fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(fd, value.encode())
    finally:
        os.close(fd)


def open_all(paths: Iterable[str]) -> tuple[int, ...]:
    """Descriptors to write to, the caller's to close; what is not there is left out. Raises OSError."""
    with ExitStack() as undo:
        opened = []
        for path in paths:
            with suppress(FileNotFoundError):
                opened.append(os.open(path, os.O_WRONLY | os.O_CLOEXEC))
                undo.callback(os.close, opened[-1])
        undo.pop_all()
        return tuple(opened)


def table(text: bytes) -> Mapping[bytes, int]:
    """Lines of a name and a number, as in cpu.stat."""
    words = text.split()
    return dict(zip(words[::2], map(int, words[1::2]), strict=True))
