"""Where a process's output goes: a descriptor that is written to, how its reader comes to the end, how it is closed.

A FIFO is opened without waiting for containerd, and closed once containerd has come. It opens its end in a
goroutine, with a call that waits for a writer, and does not wait for that goroutine; a guest may have ended before. A
writing end that is gone by then would leave the goroutine waiting for good, what the guest wrote unread, and whoever
waits for the end of its output (ExecSync, StopContainer) waiting as well.

Some readers leave when they hear that the process has ended, whatever is in the FIFO then: containerd's client, and
so `ctr run`, closes its end. So an end is told only when the readers have taken what there was, or do not take it.
"""

import array
import asyncio
import fcntl
import os
import stat
import termios
import threading
from collections.abc import Callable
from contextlib import suppress

_FIRST, _LONGEST = 0.001, 0.25  # seconds between two looks for a reader, or at what it has not read
# Seconds: the latter double up to twice this while it takes nothing, and then it is not waited for; 0.127 in all.
_IDLE = 0.032
_PATIENCE = 1.0  # seconds that all are waited for at most


class Output:
    """A file, or a log process's pipe: its end is that it is closed."""

    __slots__ = ("fd",)

    def __init__(self, fd: int) -> None:
        """Own this descriptor."""
        self.fd = fd

    def end(self) -> None:
        """Let the reader come to the end; on the loop, and idempotent."""
        self.close()

    def close(self) -> None:
        """Close it, in any thread; idempotent."""
        self.fd = _close(self.fd)

    def unread(self) -> int:
        """Bytes that its reader could take and has not; as far as anybody can know."""
        return 0


class OutputFifo(Output):
    """Both ends of a FIFO: one to write to, and one to read from, beside the reader's own.

    With that, opening waits for nobody, a reader that restarts breaks no pipe, and what was written stays until
    close().
    """

    __slots__ = ("_ended", "_holds", "_keeper", "_lock")

    def __init__(self, path: str) -> None:
        """Open it, in any thread; raises OSError."""
        self._lock = threading.Lock()  # of the descriptors: a look for a reader may meet with close()
        self._keeper = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY)
        try:
            super().__init__(os.open(path, os.O_WRONLY | os.O_CLOEXEC | os.O_NOCTTY))
        except OSError:
            os.close(self._keeper)
            raise
        self._holds = stat.S_ISFIFO(os.fstat(self.fd).st_mode)  # a path may be a device's as well, or a file's
        self._ended = False

    def end(self) -> None:
        """As above, now or as soon as there is a reader."""
        if not self._ended:
            self._ended = True
            self._look(_FIRST)

    def close(self) -> None:
        """As above, both ends."""
        with self._lock:
            self._keeper = _close(self._keeper)
            super().close()

    def unread(self) -> int:
        """As above; FIONREAD, ioctl(2)."""
        count = array.array("i", [0])
        with self._lock:
            if self._holds and self._keeper >= 0:
                fcntl.ioctl(self._keeper, termios.FIONREAD, count)
        return count[0]

    def _look(self, interval: float) -> None:
        with self._lock:
            if self.fd < 0:
                return
            if self._has_reader():
                super().close()
                return
        asyncio.get_running_loop().call_later(interval, self._look, min(interval * 2, _LONGEST))

    def _has_reader(self) -> bool:
        """Whether somebody has opened it to read, or is about to: who waits for a writer counts, fifo(7).

        Our own end must not count meanwhile; the other keeps what is in the pipe.
        """
        same = f"/proc/self/fd/{self.fd}"  # whatever has become of the path
        self._keeper = _close(self._keeper)
        try:
            os.close(os.open(same, os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC))
        except OSError:  # ENXIO
            return False
        finally:
            with suppress(OSError):  # no descriptor is left: what was written goes with the writing end
                self._keeper = os.open(same, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        return True


async def drained(unread: Callable[[], int]) -> None:
    """Until readers have taken everything, by what is unread, or take nothing for a while."""
    begun = asyncio.get_running_loop().time()
    before, interval = -1, _FIRST
    while (left := unread()) and interval <= _IDLE:
        interval = _FIRST if left != before else interval * 2  # the intervals so far are as long as this one
        before = left
        if asyncio.get_running_loop().time() - begun > _PATIENCE:
            return
        await asyncio.sleep(interval)


def _close(fd: int) -> int:
    if fd >= 0:
        os.close(fd)
    return -1
