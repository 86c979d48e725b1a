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

from wasm_sandboxer.bundle.output import Output
from wasm_sandboxer.errors import InvalidArgument

_PIECE = 16 << 10
# Not VSUSP: where no shell looks after a program, the kernel too discards the signal that would freeze it
# (setpgid(2), orphaned process groups).
_SIGNALS = ((termios.VINTR, signal.SIGINT), (termios.VQUIT, signal.SIGQUIT))
_END = b"\x04"  # Ctrl-D: the end of input in the line discipline's own words, at the beginning of a line
_LARGEST = 0xFFFF  # struct winsize has 16 bits for each


class Terminal:
    """Moves a terminal's bytes; on the loop from begin() to close(). The descriptors are its owner's."""

    def __init__(self, master: int, source: int | None, sink: Output | None) -> None:
        """`sink` must not block; its end comes when the guest has ended and all that the terminal held is moved."""
        self._master = master
        self._source = source
        self._sink = sink
        self._loop: asyncio.AbstractEventLoop | None = None
        self._pending_out = b""
        self._pending_in = b""
        self._in_line = False  # the guest's input so far does not end with a line
        self._input_ends = False  # once nothing more is there to be read
        self._input_ended = False
        self.on_signal: Callable[[int], None] = lambda _: None

    def begin(self) -> None:
        """Start moving bytes."""
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(self._master, self._from_guest)
        self._await_input()

    def resize(self, columns: int, rows: int) -> None:
        """Set the window size; raises InvalidArgument for one that no terminal has."""
        if not (0 <= columns <= _LARGEST and 0 <= rows <= _LARGEST):
            raise InvalidArgument(f"a terminal cannot have {columns} columns and {rows} rows")
        fcntl.ioctl(self._master, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def end_input(self) -> None:
        """Let the guest read an end of file, after what was written before."""
        self._input_ends = True
        if self._loop is not None and not self._pending_in:
            self._to_guest()

    def guest_ended(self) -> None:
        """No more comes than what the terminal holds; when that is moved, the output ends."""
        if self._loop is None:
            self._end_output()
            return
        self._stop_input()
        while not self._pending_out and self._from_guest():
            pass

    @property
    def moving(self) -> bool:
        """Whether it holds what it has not moved yet; after guest_ended()."""
        return self._sink is not None

    def close(self) -> None:
        """Stop moving."""
        for fd in (self._master, self._source, self._sink.fd if self._sink is not None else None):
            self._stop(fd)
        self._loop = None

    def _stop(self, fd: int | None) -> None:
        if self._loop is not None and fd is not None:
            self._loop.remove_reader(fd)
            self._loop.remove_writer(fd)

    # ---- from the guest ----

    def _from_guest(self) -> bool:
        """Move what there is; False if there is nothing more, for now or for good."""
        try:
            data = os.read(self._master, _PIECE)
        except BlockingIOError:
            return False
        except OSError:  # EIO: the guest's side is closed and empty
            data = b""
        if not data:
            self._stop(self._master)
            self._end_output()
            return False
        self._pending_out = data
        self._flush_out()
        return True

    def _flush_out(self) -> None:
        assert self._loop is not None
        if self._sink is not None:
            try:
                self._pending_out = self._pending_out[os.write(self._sink.fd, self._pending_out) :]
            except BlockingIOError:
                pass
            except OSError:  # nobody reads any more: as with a terminal that is switched off
                self._pending_out = b""
            if self._pending_out:
                # The terminal is read no further until its reader takes this: the guest waits in its own write.
                self._loop.remove_reader(self._master)
                self._loop.add_writer(self._sink.fd, self._flush_out)
                return
            self._loop.remove_writer(self._sink.fd)
        self._pending_out = b""
        self._loop.add_reader(self._master, self._from_guest)

    def _end_output(self) -> None:
        """Let go of the sink, whose number may soon be another file's."""
        if self._sink is not None:
            self._stop(self._sink.fd)
            self._sink.end()
        self._sink = None

    # ---- to the guest ----

    def _to_guest(self) -> None:
        if self._loop is None or self._pending_in or self._input_ended:
            return
        try:
            data = os.read(self._source, _PIECE) if self._source is not None else b""
        except BlockingIOError:
            if not self._input_ends:
                return
            data = b""
        except OSError:
            data = b""
        if data:
            self._send_signals(data)
            self._in_line = not data.endswith((b"\n", b"\r", _END))
        else:
            self._stop_input()
            # In the midst of a line the first only hands over what there is of it.
            data = _END * 2 if self._in_line else _END
        self._pending_in = data
        self._flush_in()

    def _flush_in(self) -> None:
        assert self._loop is not None
        try:
            self._pending_in = self._pending_in[os.write(self._master, self._pending_in) :]
        except BlockingIOError:
            pass
        except OSError:
            self._pending_in = b""
        if self._pending_in:
            if self._source is not None:
                self._loop.remove_reader(self._source)
            self._loop.add_writer(self._master, self._flush_in)
            return
        self._loop.remove_writer(self._master)
        self._await_input()
        if self._source is not None and self._input_ends:
            self._to_guest()

    def _await_input(self) -> None:
        if self._loop is None or self._source is None:
            return
        try:
            self._loop.add_reader(self._source, self._to_guest)
        except PermissionError:  # epoll_ctl(2): no FIFO but a file, which never keeps anybody waiting
            self._loop.call_soon(self._to_guest)

    def _stop_input(self) -> None:
        self._stop(self._source)
        self._source = None
        self._input_ended = True

    def _send_signals(self, data: bytes) -> None:
        """Send what characters mean signals, where the terminal's mode says they do; the kernel echoes them."""
        mode = termios.tcgetattr(self._master)
        if not mode[3] & termios.ISIG:
            return
        for index, number in _SIGNALS:
            character = mode[6][index]
            if isinstance(character, bytes) and character in data and character != b"\0":
                self.on_signal(number)
