"""FIFOs and pipes as native code expects them; pipe(7), fifo(7), tee(2)."""

import ctypes
import os
import stat
import time
from contextlib import suppress

from wasm_sandboxer.linux.syscall import libc

_SPLICE_F_NONBLOCK = 0x2  # linux/splice.h
_INTERVAL = 0.005

libc.tee.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_size_t, ctypes.c_uint]
libc.tee.restype = ctypes.c_ssize_t


def settle_input(fd: int, patience: float) -> None:
    """Make an input one that waits, as programs expect that know nothing of FIFOs; others are left as they are.

    A FIFO that nobody has opened for writing yet reads as if it had ended, so this waits some seconds for somebody.
    """
    if not stat.S_ISFIFO(os.fstat(fd).st_mode):
        return
    deadline = time.monotonic() + patience
    while not has_writer(fd) and time.monotonic() < deadline:
        time.sleep(_INTERVAL)
    os.set_blocking(fd, True)


def has_writer(fd: int) -> bool:
    """Whether somebody may still write, or has written what is there to be read."""
    spare, copied = os.pipe()
    try:
        # Takes nothing: 1 for something to read, an error (EAGAIN) for nothing yet, 0 for the end.
        return bool(libc.tee(fd, copied, 1, _SPLICE_F_NONBLOCK) != 0)
    finally:
        os.close(spare)
        os.close(copied)


def write_at_once(fd: int, data: bytes) -> None:
    """Write as much as it takes without waiting; what has no reader, or is closed, takes nothing."""
    with suppress(OSError):
        blocking = os.get_blocking(fd)
        os.set_blocking(fd, False)
        try:
            os.write(fd, data)
        finally:
            os.set_blocking(fd, blocking)  # others may have the same open file
