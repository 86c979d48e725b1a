"""A limit on a guest's memory that the daemon can change while the guest runs in a process of its own.

One page that both map: the guest's pool in the child lies in it, so that machine code reads the limit there at each
growth. The child may be in the hands of its guest, so nothing in the page is believed here, and it cannot be cut.
"""

import fcntl
import mmap
import os

from wasm_sandboxer.engine.pool import MemoryPool
from wasm_sandboxer.linux import memory

_WHAT = "its"


class SharedLimit:
    """The daemon's end; its owner closes it once the guest has ended."""

    def __init__(self, limit: int | None) -> None:
        """Raises OSError. `fd` is for the child, and closed once that has it."""
        self.fd = os.memfd_create("limit", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        try:
            os.ftruncate(self.fd, mmap.PAGESIZE)
            # Else a child could cut the file, and the next write to the page would be this process's end.
            fcntl.fcntl(self.fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL)
            self._address = memory.map_shared(mmap.PAGESIZE, self.fd)
        except OSError:
            os.close(self.fd)
            raise
        self._pool: MemoryPool | None = MemoryPool.at(_WHAT, self._address)
        self.set(limit)

    def set(self, limit: int | None) -> None:
        """The most there may be from now on, in bytes; what the guest has already it keeps."""
        if self._pool is not None:
            self._pool.limit = limit

    def close_fd(self) -> None:
        """The child has it, or there is none."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1

    def close(self) -> None:
        """Let go of the page; idempotent."""
        self.close_fd()
        if self._pool is not None:
            self._pool = None
            memory.unmap(self._address, mmap.PAGESIZE)


def pool_in(fd: int) -> MemoryPool:
    """The child's end, mapped as long as the process lives; closes the descriptor. Raises OSError."""
    try:
        return MemoryPool.at(_WHAT, memory.map_shared(mmap.PAGESIZE, fd))
    finally:
        os.close(fd)
