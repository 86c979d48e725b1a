"""The calling thread's signal mask; pthread_sigmask(3).

Python's own signal.pthread_sigmask makes an Enum of every signal there and back, which takes a guest's thread a fifth
of a millisecond.
"""

import ctypes
import signal
from collections.abc import Iterable

from wasm_sandboxer.linux.syscall import libc

Mask = ctypes.Array[ctypes.c_uint64]
_WORDS = 16  # sigset_t of glibc and musl: 128 bytes

libc.pthread_sigmask.argtypes = [ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p]


def mask(numbers: Iterable[int]) -> Mask:
    """A mask of these signals; made once, used often."""
    made = (ctypes.c_uint64 * _WORDS)()
    made[0] = sum(1 << (number - 1) for number in set(numbers))
    return made


def all_but(numbers: Iterable[int]) -> Mask:
    """A mask of every signal a program may block, but these."""
    return mask(set(map(int, signal.valid_signals())) - set(numbers))


def set_mask(blocked: Mask) -> None:
    """Block exactly these signals on the calling thread."""
    # Safe: the mask lives across the call, which fails only for a wrong `how`.
    libc.pthread_sigmask(signal.SIG_SETMASK.value, ctypes.addressof(blocked), None)


def block(more: Mask) -> None:
    """Block these too."""
    libc.pthread_sigmask(signal.SIG_BLOCK.value, ctypes.addressof(more), None)
