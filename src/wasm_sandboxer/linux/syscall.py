"""The system calls that Python lacks, and the addresses of libc functions handed to the engine.

The one handle on libc; mount.py and namespace.py declare their own prototypes. Every wrapper raises OSError
with the kernel's errno. Any thread may call these; each acts on the calling thread unless it takes a pid or tid.
"""

import ctypes
import errno
import functools
import os
import signal
from contextlib import suppress
from itertools import pairwise

libc = ctypes.CDLL(None, use_errno=True)
_holding = ctypes.PyDLL(None, use_errno=True)  # for calls in which the interpreter is held as in Python's own

PR_SET_PDEATHSIG = 1  # linux/prctl.h
PR_SET_NAME = 15
_PIDFD_SIGNAL_PROCESS_GROUP = 1 << 2  # linux/pidfd.h
CLOSE_RANGE = 436  # the same on every machine
LAST_FD = (1 << 32) - 1
COMM_LENGTH = 15  # TASK_COMM_LEN without the final NUL
_Name = ctypes.c_char * (COMM_LENGTH + 1)  # kept: Python makes the type of an array anew each time

libc.prctl.argtypes = [ctypes.c_int] + [ctypes.c_ulong] * 4
libc.tgkill.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_int]
libc.write.argtypes = [ctypes.c_int, ctypes.c_char_p, ctypes.c_size_t]
libc.write.restype = ctypes.c_ssize_t
libc.mprotect.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
for _name in ("sem_init", "sem_post", "sem_trywait"):
    getattr(libc, _name).argtypes = [ctypes.c_void_p] + ([ctypes.c_int, ctypes.c_uint] if _name == "sem_init" else [])


def check(result: int, call: str) -> int:
    """The result, or the OSError that a negative one stands for; `call` says what was tried."""
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{call}: {os.strerror(number)}")
    return result


@functools.cache
def address_of(function: str) -> int:
    """The address of a libc function, for code that calls it without Python."""
    return ctypes.cast(getattr(libc, function), ctypes.c_void_p).value or 0


def set_thread_name(name: str) -> None:
    """Name the calling thread for ps and top; cut to 15 bytes (PR_SET_NAME, prctl(2))."""
    buffer = _Name.from_buffer_copy(name.encode(errors="replace")[:COMM_LENGTH].ljust(ctypes.sizeof(_Name), b"\0"))
    check(libc.prctl(PR_SET_NAME, ctypes.addressof(buffer), 0, 0, 0), "prctl")


def named(name: str) -> bytes:
    """A name as PR_SET_NAME takes it."""
    return name.encode(errors="replace")[:COMM_LENGTH] + b"\0"


def set_parent_death_signal(signal: int) -> None:
    """Have the kernel send this signal to the calling process when the thread that forked it ends (prctl(2))."""
    check(libc.prctl(PR_SET_PDEATHSIG, signal, 0, 0, 0), "prctl")


def signal_thread(tid: int, signal: int) -> bool:
    """Send a signal to one thread of this process (tgkill(2)); False if it is gone.

    Where as many as may be already wait to be delivered, that is enough.
    """
    try:
        check(libc.tgkill(os.getpid(), tid, signal), "tgkill")
    except OSError as error:
        if error.errno == errno.ESRCH:
            return False
        if error.errno != errno.EAGAIN:
            raise
    return True


def signal_group(pidfd: int, pid: int, number: int) -> None:
    """Send a signal to the process group that a process leads, which must not be reaped yet; raises OSError.

    One that was just forked and leads no group yet is alone, and gets it by itself. Linux 6.9 and newer find the
    group by the descriptor alone (pidfd_send_signal(2)).
    """
    try:
        signal.pidfd_send_signal(pidfd, number, None, _PIDFD_SIGNAL_PROCESS_GROUP)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ESRCH):
            raise
        signal.pidfd_send_signal(pidfd, number)  # fails for one that is gone, whose number may be another's
        if error.errno == errno.EINVAL:
            with suppress(ProcessLookupError):
                os.killpg(pid, number)


def fork_alone() -> int:
    """fork(2) for a process with one thread: the child's id, and 0 in the child; raises OSError.

    os.fork() also makes the interpreter's locks anew and calls what modules have registered for a fork, logging,
    threading and random among them: for other threads, which there are none of. In a child it took a tenth of the
    time that a whole guest takes, most of it to copy the pages that it writes to. So `random` goes on in the child
    where the parent was.
    """
    return check(_holding.fork(), "fork")


def close_others(*kept: int) -> None:
    """Close every descriptor of this process but 0, 1, 2 and some more (close_range(2), Linux 5.9)."""
    borders = [2, *sorted(kept), LAST_FD + 1]
    for first, last in ((low + 1, high - 1) for low, high in pairwise(borders)):
        if first <= last:
            check(libc.syscall(CLOSE_RANGE, ctypes.c_uint(first), ctypes.c_uint(last), 0), "close_range")


def write_interruptible(fd: int, data: bytes) -> int:
    """Write once, as write(2) does, ending with EINTR when a signal arrives; os.write would begin again."""
    return check(libc.write(fd, data, len(data)), "write")


def protect_execute(address: int, length: int) -> None:
    """Make a page-aligned range readable and executable and no longer writable (mprotect(2))."""
    read_execute = 0x1 | 0x4  # PROT_READ | PROT_EXEC
    check(libc.mprotect(address, length, read_execute), "mprotect")


def semaphore_init(address: int) -> None:
    """Make an unnamed semaphore with value 0 at this address, private to the process (sem_init(3))."""
    check(libc.sem_init(address, 0, 0), "sem_init")


def semaphore_post(address: int) -> None:
    """Let one waiter pass (sem_post(3))."""
    check(libc.sem_post(address), "sem_post")


def semaphore_drain(address: int) -> None:
    """Take back every post that nobody has used (sem_trywait(3))."""
    while libc.sem_trywait(address) == 0:
        pass
