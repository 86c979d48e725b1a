"""A page in which processes count together: a pool's count and limit, and what each child has charged.

The children may be in the hands of their guests. So nothing that is written here is believed where it could harm
anybody outside the pod, and the page cannot be cut, which would end whoever reads it next.

Source: memfd_create(2), fcntl(2), F_ADD_SEALS.
"""

import ctypes
import fcntl
import mmap
import os
import weakref
from typing import Self

from wasm_sandboxer.engine.counting import COUNT_SIZE, REFUSED, USED, WORD
from wasm_sandboxer.linux import memory

_BOUND = COUNT_SIZE  # of the page, by its offset in bytes; the count is before it
_CLAIMS = 2 * COUNT_SIZE  # and behind it a count for each child
_Words = ctypes.c_uint64 * (mmap.PAGESIZE // WORD)  # kept: Python makes the type of an array anew each time
CLAIMS = (mmap.PAGESIZE - _CLAIMS) // COUNT_SIZE


def bound_in(page: int) -> int:
    """Where a mapped page's limit is."""
    return page + _BOUND


def claim_in(page: int, number: int) -> int:
    """Where a child's count is in a mapped page."""
    return page + _CLAIMS + number * COUNT_SIZE


class SharedPage:
    """One mapping of it, which lasts as long as the process, or for its maker as long as this object."""

    def __init__(self, fd: int) -> None:
        """Map the file, whose descriptor is the caller's to close; raises OSError."""
        address = memory.map_shared(mmap.PAGESIZE, fd)
        self.count = address
        self.bound = bound_in(address)
        # Safe: the mapping is there as long as anybody has this object.
        self._words = _Words.from_address(address)
        self.fd = -1
        self._close: weakref.finalize[[int], SharedPage] | None = None
        self.claims: set[tuple[SharedPage, int]] = set()
        """Those that are counted here as well, each by the page that it is in and its number there."""

    @classmethod
    def make(cls) -> Self:
        """A new one with its own descriptor, which `close` closes; raises OSError."""
        fd = os.memfd_create("pool", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        try:
            os.ftruncate(fd, mmap.PAGESIZE)
            fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL)
            page = cls(fd)
        except OSError:
            os.close(fd)
            raise
        page.fd = fd
        weakref.finalize(page, memory.unmap, page.count, mmap.PAGESIZE).atexit = False
        page._close = weakref.finalize(page, os.close, fd)  # its own
        page._close.atexit = False
        return page

    def set_limit(self, limit: int) -> None:
        """In bytes, or NO_LIMIT."""
        self._words[_BOUND // WORD] = limit

    def set_count(self, used: int, refused: int) -> None:
        """Begin with these."""
        self._words[USED // WORD], self._words[REFUSED // WORD] = used, refused

    def claimed(self) -> int:
        """Bytes that all children together say they have charged."""
        return sum(page.read_claim(number) for page, number in self.claims)

    def claim(self, number: int) -> int:
        """Where a child's count is."""
        return claim_in(self.count, number)

    def read_claim(self, number: int) -> int:
        """Bytes that a child says it has charged."""
        return self._words[(_CLAIMS + number * COUNT_SIZE + USED) // WORD]

    def clear_claim(self, number: int) -> None:
        """The child has nothing."""
        self._words[(_CLAIMS + number * COUNT_SIZE + USED) // WORD] = 0

    def close(self) -> None:
        """No more children will have it; idempotent. What is mapped stays."""
        self.fd = -1
        if self._close is not None:
            self._close()
