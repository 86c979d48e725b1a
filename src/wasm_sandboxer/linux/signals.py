"""The calling thread's signal mask, pthread_sigmask(3), and a handler that only interrupts, sigaction(2).

Python's own signal.pthread_sigmask makes an Enum of every signal there and back, which takes a guest's thread a fifth
of a millisecond. A handler of Python's own writes to the event loop's wake-up socket each time, on whatever thread,
and is run by the main thread: hundreds at once fill the socket, and a SIGTERM finds no room in it.
"""

import ctypes
import functools
import signal
from collections.abc import Iterable

from wasm_sandboxer.linux.machine_code import Thunk, Thunks, install
from wasm_sandboxer.linux.syscall import check, libc

Mask = ctypes.Array[ctypes.c_uint64]
_WORDS = 16  # sigset_t of glibc and musl: 128 bytes
NOTHING: Thunks = {"x86_64": Thunk("ret", b"\xc3"), "aarch64": Thunk("ret", bytes.fromhex("c0035fd6"))}

libc.pthread_sigmask.argtypes = [ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p]
libc.sigaction.argtypes = [ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p]


class _Action(ctypes.Structure):
    """Libc's struct sigaction: the same in glibc and musl, for x86-64 and aarch64; libc sees to the restorer."""

    _fields_ = (
        ("handler", ctypes.c_void_p),
        ("mask", ctypes.c_uint64 * _WORDS),
        ("flags", ctypes.c_int),
        ("restorer", ctypes.c_void_p),
    )


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


def only_interrupt(number: int) -> None:
    """Have this signal do nothing in this process but end what system call it arrives in, with EINTR.

    Programs that are executed later have it as ever. Raises OSError for what is no such signal.
    """
    # No flags: SA_RESTART would begin the call anew. SA_ONSTACK would use the stack that the engine gives a thread
    # for faults, and takes away before the thread has ended. Safe: the handler stays where it is for the life of the
    # process, touches nothing, and the structure lives across the call.
    action = _Action(handler=_nothing())
    check(libc.sigaction(number, ctypes.addressof(action), None), "sigaction")


@functools.cache
def _nothing() -> int:
    return install({"nothing": NOTHING})["nothing"]
