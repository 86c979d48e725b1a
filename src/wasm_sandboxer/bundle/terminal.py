"""A container's pseudo-terminal: the loop moves bytes between its master side and containerd's FIFOs.

The kernel's line discipline does the rest on the guest's side, but for signals: a guest is no process group,
so Ctrl-C and its like are recognised here. A reader that stalls stalls only this terminal.
"""

import asyncio
import fcntl
import os
import signal
import struct
import termios
from collections.abc import Callable
from contextlib import suppress

_PIECE = 16 << 10
_SIGNALS = ((termios.VINTR, signal.SIGINT), (termios.VQUIT, signal.SIGQUIT), (termios.VSUSP, signal.SIGTSTP))
_END = b"\x04"  # Ctrl-D: the end of input in the line discipline's own words


class Terminal:
    """Moves a terminal's bytes; on the loop from begin() to close(). The descriptors are its owner's."""

    def __init__(self, master: int, source: int | None, sink: int | None) -> None:
        self._master = master
        self._source = source
        self._sink = sink
        self._loop: asyncio.AbstractEventLoop | None = None
        self._pending_out = b""
        self._pending_in = b""
        self._guest_ended = False
        self.on_signal: Callable[[int], None] = lambda _: None

    def begin(self) -> None:
        """Start moving bytes."""
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(self._master, self._from_guest)
        if self._source is not None:
            self._loop.add_reader(self._source, self._to_guest)

    def resize(self, columns: int, rows: int) -> None:
        """Set the window size."""
        fcntl.ioctl(self._master, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def end_input(self) -> None:
        """Let the guest read an end of file."""
        self._stop(self._source)
        with suppress(OSError):
            os.write(self._master, _END)

    def guest_ended(self) -> None:
        """No more comes than what the terminal holds; when that is moved, the output ends."""
        self._guest_ended = True
        if self._loop is not None and not self._pending_out:
            self._from_guest()

    def close(self) -> None:
        """Stop moving."""
        for fd in (self._master, self._source, self._sink):
            self._stop(fd)
        self._loop = None

    def _stop(self, fd: int | None) -> None:
        if self._loop is not None and fd is not None:
            self._loop.remove_reader(fd)
            self._loop.remove_writer(fd)

    def _from_guest(self) -> None:
        try:
            data = os.read(self._master, _PIECE)
        except BlockingIOError:
            return
        except OSError:  # EIO: the guest's side is closed and empty
            data = b""
        if not data:
            self._stop(self._master)
            self._end_output()
            return
        self._pending_out = data
        self._flush_out()

    def _flush_out(self) -> None:
        assert self._loop is not None
        if self._sink is not None:
            try:
                self._pending_out = self._pending_out[os.write(self._sink, self._pending_out) :]
            except BlockingIOError:
                pass
            except OSError:  # nobody reads any more: as with a terminal that is switched off
                self._pending_out = b""
        else:
            self._pending_out = b""
        if self._pending_out:
            # The terminal is read no further until its reader takes this: the guest waits in its own write.
            self._loop.remove_reader(self._master)
            self._loop.add_writer(self._sink or 0, self._flush_out)
            return
        if self._sink is not None:
            self._loop.remove_writer(self._sink)
        self._loop.add_reader(self._master, self._from_guest)

    def _end_output(self) -> None:
        """Close the sink in place, so that its reader comes to the end while its owner keeps the number."""
        if self._sink is not None:
            null = os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC)
            os.dup2(null, self._sink, inheritable=False)
            os.close(null)

    def _to_guest(self) -> None:
        assert self._source is not None
        try:
            data = os.read(self._source, _PIECE)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self._stop(self._source)
            return
        self._pending_in = self._without_signals(data)
        self._flush_in()

    def _flush_in(self) -> None:
        assert self._loop is not None
        assert self._source is not None
        try:
            self._pending_in = self._pending_in[os.write(self._master, self._pending_in) :]
        except BlockingIOError:
            pass
        except OSError:
            self._pending_in = b""
        if self._pending_in:
            self._loop.remove_reader(self._source)
            self._loop.add_writer(self._master, self._flush_in)
            return
        self._loop.remove_writer(self._master)
        self._loop.add_reader(self._source, self._to_guest)

    def _without_signals(self, data: bytes) -> bytes:
        """Take out the characters that mean signals, where the terminal's mode says they do, and send them."""
        mode = termios.tcgetattr(self._master)
        if not mode[3] & termios.ISIG:
            return data
        for index, number in _SIGNALS:
            character = mode[6][index]
            if isinstance(character, bytes) and character in data and character != b"\0":
                data = data.replace(character, b"")
                self.on_signal(number)
        return data
